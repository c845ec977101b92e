"""Early stopping: a run ends when its evaluations have not become better for so many of them (Prechelt, "Early Stopping
- But When?", 1998)."""

import dataclasses
from collections.abc import Mapping

from vit_jax.checkpoints.policy import Policy
from vit_jax.training.distributed import from_lead
from vit_jax.training.metrics import round_off


@dataclasses.dataclass
class Patience:
    """Counts the evaluations since the best one, by what the log says: it is all that a run needs to go on counting.

    Args:
        policy: what is best, and how many evaluations without it end the run.
        best, best_step: the best value yet, and the step that it was measured after.
        waited: evaluations since then.
    """

    policy: Policy
    best: float | None = None
    best_step: int = 0
    waited: int = 0

    @property
    def over(self) -> bool:
        return self.policy.stop_after is not None and self.waited >= self.policy.stop_after

    def saw(self, step: int, measured: Mapping[str, float]) -> None:
        """Notes what was measured after a step; what the policy does not name is passed over."""
        value = measured.get(self.policy.best)
        if value is None:
            return
        value = round_off(value)  # as the log has it
        sign = 1 if self.policy.best_mode == "max" else -1
        known = value == value  # NaN is no progress
        if known and (self.best is None or sign * (value - self.best) > self.policy.min_delta):
            self.best, self.best_step, self.waited = value, step, 0
        else:
            self.waited += 1

    def ends(self) -> bool:
        """Whether the run ends here; to be called in every process, of which the first, which has the log, decides."""
        return self.policy.stop_after is not None and bool(from_lead(int(self.over)))

    def said(self, step: int) -> str:
        """Why the run ended after a step."""
        known = "has never been a number"
        if self.best is not None:
            known = f"has not improved on {self.best:.4g}, of step {self.best_step},"
        return f"Stopped early at step {step}: {self.policy.best} {known} in {self.waited} evaluations"
