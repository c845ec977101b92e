"""Checkpoints on disk: the only module that knows Orbax.

A run keeps `workdir/checkpoints/<step>`; the step's metadata (see `FORMAT`) is all that is needed to rebuild the
model, so a step directory can be copied away and still be loaded.
"""

import contextlib
import dataclasses
import errno
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
from etils import epath
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from vit_jax.checkpoints.description import upgraded
from vit_jax.checkpoints.digests import differing, digests_of, named_leaves, text_digest
from vit_jax.checkpoints.metadata import problem_with
from vit_jax.checkpoints.remote import forget_listings
from vit_jax.data.files import is_remote
from vit_jax.errors import UserError
from vit_jax.ranges import Count

# Metadata of format 2: "format", "step", "config", "task" ({"name", "kwargs"} or null; the config's model section is
# among its kwargs), "model" (the same of the module that the task has), "fields" (a section, or null for an image and a
# label), "preprocess", "labels", "image_size", "product" ('params' or 'ema'), "versions", "checksums" (see
# `vit_jax.checkpoints.digests`, null where they are off) and "digest" (of all the rest).
# Format 1 has no "task", and "fields" only where the config names them: see `vit_jax.checkpoints.description`.
FORMAT = 2
_STATE = "state"
_MEASURED = "measured.json"  # in a step's directory: the metric that `Policy.best` names, once it is known
_DAMAGED = ".damaged"
_MIN_SLICE_BYTES = 2**20


class DamagedCheckpoint(UserError):
    """A checkpoint that is not what was saved; an older one may be whole."""


@dataclasses.dataclass(frozen=True)
class Policy:
    """Which steps are saved and which of them are kept.

    Args:
        every: save each time so many steps are done; None saves at the end only.
        keep: the newest so many stay.
        best: the name of an evaluation metric ('val/accuracy') whose best checkpoint stays too.
        best_mode: 'max' or 'min'.
        checksums: write a checksum of every array with it, by which damage is noticed when it is loaded.
    """

    every: Count | None = None
    keep: Count = 2
    best: str | None = None
    best_mode: str = "max"
    checksums: bool = True

    def __post_init__(self):
        if self.best_mode not in ("max", "min"):
            raise UserError(f"config.checkpoint.best_mode is {self.best_mode!r}", "It must be 'max' or 'min'")
        if not isinstance(self.checksums, bool):
            raise UserError(f"config.checkpoint.checksums is {self.checksums!r}", "It must be true or false")
        for key in ("every", "keep"):
            value = getattr(self, key)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise UserError(f"config.checkpoint.{key} is {value!r}", "It must be a whole number of at least 1")

    def due(self, step: int) -> bool:
        return self.every is not None and step % self.every == 0


class Store:
    """The checkpoints of one run.

    Raises:
        UserError: the directory of the checkpoints cannot be written.
    """

    def __init__(self, workdir: epath.Path, policy: Policy):
        self.directory = absolute(workdir) / "checkpoints"
        self._policy = policy
        self._steps = set(steps_in(workdir))
        self._measured = {step: value for step in self._steps if (value := self._recorded(step)) is not None}
        self._saving: Any = None
        _check_writable(self.directory)
        _quiet()
        context = ocp.Context()
        # A directory that cannot be made is an error at once; in the background all that wait for it wait for minutes.
        context.async_options.create_directories_asynchronously = False
        # Devices with the same array share its writing by slices, each of which is a program to compile.
        context.array.saving.min_slice_bytes_for_replica_parallel = _MIN_SLICE_BYTES
        self._checkpointer = ocp.training.Checkpointer(
            self.directory, context=context, preservation_policy=_Kept(policy, self._measured),
            cleanup_tmp_directories=True,
        )  # fmt: skip

    def save(self, step: int, state: PyTree, metadata: Mapping[str, Any]) -> None:
        """Starts to write a step; returns while the writing goes on. Errors of the previous one surface here."""
        self.wait()
        complete = {"format": FORMAT, **metadata, "step": step}
        complete["checksums"] = digests_of(state) if self._policy.checksums else None
        complete["digest"] = text_digest(complete)
        self._saving = self._checkpointer.save_async(
            step, state, checkpointable_name=_STATE, force=True, custom_metadata=complete
        )
        self._steps.add(step)

    def record(self, step: int, metrics: Mapping[str, float], failed: Collection[str] = ()) -> None:
        """Notes what was measured after `step`, by which `Policy.best` chooses.

        Args:
            failed: names of evaluators that should have measured something and could not.

        Raises:
            UserError: the metric that it names is not among them.
        """
        best = self._policy.best
        if best is None or step not in self._steps:
            return
        if best not in metrics:
            if best.partition("/")[0] in failed:
                return  # the step stays as one of the newest
            raise UserError(
                f"config.checkpoint.best names {best!r}, which no evaluator measured at step {step}",
                f"Measured: {', '.join(sorted(metrics))}",
            )
        self.wait()
        self._measured[step] = metrics[best]
        if jax.process_index() == 0:
            (self.directory / str(step) / _MEASURED).write_text(json.dumps({best: metrics[best]}) + "\n")

    def wait(self) -> None:
        """Returns when everything is on disk."""
        if self._saving is not None:
            # Its result has to be asked for: that is what ends its thread and closes its event loop.
            saving, self._saving = self._saving, None
            saving.result()

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._checkpointer.close()

    def _recorded(self, step: int) -> float | None:
        path = self.directory / str(step)
        # Where Orbax kept metrics, and runs before this file did.
        for file in (path / _MEASURED, path / "metrics" / "metrics"):
            try:
                values = json.loads(file.read_text())
            except (OSError, ValueError, RecursionError):
                continue
            value = values.get(self._policy.best) if isinstance(values, dict) else None
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return float(value)
        return None


