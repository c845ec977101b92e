"""Checkpoints on disk: the only module, with `vit_jax.checkpoints.frozen`, that knows Orbax.

A run keeps `workdir/checkpoints/<step>`; the step's metadata (see `FORMAT`) is all that is needed to rebuild the
model, so a step directory can be copied away and still be loaded. Frozen parameters are the same in every step: they
are in `workdir/checkpoints/frozen-<digest>`, which the metadata name, and which has to be copied with a step.
"""

import errno
import json
import logging
import tempfile
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from vit_jax.checkpoints.base import Base
from vit_jax.checkpoints.damaged import DamagedCheckpoint, readable, remedy
from vit_jax.checkpoints.description import upgraded
from vit_jax.checkpoints.digests import differing, digests_of, named_leaves, text_digest
from vit_jax.checkpoints.frozen import STATE, frozen_folder, frozen_metadata, read_frozen, save_frozen
from vit_jax.checkpoints.metadata import problem_with
from vit_jax.checkpoints.policy import Kept, Policy
from vit_jax.checkpoints.steps import absolute, is_whole, steps_in
from vit_jax.checkpoints.subtrees import mask_of, merge, split
from vit_jax.data.files import is_remote
from vit_jax.errors import UserError

# Metadata of format 2: "format", "step", "config", "task" ({"name", "kwargs"} or null; the config's model section is
# among its kwargs), "model" (the same of the module that the task has), "fields" (a section, or null for an image and a
# label), "preprocess", "labels", "image_size", "product" ('params' or 'ema'), "versions", "frozen_in" (the folder
# beside the step that has its frozen parameters, null where they are in the step), "checksums" (see
# `vit_jax.checkpoints.digests`, null where they are off) and "digest" (of all the rest). What a run loaded from the hub
# is under "loaded_from": addresses with their commits.
# Format 3 is format 2 of what adapters learned: "bases" (see `vit_jax.checkpoints.base`: a list of where those frozen
# parameters are that are neither in the step nor in "frozen_in") and "lora" (see `vit_jax.nn.lora.LoRA`: what is to be
# added to the kernels). Steps without either are written as format 2.
# Format 1 has no "task" and no "frozen_in", and "fields" only where the config names them: see
# `vit_jax.checkpoints.description`.
FORMAT = 3
_MEASURED = "measured.json"  # in a step's directory: the metric that `Policy.best` names, once it is known
_DAMAGED = ".damaged"
_MIN_SLICE_BYTES = 2**20


class Store:
    """The checkpoints of one run.

    Args:
        frozen: mask over `state["params"]`; its leaves never change and are written once. None: all are in every step.
        frozen_in: the folder that has them already, as the metadata of the step say that the run goes on from.
        bases: of the run, which have some of them.

    Raises:
        UserError: the directory of the checkpoints cannot be written.
    """

    def __init__(
        self,
        workdir: epath.Path,
        policy: Policy,
        frozen: PyTree | None = None,
        frozen_in: str | None = None,
        bases: Sequence[Base] = (),
    ):
        self._frozen, self._frozen_in, self._bases = frozen, frozen_in, bases
        self.directory = absolute(workdir) / "checkpoints"
        self._policy = policy
        self._steps = set(steps_in(workdir))
        self._measured = {step: value for step in self._steps if (value := self._recorded(step)) is not None}
        self._saving: Any = None
        _check_writable(self.directory)
        _quiet()
        self._context = context = ocp.Context()
        # A directory that cannot be made is an error at once; in the background all that wait for it wait for minutes.
        context.async_options.create_directories_asynchronously = False
        # Devices with the same array share its writing by slices, each of which is a program to compile.
        context.array.saving.min_slice_bytes_for_replica_parallel = _MIN_SLICE_BYTES
        self._checkpointer: ocp.training.Checkpointer | None = None

    def save(self, step: int, state: PyTree, metadata: Mapping[str, Any]) -> None:
        """Starts to write a step; returns while the writing goes on. Errors of the previous one surface here."""
        self.wait()
        complete = {"format": 2, **metadata, "step": step, "frozen_in": None}
        if self._bases:
            complete["bases"] = [base.to_json() for base in self._bases]
        if "bases" in complete or "lora" in complete:
            complete["format"] = FORMAT
        if self._frozen is not None and any(jax.tree.leaves(self._frozen)):
            trained, fixed = split(state["params"], self._frozen)
            state = {**state, "params": trained}
            elsewhere = {name for base in self._bases for name in base.names}
            fixed, _ = split(fixed, jax.tree.map_with_path(lambda path, _: _name(path) in elsewhere, fixed))
            complete["frozen_in"] = self._keep_frozen(fixed) if fixed else None
        complete["checksums"] = digests_of(state) if self._policy.checksums else None
        complete["digest"] = text_digest(complete)
        if self._checkpointer is None:
            # Not sooner: it begins to remove what is unfinished here, in the background, waits for that before its own
            # saves alone, and would take the folder of the frozen parameters for such.
            self._checkpointer = ocp.training.Checkpointer(
                self.directory, context=self._context, preservation_policy=Kept(self._policy, self._measured),
                cleanup_tmp_directories=True,
            )  # fmt: skip
        self._saving = self._checkpointer.save_async(
            step, state, checkpointable_name=STATE, force=True, custom_metadata=complete
        )
        self._steps.add(step)

    def _keep_frozen(self, params: PyTree) -> str:
        """The folder of the frozen parameters, which is on disk before the first step that names it.

        It is written again if somebody removes it while the run goes on.
        """
        there = self._frozen_in is not None and is_whole(self.directory / self._frozen_in)
        if jax.process_count() > 1:
            there = bool(multihost_utils.broadcast_one_to_all(np.int32(there)))
        if not there:
            self._frozen_in = save_frozen(self.directory, params, self._context)
        return self._frozen_in

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
            if self._checkpointer is not None:
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


