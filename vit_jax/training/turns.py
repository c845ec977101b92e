"""Groups of parameters that do not learn in every step: a generator beside its discriminator, or layers that are
unfrozen one after the other."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import jax
import optax

from vit_jax.errors import UserError
from vit_jax.naming import construct
from vit_jax.ranges import Count, Natural
from vit_jax.training.schedules import Extensions, Schedule

Step = TypeVar("Step", int, jax.Array)


@dataclasses.dataclass(frozen=True)
class Turns:
    """In which steps of a run a group learns.

    Args:
        every: in one of so many steps, ...
        offset: ... those that leave this when they are divided by `every`, counted from 0.
        schedule_counts: what its schedules are laid out over: the group's own "updates", or the run's "steps".
        from_step: not before this step, counted from 0. Gradual unfreezing: the head learns from the start, and each
            layer later than the one above it (Howard and Ruder, "Universal Language Model Fine-tuning for Text
            Classification", arXiv:1801.06146, section 3.3, with an epoch between them).
    """

    every: Count = 1
    offset: Natural = 0
    schedule_counts: Literal["updates", "steps"] = "updates"
    from_step: Natural = 0

    @property
    def first(self) -> int:
        """The first step of a run in which it learns, counted from 0."""
        return self.from_step + (self.offset - self.from_step) % self.every

    def learns(self, step: Step) -> Step:
        """Whether it learns in a step; traceable."""
        return (step >= self.from_step) & (step % self.every == self.offset)

    def counted(self, step: int) -> int:
        """What a schedule counts before a step of the run."""
        if self.schedule_counts == "steps":
            return step
        return max(0, -((self.first - step) // self.every))

    def extensions(self, extensions: Extensions) -> Extensions:
        """The same of how the run came to its length."""
        return tuple((self.counted(at), self.counted(before)) for at, before in extensions)

    def schedule(self, schedule: Schedule) -> Schedule:
        """A schedule of what is counted, as a function of the run's steps."""
        return lambda step: schedule(self.counted(step))

    def taken_by(self, tx: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
        """`tx` in the group's steps; in the others it changes nothing, and nothing of it changes."""
        if self.every == 1 and not self.from_step:
            return tx
        return optax.conditionally_mask(tx, self.learns)


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
    if turns.first >= steps:
        raise UserError(
            f"{where} would first learn in step {turns.first}, counted from 0, of a run of {steps}",
            f"Lower its {'from_step' if turns.from_step else 'offset'}",
        )
    return turns, {key: value for key, value in group.items() if key not in TURNS}


def check_turns(turns: Sequence[Turns], steps: int) -> None:
    """Refuses, with a UserError, groups of which none learns in some step."""
    period = math.lcm(*(each.every for each in turns))
    # Between two steps from which more groups learn, what learns repeats.
    begins = sorted({0, *(each.from_step for each in turns)})
    stretches = (range(a, min(b, a + period)) for a, b in itertools.pairwise([*begins, steps]))
    for step in itertools.chain.from_iterable(stretches):
        if not any(each.learns(step) for each in turns):
            raise UserError(
                f"No group of config.optim.groups learns in step {step}, counted from 0",
                "Change 'every', 'offset' and 'from_step' so that each step has a group",
            )