@dataclasses.dataclass(frozen=True)
class _Kept:
    """Orbax asks it, at each save, which steps stay; `measured` grows meanwhile."""

    policy: Policy
    measured: Mapping[int, float] = dataclasses.field(hash=False)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = set(sorted(steps)[-self.policy.keep :])
        if known := [step for step in steps if step in self.measured]:
            sign = 1 if self.policy.best_mode == "max" else -1
            kept.add(max(known, key=lambda step: (sign * self.measured[step], step)))
        return [step in kept for step in steps]


def restore(
    step_path: epath.Path, abstract: PyTree, optional: Collection[str] = (), checksums: bool = True
) -> tuple[PyTree, dict[str, Any]]:
    """The state of a step, with the structure, types and shardings of `abstract`, and its metadata.

    Args:
        optional: top-level keys of `abstract` that an older checkpoint may lack; the state lacks them then too.
        checksums: compare what was read with the checksums that were saved.

    Raises:
        DamagedCheckpoint: incomplete, not what was saved, or with another structure.
    """
    metadata = _read_metadata(step_path)
    with _readable(step_path):
        on_disk = ocp.metadata(step_path, checkpointable_name=_STATE).metadata
    abstract = {key: value for key, value in abstract.items() if key in on_disk or key not in optional}
    there, here = _shapes(on_disk), _shapes(abstract)
    stray = there.items() ^ here.items()
    if stray:
        name = min(stray)[0]
        raise DamagedCheckpoint(
            f"The checkpoint {step_path} is damaged or was written by other code: {name} is "
            f"{there.get(name, 'absent')} there and {here.get(name, 'absent')} here",
            _remedy(step_path),
        )
    with _readable(step_path):
        state = ocp.load(step_path, abstract, checkpointable_name=_STATE)
    if checksums:
        _verify(step_path, state, metadata)
    return state, metadata


def set_aside(step_path: epath.Path) -> epath.Path:
    """Renames a damaged step, so that another can be saved in its place; returns its new path."""
    aside = step_path.parent / (step_path.name + _DAMAGED)
    if aside.exists():
        aside.rmtree()
    return step_path.rename(aside)


def _verify(step_path: epath.Path, state: PyTree, metadata: Mapping[str, Any]) -> None:
    recorded = metadata.get("checksums")
    if recorded is None:  # saved before there were checksums, or with them off
        return
    read = {name for name, _ in named_leaves(state)}
    lost = sorted(name for name in recorded if name.partition("/")[0] in state and name not in read)
    if names := lost + differing(state, recorded):
        raise DamagedCheckpoint(
            f"The checkpoint {step_path} is damaged: {names[0]} is not what was saved", _remedy(step_path)
        )


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
    if is_step(path):
        return path
    workdir = path.parent if path.name == "checkpoints" else path
    if steps := steps_in(workdir):
        return workdir / "checkpoints" / str(steps[-1])
    if path.is_dir() and (path / "checkpoints").is_dir():
        raise UserError(
            f"The run in {path} has not saved a checkpoint yet", "Wait for its first save, or start it again"
        )
    raise UserError(f"{path} is not a checkpoint", "Give a workdir, or a directory checkpoints/<step> in one")


def is_step(path: epath.PathLike) -> bool:
    """Whether `path` is the directory of one step, wherever it was copied to, or what damage has left of one."""
    path = epath.Path(path)
    return path.is_dir() and (
        (path / "_CHECKPOINT_METADATA").exists() or (path.name.isdecimal() and path.parent.name == "checkpoints")
    )