def restore(
    step_path: epath.Path, abstract: PyTree, optional: Collection[str] = (), checksums: bool = True
) -> tuple[PyTree, dict[str, Any]]:
    """The state of a step, with the structure, types and shardings of `abstract`, and its metadata.

    Args:
        optional: top-level keys of `abstract` that an older checkpoint may lack; the state lacks them then too.
        checksums: compare what was read with the checksums that were saved.

    Raises:
        DamagedCheckpoint: incomplete, not what was saved, or with another structure.
        UserError: the folder of the frozen parameters is missing, incomplete or not what was saved.
    """
    step_path = absolute(step_path)  # of a relative path Orbax finds no arrays
    metadata, on_disk = _described(step_path)
    folder = frozen_folder(step_path, metadata)
    fixed = frozen_metadata(folder)
    on_disk = {**on_disk, "params": merge(on_disk.get("params", {}), fixed)}
    abstract = {key: value for key, value in abstract.items() if key in on_disk or key not in optional}
    there, here = _shapes(on_disk), _shapes(abstract)
    stray = there.items() ^ here.items()
    if stray:
        name = min(stray)[0]
        raise DamagedCheckpoint(
            f"The checkpoint {step_path} is damaged or was written by other code: {name} is "
            f"{there.get(name, 'absent')} there and {here.get(name, 'absent')} here",
            remedy(step_path),
        )
    with readable(step_path):
        trained, fixed = split(abstract["params"], mask_of(abstract["params"], fixed))
        state = ocp.load(step_path, {**abstract, "params": trained}, checkpointable_name=STATE)
    if checksums:
        _verify(step_path, state, metadata)
    return {**state, "params": merge(state["params"], read_frozen(folder, fixed, checksums))}, metadata


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
            f"The checkpoint {step_path} is damaged: {names[0]} is not what was saved", remedy(step_path)
        )


def read_metadata(step_path: epath.Path) -> dict[str, Any]:
    """The metadata of one step directory as the newest format has them, without checksums.

    Raises:
        DamagedCheckpoint: not written by this project, incomplete, not what was saved, or of another step than its name
            says.
        UserError: of a newer format.
    """
    metadata, hidden = upgraded(_described(step_path)[0]), ("checksums", "digest", "frozen_in")
    return {key: value for key, value in metadata.items() if key not in hidden}


def _described(step_path: epath.Path) -> tuple[dict[str, Any], PyTree]:
    """The metadata as they were saved, and what lies on disk of the state."""
    with readable(step_path):
        found = ocp.metadata(step_path, checkpointable_name=STATE)
    metadata = found.custom_metadata
    if not isinstance(metadata, dict) or not isinstance(metadata.get("format"), int):
        raise DamagedCheckpoint(
            f"The checkpoint {step_path} is incomplete or was not written by vit_jax", remedy(step_path)
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
                f"The checkpoint {step_path} is damaged: its metadata is not what was saved", remedy(step_path)
            )
    if problem := problem_with(metadata):
        raise DamagedCheckpoint(f"The checkpoint {step_path} is damaged: {problem}", remedy(step_path))
    step = metadata.get("step")
    if step_path.name.isdecimal() and step_path.parent.name == "checkpoints" and str(step) != step_path.name:
        raise DamagedCheckpoint(f"The checkpoint {step_path} is that of step {step}", "Give it its name back")
    return metadata, found.metadata


def read_params(step_path: epath.Path, product: str | None = None, checksums: bool = True) -> tuple[dict, dict]:
    """Parameters and model state of a step, on the first device, without reading the optimizer's state.

    Args:
        product: 'params' or 'ema'; by default what the metadata names.
        checksums: compare what was read with the checksums that were saved.

    Returns:
        (params, model_state) as nested dicts of arrays; of the moving average both are averages.

    Raises:
        DamagedCheckpoint: incomplete, or not what was saved.
        UserError: the folder of the frozen parameters is missing, incomplete or not what was saved.
    """
    step_path = absolute(step_path)
    metadata, on_disk = _described(step_path)
    folder = frozen_folder(step_path, metadata)
    product = product or metadata["product"]
    with readable(step_path):
        wanted = {"params": on_disk["params"]}
        if product == "ema":
            wanted["ema"] = on_disk["ema"]
        # An older checkpoint has no average of the model state, others of a part of it.
        for key in ("model_state", *(("ema_model_state",) if product == "ema" else ())):
            if key in on_disk:
                wanted[key] = on_disk[key]
        wanted = _on_one_device(wanted)
        context = ocp.Context()
        context.pytree.loading.partial_load = True
        with context:
            loaded = ocp.load(step_path, wanted, checkpointable_name=STATE)
    # A partial load answers a key that is not on disk with its own placeholder instead of an error.
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(loaded)):
        raise DamagedCheckpoint(
            f"The checkpoint {step_path} lacks parameters that its metadata lists", remedy(step_path)
        )
    if checksums:
        _verify(step_path, loaded, metadata)
    fixed = read_frozen(folder, _on_one_device(frozen_metadata(folder)), checksums)
    # Not all that is trained needs to have a moving average.
    params = merge(merge(loaded["params"], fixed), loaded.get("ema", {}))
    return params, merge(loaded.get("model_state", {}), loaded.get("ema_model_state", {}))


def _on_one_device(on_disk: PyTree) -> PyTree[jax.ShapeDtypeStruct]:
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), on_disk)


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


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


def _quiet() -> None:
    """Orbax logs every file through absl, and an error in each thread that it passes through before it is raised."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
