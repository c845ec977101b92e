"""Where a run goes on: from the newest checkpoint that is whole, with schedules that do not jump."""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
from etils import epath
from jaxtyping import PyTree

from vit_jax.checkpoints.damaged import DamagedCheckpoint
from vit_jax.checkpoints.source import based_params, nested
from vit_jax.checkpoints.steps import steps_in
from vit_jax.checkpoints.store import read_metadata, restore, set_aside
from vit_jax.checkpoints.subtrees import mask_of, merge, split
from vit_jax.errors import UserError
from vit_jax.training.config import RunConfig
from vit_jax.training.distributed import agreed, in_any, is_lead
from vit_jax.training.schedules import Extensions, follows_length
from vit_jax.training.sharding import place
from vit_jax.training.state import State

# What a checkpoint that was saved by an older version may lack.
_OPTIONAL = ("ema_model_state",)


@dataclasses.dataclass(frozen=True)
class Resumed:
    """What a checkpoint says.

    Args:
        step: after which it was saved.
        state: on the mesh.
        metadata: see `vit_jax.checkpoints.store`.
    """

    step: int
    state: State
    metadata: Mapping[str, Any]


def resume(
    workdir: epath.Path,
    newest: int,
    abstract: PyTree,
    fresh_average: Callable[[State], dict[str, Any]],
    checksums: bool,
) -> Resumed:
    """Restores step `newest`, or the newest one before it that is whole; to be called in all processes.

    Damaged ones are renamed, so that the run can save these steps anew.

    Args:
        abstract: shapes, types and shardings of the state.
        fresh_average: the keys of the moving average as it starts, from a state.
        checksums: compare what is read with the checksums that were saved.

    Raises:
        UserError: what is wrong with the newest one, where none is whole.
    """
    first: UserError | None = None
    damaged: list[tuple[epath.Path, str]] = []
    for step in [s for s in reversed(steps_in(workdir)) if s <= newest]:
        path = workdir / "checkpoints" / str(step)
        found, error = agreed(lambda path=path: _attempt(path, abstract, checksums))
        if not in_any(error is not None):
            break
        error = error or DamagedCheckpoint(f"The checkpoint {path} is damaged", "Another process says how")
        first = first or error
        damaged.append((path, error.what))
    else:
        raise first
    for path, what in damaged:
        if is_lead():
            aside = set_aside(path)
            print(f"{what}; it is now {aside.name}, and the run goes on from step {step}", file=sys.stderr)
    agreed(lambda: None)  # nobody saves before it is out of the way
    state, metadata = found
    lacking = [key for key in abstract if key not in state]
    if lacking:
        fresh = fresh_average(state)
        state = state | {key: fresh[key] for key in lacking}
        if is_lead():
            print(
                f"The checkpoint of step {step} was saved by an older version, which did not average running "
                "statistics: their average starts from those of this step",
                file=sys.stderr,
            )
    return Resumed(step, state, metadata)


def _attempt(
    path: epath.Path, abstract: PyTree, checksums: bool
) -> tuple[tuple[State, dict[str, Any]] | None, DamagedCheckpoint | None]:
    try:
        bases = read_metadata(path).get("bases")
        if not bases:
            return restore(path, abstract, _OPTIONAL, checksums), None
        based = nested(based_params(bases, path))
        params, elsewhere = split(abstract["params"], mask_of(abstract["params"], based))
        state, metadata = restore(path, {**abstract, "params": params}, _OPTIONAL, checksums)
        placed = jax.tree.map(lambda leaf, value: place(value, leaf.sharding), elsewhere, based)
        return ({**state, "params": merge(state["params"], placed)}, metadata), None
    except DamagedCheckpoint as error:
        return None, error


def extensions(resumed: Resumed, config: RunConfig, values: Mapping[str, Any], extend: bool) -> Extensions:
    """How the schedules are laid out from here on: as the run was, unless it is to be longer and may be.

    Args:
        config: of this run, durations in steps.
        values: the same as plain values.
        extend: `--extend`.

    Raises:
        UserError: another length that would change the schedules.
    """
    before, known = _length(resumed.metadata, config, values)
    if before == config.steps or not follows_length(config.optim, config.average and config.average.decay):
        return known
    what = f"The schedules of this run are laid out over {before} steps, and config.steps is {config.steps}"
    if config.steps < before:
        raise UserError(what, f"Set config.stop_at={config.steps} to stop earlier, or use a new --workdir")
    if not extend:
        raise UserError(
            what, "--extend stretches what is left of them over what is left of the run then; or use a new --workdir"
        )
    if is_lead():
        left = (
            f"what is left of the schedules is stretched over {config.steps - resumed.step} steps"
            if resumed.step < before
            else "its schedules are over, and stay at their end"
        )
        print(f"Extended at step {resumed.step} from {before} to {config.steps} steps: {left}", file=sys.stderr)
    return (*known, (resumed.step, before))


def _length(metadata: Mapping[str, Any], config: RunConfig, values: Mapping[str, Any]) -> tuple[int, Extensions]:
    if length := metadata.get("length"):
        return length["steps"], tuple((at, before) for at, before in length["extensions"])
    # Older checkpoints have the config alone.
    stored = metadata["config"].get("steps")
    if stored == values.get("steps"):
        return config.steps, ()
    if isinstance(stored, int):
        return stored, ()
    raise UserError(
        f"This run's length is {stored} in its checkpoint and {values.get('steps')} here", "Give it as it was"
    )
