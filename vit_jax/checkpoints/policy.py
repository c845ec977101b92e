"""Which steps of a run are saved, which of them stay, and when there is no use in more."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from vit_jax.errors import UserError
from vit_jax.ranges import Count, NonNegative


@dataclasses.dataclass(frozen=True)
class Policy:
    """Which steps are saved and which of them are kept, and when the run ends early.

    Args:
        every: save each time so many steps are done; None saves at the end only.
        keep: the newest so many stay.
        best: the name of an evaluation metric ('val/accuracy') whose best checkpoint stays too.
        best_mode: 'max' or 'min'.
        frozen: where frozen parameters are: "saved" once, beside the steps; or in the "base" that they were loaded from
            by `config.init_from`, of which the metadata hold the path and checksums. Those that were not loaded as they
            are (interpolated positions) are saved all the same.
        stop_after: the run ends after so many evaluations in which `best` has not become better; None for never.
        min_delta: by how much it has to, in its own unit.
        checksums: write a checksum of every array with it, by which damage is noticed when it is loaded.
    """

    every: Count | None = None
    keep: Count = 2
    best: str | None = None
    best_mode: str = "max"
    frozen: Literal["saved", "base"] = "saved"
    stop_after: Count | None = None
    min_delta: NonNegative = 0.0
    checksums: bool = True

    def __post_init__(self):
        if self.best_mode not in ("max", "min"):
            raise UserError(f"config.checkpoint.best_mode is {self.best_mode!r}", "It must be 'max' or 'min'")
        if not isinstance(self.checksums, bool):
            raise UserError(f"config.checkpoint.checksums is {self.checksums!r}", "It must be true or false")
        if self.best is None and (self.stop_after is not None or self.min_delta):
            key = "min_delta" if self.stop_after is None else "stop_after"
            raise UserError(
                f"config.checkpoint.{key} waits for no metric",
                "Set config.checkpoint.best to one of an evaluator's, such as 'val/accuracy'",
            )
        for key in ("every", "keep", "stop_after"):
            value = getattr(self, key)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise UserError(f"config.checkpoint.{key} is {value!r}", "It must be a whole number of at least 1")

    def due(self, step: int) -> bool:
        return self.every is not None and step % self.every == 0


@dataclasses.dataclass(frozen=True)
class Kept:
    """Orbax asks it, at each save, which steps stay; `measured` grows meanwhile."""

    policy: Policy
    measured: Mapping[int, float] = dataclasses.field(hash=False)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = set(sorted(steps)[-self.policy.keep :])
        # NaN is not better than anything, nor is anything better than it: it would stay for good.
        if known := [step for step in steps if not math.isnan(self.measured.get(step, math.nan))]:
            sign = 1 if self.policy.best_mode == "max" else -1
            kept.add(max(known, key=lambda step: (sign * self.measured[step], step)))
        return [step in kept for step in steps]
