"""How bright the images of a class are that a task draws."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Sampled:
    count: int
    label: int
    sampling: Mapping[str, Any] = dataclasses.field(hash=False)

    def metrics(self, run):
        samples = run.samples(self.count, 7, **self.sampling)
        return {"mean": samples.images[samples.conditions["label"] == self.label].mean(), "images": len(samples)}


def build(pipeline, count, label, **sampling):
    return Sampled(count, label, sampling)
