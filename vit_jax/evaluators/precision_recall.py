"""How real samples are, and how much of what is real they cover, on the features of a judge."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vit_jax.data.pipeline import EvalPipeline
from vit_jax.evaluators import EvaluationRun, PipelineFactory
from vit_jax.evaluators.feature_neighbours import check_counts, neighbourhood
from vit_jax.evaluators.judge import judge
from vit_jax.evaluators.pictures import Of, OfPictures, asked, some
from vit_jax.ranges import Count, Natural


@dataclasses.dataclass(frozen=True)
class PrecisionRecall(OfPictures):
    """`precision`, `recall`, `density` and `coverage`, see `vit_jax.evaluators.feature_neighbours.Neighbourhood`; and
    `real_precision`, ..., of as many other real images. They depend on the judge, on k and on how many images there
    are. See `OfPictures` for the other arguments.

    Args:
        train: where the other real images come from.
        judge: path of a checkpoint that gives `features`.
        k: which neighbour a ball reaches to.
    """

    train: EvalPipeline = dataclasses.field(hash=False)
    judge: str
    k: int

    def check(self) -> None:
        judge(self.judge)
        real, others = len(self.real.source), len(self.train.source)
        check_counts(self.k, {"samples": self.number, "real images": real, "other real images": others})

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        by = judge(self.judge)
        made, real = by.images(self.pictures(run).made), by.pipeline(self.real)
        others = by.pipeline(some(self.train, len(made)))
        found = dataclasses.asdict(neighbourhood(real, made, self.k))
        return found | {f"real_{k}": x for k, x in dataclasses.asdict(neighbourhood(real, others, self.k)).items()}


def build(
    pipeline: PipelineFactory,
    *,
    judge: str,
    train: Mapping[str, Any],
    source: Mapping[str, Any] | None = None,
    of: Of = "samples",
    count: Count = 2000,
    seed: Natural = 0,
    settings: Mapping[str, Any] | None = None,
    k: Count = 3,
) -> PrecisionRecall:
    """Against the real images of `source`, or of the config's `data.eval`; `train` is a source section too."""
    pictures = asked(pipeline, source, of, count, seed, settings)
    return PrecisionRecall(**pictures, train=pipeline(source=train), judge=judge, k=k)