def read_metadata(step_path: epath.Path) -> dict[str, Any]:
    """The metadata of one step directory as the newest format has them, without checksums.

    Raises:
        DamagedCheckpoint: not written by this project, incomplete, not what was saved, or of another step than its name
            says.
        UserError: of a newer format.
    """
    metadata = upgraded(_read_metadata(step_path))
    return {key: value for key, value in metadata.items() if key not in ("checksums", "digest")}


def _read_metadata(step_path: epath.Path) -> dict[str, Any]:
    with _readable(step_path):
        metadata = ocp.metadata(step_path, checkpointable_name=_STATE).custom_metadata
    if not isinstance(metadata, dict) or not isinstance(metadata.get("format"), int):
        raise DamagedCheckpoint(
            f"The checkpoint {step_path} is incomplete or was not written by vit_jax", _remedy(step_path)
        )
    if metadata["format"] > FORMAT:
        raise UserError(
            f"{step_path} has checkpoint format {metadata['format']}; this version reads up to {FORMAT}",
            "Update vit_jax",
        )
    if "digest" in metadata or "checksums" in metadata:
        rest = {key: value for key, value in metadata.items() if key != "digest"}
        if metadata.get("digest") != text_digest(rest):
            raise DamagedCheckpoint(
                f"The checkpoint {step_path} is damaged: its metadata is not what was saved", _remedy(step_path)
            )
    if problem := problem_with(metadata):
        raise DamagedCheckpoint(f"The checkpoint {step_path} is damaged: {problem}", _remedy(step_path))
    step = metadata.get("step")
    if step_path.name.isdecimal() and step_path.parent.name == "checkpoints" and str(step) != step_path.name:
        raise DamagedCheckpoint(f"The checkpoint {step_path} is that of step {step}", "Give it its name back")
    return metadata


def read_params(step_path: epath.Path, product: str | None = None, checksums: bool = True) -> tuple[dict, dict]:
    """Parameters and model state of a step, on the first device, without reading the optimizer's state.

    Args:
        product: 'params' or 'ema'; by default what the metadata names.
        checksums: compare what was read with the checksums that were saved.

    Returns:
        (params, model_state) as nested dicts of arrays; of the moving average both are averages.

    Raises:
        DamagedCheckpoint: incomplete, or not what was saved.
    """
    metadata = _read_metadata(step_path)
    product = product or metadata["product"]
    with _readable(step_path):
        on_disk = ocp.metadata(step_path, checkpointable_name=_STATE).metadata
        wanted = {"params": on_disk["params"]}
        if product == "ema":
            wanted["ema"] = on_disk["ema"]
        # An older checkpoint has no average of the model state, others of a part of it.
        for key in ("model_state", *(("ema_model_state",) if product == "ema" else ())):
            if key in on_disk:
                wanted[key] = on_disk[key]
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), wanted)
        context = ocp.Context()
        context.pytree.loading.partial_load = True
        with context:
            loaded = ocp.load(step_path, wanted, checkpointable_name=_STATE)
    # A partial load answers a key that is not on disk with its own placeholder instead of an error.
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(loaded)):
        raise DamagedCheckpoint(
            f"The checkpoint {step_path} lacks parameters that its metadata lists", _remedy(step_path)
        )
    if checksums:
        _verify(step_path, loaded, metadata)
    params = _overlay(loaded["params"], loaded["ema"]) if product == "ema" else loaded["params"]
    return params, _overlay(loaded.get("model_state", {}), loaded.get("ema_model_state", {}))


def _overlay(params: dict, ema: dict) -> dict:
    """`params` with the leaves that `ema` has: not all need to have a moving average."""
    return {k: (_overlay(v, ema[k]) if isinstance(v, dict) else ema[k]) if k in ema else v for k, v in params.items()}


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in named_leaves(tree)}


def _check_writable(directory: epath.Path) -> None:
    """Orbax would wait for minutes for what it cannot make."""
    if is_remote(directory) or jax.process_index() != 0:
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # said in another place, which knows the workdir
            raise
        raise UserError(
            f"{directory} cannot be written: {error.strerror}", "Make it writable, or use another --workdir"
        ) from None


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
        raise DamagedCheckpoint(f"The checkpoint {step_path} is incomplete or damaged", _remedy(step_path)) from error
    finally:
        logging.disable(disabled)


def _remedy(step_path: epath.Path) -> str:
    others = [s for s in steps_in(step_path.parent.parent) if str(s) != step_path.name]
    if others:
        return f"Step {others[-1]} is there too: {step_path.parent / str(others[-1])}"
    return "Use another checkpoint, or start again in a new workdir"


def _quiet() -> None:
    """Orbax logs every file through absl, and an error in each thread that it passes through before it is raised."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
