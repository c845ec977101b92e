"""Durations in a config: a number of optimizer steps, or a section with one of `steps`, `epochs` and `examples`.

`config.steps = dict(epochs=90)` and `--config.optim.schedule.warmup_steps.examples=1e6` say how a duration is counted;
the key's own name says what it becomes. `build_experiment` turns all of them into steps, once, from the length of the
training source and the batch size; what is stored is what was written.
"""

from collections.abc import Mapping
from typing import Any

from vit_jax.errors import UserError
from vit_jax.naming import nearest
from vit_jax.ranges import Count, check_value

UNITS = ("steps", "epochs", "examples")
_ENDLESS = 2**31  # steps are counted in an int32
# Keys below config.checkpoint, config.evals, config.optim and config.task that hold a duration, like all that end as
# 'warmup_steps' does.
_KEYS = ("every", "after", "timescale")
_ENDING = "_steps"


def is_duration(value: Any) -> bool:
    """Whether a config value is a duration in the form of a section."""
    return isinstance(value, Mapping) and bool(value) and set(value) <= set(UNITS)


def check_duration(value: Any, where: str) -> None:
    """Refuses what is neither a whole number of steps from 1 up nor a section that counts some."""
    if not isinstance(value, Mapping):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < _ENDLESS:
            raise UserError(f"{where} is {value!r}", "It must be a whole number of at least 1, or count epochs=...")
        return
    for unit in value:
        if unit not in UNITS:
            raise UserError(f"{where} cannot be counted in {unit!r}", nearest(unit, UNITS))
    if len(value) != 1:
        raise UserError(
            f"{where} is counted in {' and '.join(value) or 'nothing'}", "Give one of steps, epochs, examples"
        )
    [(unit, count)] = value.items()
    if isinstance(count, bool) or not isinstance(count, (int, float)) or not 0 < count < float("inf"):
        raise UserError(f"{where}.{unit} is {count!r}", "It must be a number above 0")


def in_steps(value: Any, where: str, examples: int, batch_size: int) -> int:
    """A duration as optimizer steps, rounded, at least 1.

    Args:
        value: as `check_duration` takes it.
        where: the key's name, for errors.
        examples: length of the training source, which is one epoch.
    """
    check_duration(value, where)
    if not isinstance(value, Mapping):
        return value
    [(unit, count)] = value.items()
    per_step = {"steps": 1, "epochs": batch_size / examples, "examples": batch_size}[unit]
    steps = count / per_step
    if not steps < _ENDLESS:
        raise UserError(f"{where} is {steps:.3g} steps", "It must be below 2 billion")
    return max(1, round(steps))


def sections_in_steps(section: Mapping[str, Any], where: str, examples: int, batch_size: int) -> dict[str, Any]:
    """A section in which every duration, at any depth, is a number of steps."""

    def resolved(key: str, value: Any) -> Any:
        if (key in _KEYS or key.endswith(_ENDING)) and isinstance(value, Mapping):
            return in_steps(value, f"{where}.{key}", examples, batch_size)
        if isinstance(value, Mapping):
            return sections_in_steps(value, f"{where}.{key}", examples, batch_size)
        if isinstance(value, (list, tuple)):
            return [resolved(f"{key}[{i}]", v) if isinstance(v, Mapping) else v for i, v in enumerate(value)]
        return value

    return {key: resolved(key, value) for key, value in section.items()}


def optim_in_steps(section: Mapping[str, Any], where: str, examples: int, batch_size: int) -> dict[str, Any]:
    """The same of the optimizer's section, where a group that learns in one of k steps counts its own updates: one of
    them is k batches on. From which step it learns is a duration of the run."""
    groups = section.get("groups")
    if not isinstance(groups, (list, tuple)) or not all(isinstance(group, Mapping) for group in groups):
        return sections_in_steps(section, where, examples, batch_size)
    counted = []
    for i, group in enumerate(groups):
        check_value(every := group.get("every", 1), Count, f"{where}.groups[{i}].every")
        apart = 1 if group.get("schedule_counts") == "steps" else every
        own = sections_in_steps(group, f"{where}.groups[{i}]", examples, batch_size * apart)
        if isinstance(group.get("from_step"), Mapping):
            own["from_step"] = in_steps(group["from_step"], f"{where}.groups[{i}].from_step", examples, batch_size)
        counted.append(own)
    return {**sections_in_steps(section, where, examples, batch_size), "groups": counted}
