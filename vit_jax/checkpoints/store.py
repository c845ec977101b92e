"""Checkpoints on disk: the only module that knows Orbax.

A run keeps `workdir/checkpoints/<step>`; the step's metadata (see `FORMAT`) is all that is needed to rebuild the
model, so a step directory can be copied away and still be loaded.
"""

import contextlib
import dataclasses
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from etils import epath
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from vit_jax.checkpoints.remote import forget_listings
from vit_jax.data.files import is_remote
from vit_jax.errors import UserError
from vit_jax.ranges import Count

# Metadata of format 1: "format", "step", "config", "model" ({"name", "kwargs"} or null), "preprocess", "labels",
# "image_size", "product" ('params' or 'ema'), "frozen" (patterns), "versions".
FORMAT = 1
_STATE = "state"


@dataclasses.dataclass(frozen=True)
class Policy:
    """Which steps are saved and which of them are kept.

    Args:
        every: save each time so many steps are done; None saves at the end only.
        keep: the newest so many stay.
        best: the name of an evaluation metric ('val/accuracy') whose best checkpoint stays too.
        best_mode: 'max' or 'min'.
    """

    every: Count | None = None
    keep: Count = 2
    best: str | None = None
    best_mode: str = "max"

    def __post_init__(self):
        if self.best_mode not in ("max", "min"):
            raise UserError(f"config.checkpoint.best_mode is {self.best_mode!r}", "It must be 'max' or 'min'")
        for key in ("every", "keep"):
            value = getattr(self, key)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise UserError(f"config.checkpoint.{key} is {value!r}", "It must be a whole number of at least 1")

    def due(self, step: int) -> bool:
        return self.every is not None and step % self.every == 0


