"""Groups of parameters that do not learn in every step, such as a generator beside its discriminator."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import optax

from vit_jax.errors import UserError
from vit_jax.naming import construct
from vit_jax.ranges import Count, Natural
from vit_jax.training.schedules import Extensions, Schedule


@dataclasses.dataclass(frozen=True)
class Turns:
    """In which steps of a run a group learns.

    Args:
        every: in one of so many steps, ...
        offset: ... those that leave this when they are divided by `every`, counted from 0.
        schedule_counts: what its schedules are laid out over: the group's own "updates", or the run's "steps".
    """

    every: Count = 1
    offset: Natural = 0
    schedule_counts: Literal["updates", "steps"] = "updates"

    def counted(self, step: int) -> int:
        """What a schedule counts before a step of the run."""
        if self.schedule_counts == "steps":
            return step
        return max(0, -((self.offset - step) // self.every))

    def extensions(self, extensions: Extensions) -> Extensions:
        """The same of how the run came to its length."""
        return tuple((self.counted(at), self.counted(before)) for at, before in extensions)

    def schedule(self, schedule: Schedule) -> Schedule:
        """A schedule of what is counted, as a function of the run's steps."""
        return lambda step: schedule(self.counted(step))

    def taken_by(self, tx: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
        """`tx` in the group's steps; in the others it changes nothing, and nothing of it changes."""
        if self.every == 1:
            return tx
        return optax.conditionally_mask(tx, lambda step: step % self.every == self.offset)


TURNS = tuple(field.name for field in dataclasses.fields(Turns))


def turns_of(group: Mapping[str, Any], steps: int, where: str) -> tuple[Turns, dict[str, Any]]:
    """The turns that a section of `config.optim.groups` says, and what is left of it.

    Raises:
        UserError: for an offset that no division by `every` leaves, or a group that never learns in so many steps.
    """
    turns = construct(Turns, {key: group[key] for key in TURNS if key in group}, where)
    if turns.offset >= turns.every:
        raise UserError(
            f"{where}.offset is {turns.offset}, and steps divided by every={turns.every} leave at most"
            f" {turns.every - 1}",
            "Lower it, or raise 'every'",
        )
    if turns.offset >= steps:
        raise UserError(
            f"{where} would first learn in step {turns.offset}, counted from 0, of a run of {steps}", "Lower its offset"
        )
    return turns, {key: value for key, value in group.items() if key not in TURNS}


def check_turns(turns: Sequence[Turns], steps: int) -> None:
    """Refuses, with a UserError, groups of which none learns in some step."""
    period = min(steps, math.lcm(*(each.every for each in turns)))
    idle = (step for step in range(period) if all(step % each.every != each.offset for each in turns))
    if (step := next(idle, None)) is not None:
        raise UserError(
            f"No group of config.optim.groups learns in step {step}, counted from 0",
            "Change 'every' and 'offset' so that each step has a group",
        )
