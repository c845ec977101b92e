"""Mean and deviation over an evaluation set of what a task gives for each example."""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Moments:
    pipeline: Any = dataclasses.field(hash=False)
    of: str
    field: str = "image"

    def measure(self, apply, batch):
        return {"x": apply(batch, (self.of,))[self.of], "valid": batch["valid"], "beside": batch[self.field].sum()}

    def metrics(self, run):
        x = np.concatenate([part["x"][part["valid"] > 0] for part in run(self.pipeline)])
        return {"mean": x.mean(dtype=np.float64), "deviation": x.std(dtype=np.float64)}


def build(pipeline, of, field="image"):
    return Moments(pipeline(), of, field)