class Store:
    """The checkpoints of one run."""

    def __init__(self, workdir: epath.Path, policy: Policy):
        policies = ocp.training.preservation_policies
        keep = [policies.LatestN(policy.keep)]
        if policy.best:
            keep.append(
                policies.BestN(
                    get_metric_fn=lambda metrics: metrics[policy.best],
                    reverse=policy.best_mode == "min",
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        self.directory = absolute(workdir) / "checkpoints"
        self._best = policy.best
        _quiet()
        self._checkpointer = ocp.training.Checkpointer(
            self.directory, preservation_policy=policies.AnyPreservationPolicy(keep), cleanup_tmp_directories=True
        )

    def save(self, step: int, state: PyTree, metadata: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Starts to write a step; returns while the writing goes on. Errors of the previous one surface here."""
        # A save on Ctrl-C may come before the first evaluation; it stays as one of the newest.
        if self._best and metrics and self._best not in metrics:
            raise UserError(
                f"config.checkpoint.best names {self._best!r}, which no evaluator measured at step {step}",
                f"Measured: {', '.join(sorted(metrics))}",
            )
        metrics = {self._best: metrics[self._best]} if self._best and metrics else None
        self._checkpointer.save_async(
            step, state, checkpointable_name=_STATE, force=True, metrics=metrics,
            custom_metadata={"format": FORMAT, "step": step, **metadata},
        )  # fmt: skip

    def wait(self) -> None:
        """Returns when everything is on disk."""
        self._checkpointer.wait()

    def close(self) -> None:
        self._checkpointer.close()

    def restore(self, step: int, abstract: PyTree) -> PyTree:
        """The state of a step, with the structure, types and shardings of `abstract`."""
        path = self.directory / str(step)
        read_metadata(path)
        with _readable(path):
            on_disk = ocp.metadata(path, checkpointable_name=_STATE).metadata
        there, here = _shapes(on_disk), _shapes(abstract)
        stray = there.items() ^ here.items()
        if stray:
            name = min(stray)[0]
            raise UserError(
                f"The checkpoint {path} is damaged or was written by other code: {name} is {there.get(name, 'absent')} "
                f"there and {here.get(name, 'absent')} here",
                _remedy(path),
            )
        with _readable(path):
            return ocp.load(path, abstract, checkpointable_name=_STATE)


def absolute(path: epath.PathLike) -> epath.Path:
    """`path` as Orbax needs it: local paths made absolute, 'gs://...' as it is."""
    path = epath.Path(path)
    return path if is_remote(path) else epath.Path(os.path.abspath(path))


def steps_in(workdir: epath.PathLike) -> list[int]:
    """The steps that a run has saved, oldest first."""
    directory = epath.Path(workdir) / "checkpoints"
    forget_listings(directory)
    if not directory.is_dir():
        return []
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdecimal() and _is_whole(p))


def _is_whole(step_path: epath.Path) -> bool:
    """Locally a step gets its name when it is complete; on an object store, which renames nothing, a last file."""
    return step_path.is_dir() and (
        not os.fspath(step_path).startswith("gs://") or (step_path / "commit_success.txt").exists()
    )


def find(path: epath.PathLike) -> epath.Path:
    """The step directory that `path` means: itself, or the newest step of a workdir."""
    path = absolute(path)
    if not path.exists():
        raise UserError(f"There is no checkpoint at {path}", "Give a workdir, or a directory checkpoints/<step> in one")
    workdir = path.parent if path.name == "checkpoints" else path
    if steps := steps_in(workdir):
        return workdir / "checkpoints" / str(steps[-1])
    if path.is_dir() and path.name.isdecimal():
        return path
    if path.is_dir() and (path / "checkpoints").is_dir():
        raise UserError(
            f"The run in {path} has not saved a checkpoint yet", "Wait for its first save, or start it again"
        )
    raise UserError(f"{path} is not a checkpoint", "Give a workdir, or a directory checkpoints/<step> in one")


def read_metadata(step_path: epath.Path) -> dict[str, Any]:
    """The metadata of one step directory.

    Raises:
        UserError: not written by this project, incomplete, or of a newer format.
    """
    with _readable(step_path):
        metadata = ocp.metadata(step_path, checkpointable_name=_STATE).custom_metadata
    if not isinstance(metadata, dict) or "format" not in metadata:
        raise UserError(f"The checkpoint {step_path} is incomplete or was not written by vit_jax", _remedy(step_path))
    if metadata["format"] > FORMAT:
        raise UserError(
            f"{step_path} has checkpoint format {metadata['format']}; this version reads up to {FORMAT}",
            "Update vit_jax",
        )
    return metadata


def read_params(step_path: epath.Path, product: str | None = None) -> tuple[dict, dict]:
    """Parameters and model state of a step, on the first device, without reading the optimizer's state.

    Args:
        product: 'params' or 'ema'; by default what the metadata names.

    Returns:
        (params, model_state) as nested dicts of arrays.
    """
    product = product or read_metadata(step_path)["product"]
    with _readable(step_path):
        on_disk = ocp.metadata(step_path, checkpointable_name=_STATE).metadata
        wanted = {k: on_disk[k] for k in ("params", "model_state") if k in on_disk}
        if product == "ema":
            wanted["ema"] = on_disk["ema"]
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), wanted)
        context = ocp.Context()
        context.pytree.loading.partial_load = True
        with context:
            loaded = ocp.load(step_path, wanted, checkpointable_name=_STATE)
    # A partial load answers a key that is not on disk with its own placeholder instead of an error.
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(loaded)):
        raise UserError(f"The checkpoint {step_path} lacks parameters that its metadata lists", _remedy(step_path))
    params = _overlay(loaded["params"], loaded["ema"]) if product == "ema" else loaded["params"]
    return params, loaded.get("model_state", {})


def _overlay(params: dict, ema: dict) -> dict:
    """`params` with the leaves that `ema` has (frozen parameters have no moving average)."""
    return {k: (_overlay(v, ema[k]) if isinstance(v, dict) else ema[k]) if k in ema else v for k, v in params.items()}


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@contextlib.contextmanager
def _readable(step_path: epath.Path) -> Iterator[None]:
    """Turns Orbax's many ways to fail on a damaged directory into one sentence, without its logs and stray tasks."""
    if not step_path.is_dir():
        raise UserError(f"There is no checkpoint at {step_path}", "Give a workdir, or a directory checkpoints/<step>")
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sharding info not provided")
            warnings.filterwarnings("ignore", message="coroutine .* was never awaited")
            yield
    except UserError:
        raise
    except Exception as error:  # Orbax raises ValueError, KeyError, OSError and plain Exception for damaged files
        raise UserError(f"The checkpoint {step_path} is incomplete or damaged", _remedy(step_path)) from error
    finally:
        logging.disable(disabled)


def _remedy(step_path: epath.Path) -> str:
    others = [s for s in steps_in(step_path.parent.parent) if str(s) != step_path.name]
    if others:
        return f"Remove that directory to continue from step {others[-1]}"
    return "Remove that directory and start again, or use another checkpoint"


def _quiet() -> None:
    """Orbax logs every file through absl, and an error in each thread that it passes through before it is raised."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
