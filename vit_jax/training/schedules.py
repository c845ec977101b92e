"""Learning rates over a run: a linear warmup from 0, a shape, and for open-ended shapes a linear cooldown to 0; and
the decays of weights and of the moving average.

A schedule is a function of the number of updates done so far, so the first update has the rate at 0. It is computed on
the host, in float64, and given to the step as an argument (see `vit_jax.training.scalars`).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vit_jax.errors import UserError
from vit_jax.naming import construct
from vit_jax.ranges import Decay, Natural, NonNegative, Positive, Share, check_value
from vit_jax.spelling import nearest, unknown_key

Schedule = Callable[[int], float]


@dataclasses.dataclass(frozen=True)
class Constant:
    """A schedule that is a number in the config: given to the step like the others, and not logged."""

    value: float

    def __call__(self, step: int) -> float:
        return self.value


# How a run came to its length: ((at, before), ...), oldest first; at step `at` a run of `before` steps was made longer.
Extensions = tuple[tuple[int, int], ...]


def constant(*, peak: NonNegative, steps: int, warmup_steps: Natural = 0, cooldown_steps: Natural = 0) -> Schedule:
    """`peak` between warmup and cooldown."""
    return _ramped(lambda step: peak, steps, warmup_steps, cooldown_steps)


def cosine(
    *,
    peak: NonNegative,
    steps: int,
    warmup_steps: Natural = 0,
    end: NonNegative = 0.0,
    warmup_rate: NonNegative | None = None,
) -> Schedule:
    """Half a cosine from `peak` at `warmup_steps` to `end` at `steps`.

    Args:
        warmup_rate: the rate during the warmup, which then is no ramp (CoOp, arXiv:2109.01134, section 4.1).
    """

    def shape(step: float) -> float:
        progress = _progress(step, warmup_steps, steps)
        return end + (peak - end) * 0.5 * (1 + math.cos(math.pi * progress))

    if warmup_rate is not None:
        return lambda step: warmup_rate if step < warmup_steps else shape(step)
    return _ramped(shape, steps, warmup_steps, 0)


def linear(*, peak: NonNegative, steps: int, warmup_steps: Natural = 0, end: NonNegative = 0.0) -> Schedule:
    """A straight line from `peak` at `warmup_steps` to `end` at `steps`; the original ViT code ends at 1e-5."""
    return _ramped(lambda step: end + (peak - end) * (1 - _progress(step, warmup_steps, steps)), steps, warmup_steps, 0)


def rsqrt(
    *,
    peak: NonNegative,
    steps: int,
    warmup_steps: Natural = 0,
    cooldown_steps: Natural = 0,
    timescale: Positive = 10_000,
) -> Schedule:
    """`peak / sqrt(1 + t / timescale)`, t steps after the warmup: it depends on the run's length only in the
    cooldown, so one long run can be cooled down at several lengths (Zhai et al., arXiv:2106.04560, section 3.5).

    This is big_vision's form; the paper's text has the rate fall as 1 / sqrt(step) from the warmup's end on, which is
    `timescale = warmup_steps`.
    """

    def shape(step: float) -> float:
        return peak / math.sqrt(1 + max(step - warmup_steps, 0) / timescale)

    return _ramped(shape, steps, warmup_steps, cooldown_steps)


def staircase(
    *, peak: NonNegative, steps: int, at: Sequence[Share], factor: Share = 0.1, warmup_steps: Natural = 0
) -> Schedule:
    """`peak`, times `factor` from each of the points `at` on, which are shares of the run."""

    def shape(step: float) -> float:
        return peak * factor ** sum(step >= share * steps for share in at)

    return _ramped(shape, steps, warmup_steps, 0)


def lin0(
    *,
    peak: NonNegative,
    steps: int,
    warmup_steps: Natural = 0,
    end: NonNegative = 0.0,
    warmup_from: Share = 0.005,
    flat: Decay = 0.05,
) -> Schedule:
    """VAR's (arXiv:2404.02905; 'lin0' in its authors' code): a warmup that does not start at 0, `peak` for a while, and
    a straight line to `end`, which the last step has.

    Args:
        warmup_from: rate of the first step, as a share of `peak`.
        flat: share of the steps after the warmup that have `peak`.
    """

    def shape(step: float) -> float:
        if step < warmup_steps:
            return peak * (warmup_from + (1 - warmup_from) * step / warmup_steps)
        progress = _progress(step, warmup_steps, steps - 1) if step < steps - 1 else 1.0
        return peak if progress < flat else end + (peak - end) * (1 - progress) / (1 - flat)

    return shape


SCHEDULES = {
    "constant": constant,
    "cosine": cosine,
    "linear": linear,
    "rsqrt": rsqrt,
    "staircase": staircase,
    "lin0": lin0,
}


def build(
    section: Mapping[str, Any], peak: NonNegative, steps: int, where: str, extensions: Extensions = ()
) -> Schedule:
    """The schedule that a section names, laid out over `steps`, or stretched to them where the run was extended.

    Raises:
        UserError: unknown names and keys, or a warmup and cooldown longer than the run.
    """
    values = dict(section)
    name = values.pop("name", None)
    if name not in SCHEDULES:
        raise UserError(f"There is no schedule named {name!r}", nearest(name, SCHEDULES))
    length, steps = steps, extensions[0][1] if extensions else steps
    schedule = construct(SCHEDULES[name], values, where, peak=peak, steps=steps)
    warmup, cooldown = values.get("warmup_steps", 0), values.get("cooldown_steps", 0)
    if warmup >= steps:
        raise UserError(
            f"The warmup of {warmup} steps is not shorter than the run of {steps}",
            f"Lower {where}.warmup_steps or raise config.steps",
        )
    if warmup + cooldown > steps:
        raise UserError(
            f"The warmup of {warmup} and the cooldown of {cooldown} steps are longer than the run of {steps}",
            f"Lower {where}.cooldown_steps or raise config.steps",
        )
    return (lambda step: schedule(laid_out(step, length, extensions))) if extensions else schedule


def laid_out(step: float, steps: int, extensions: Extensions) -> float:
    """Where in the first layout of a schedule a run of `steps` is after `step` of them.

    What was left of the schedule when the run was extended is stretched over what was left of the run then: nothing
    jumps, and it ends where it would have ended. A schedule that was over stays at its end.
    """
    lengths = [before for _, before in extensions[1:]] + [steps]
    for (at, before), after in reversed(list(zip(extensions, lengths, strict=True))):
        step = at + (step - at) * ((before - at) / (after - at)) if step > at else step
    return step


def follows_length(optim: Mapping[str, Any], ema_decay: Any) -> bool:
    """Whether another length of the run changes a schedule of these two sections of a config."""
    groups = optim.get("groups", [optim])
    sections = [group.get(key) for group in groups for key in ("schedule", "weight_decay")] + [ema_decay]
    return any(s.get("name") not in ("constant", "rsqrt", "ramp") or s.get("cooldown_steps") for s in sections
               if isinstance(s, Mapping))  # fmt: skip


def ema_decay(
    value: float | Mapping[str, Any], steps: int, extensions: Extensions = (), where: str = "config.ema_decay"
) -> Schedule:
    """A constant decay, or that of a section such as `{"name": "cosine", "start": 0.99, "end": 1.0}`.

    A section names a schedule from `start` to `end` over the run; the cosine to 1 is that of BYOL and MoCo v3. The
    average after update t takes `decay(t)` of its old value.

    `{"name": "ramp", "end": 0.9998, "timescale": 2000}` is `end * (1 - exp(-t / timescale))`, whatever the run's length
    (EfficientViT's, arXiv:2205.14756, as its authors' code has it): the average forgets the first steps soon.

    Raises:
        UserError: unknown names and keys, a decay outside [0, 1], or a timescale that is not above 0.
    """
    if not isinstance(value, Mapping):
        return lambda step: value
    if value.get("name") == "ramp":
        return construct(_ramp, {key: v for key, v in value.items() if key != "name"}, where, ("name",))
    return _from_start_to_end(value, Share, steps, extensions, where)


def weight_decay(
    value: Mapping[str, Any], steps: int, extensions: Extensions = (), where: str = "config.optim.weight_decay"
) -> Schedule:
    """A weight decay that ends elsewhere than it starts: `{"name": "cosine", "start": 0.05, "end": 0.08}`.

    A section names a schedule from `start`, which the first step has, to `end`, which the last has: as in DINO
    (arXiv:2104.14294) and VAR.

    Raises:
        UserError: unknown names and keys, or a decay below 0.
    """
    # To what the last step has, not to what one after it would have.
    extensions = tuple((at, max(before - 1, 1)) for at, before in extensions)
    return _from_start_to_end(value, NonNegative, max(steps - 1, 1), extensions, where)


def _from_start_to_end(value: Mapping[str, Any], kind: Any, steps: int, extensions: Extensions, where: str) -> Schedule:
    known = ("name", "start", "end")
    for key in value:
        if key not in known:
            raise unknown_key(where, key, known)
    for key in ("start", "end"):
        check_value(value.get(key), kind, f"{where}.{key}")
    return build({"name": value.get("name"), "end": value["end"]}, value["start"], steps, where, extensions)


def _ramp(*, end: Share, timescale: Positive) -> Schedule:
    return lambda step: end * -math.expm1(-step / timescale)


def _ramped(shape: Schedule, steps: int, warmup: int, cooldown: int) -> Schedule:
    """`shape` times a ramp up over `warmup` steps and a ramp down over the last `cooldown`."""

    def schedule(step: float) -> float:
        rate = shape(step)
        if warmup:
            rate *= min(1.0, step / warmup)
        if cooldown:
            rate *= min(max((steps - step) / cooldown, 0.0), 1.0)
        return rate

    return schedule


def _progress(step: float, warmup: int, steps: int) -> float:
    return min(max((step - warmup) / (steps - warmup), 0.0), 1.0)
