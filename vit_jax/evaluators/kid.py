"""The kernel distance to real images on the features of a judge: without bias, whatever the number of images."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Num

from vit_jax.data.pipeline import EvalPipeline
from vit_jax.data.seeds import some_of
from vit_jax.errors import UserError
from vit_jax.evaluators import EvaluationRun, PipelineFactory
from vit_jax.evaluators.judge import judge
from vit_jax.evaluators.pictures import Of, OfPictures, asked, some
from vit_jax.ranges import Count, Natural


def kernel_distance(real: Num[np.ndarray, "N D"], made: Num[np.ndarray, "M D"]) -> float:
    """The squared maximum mean discrepancy with the kernel (x.y / D + 1)^3, without bias, so that it may be negative.

    Binkowski et al., "Demystifying MMD GANs" (arXiv:1801.01401, section 4).

    Args:
        real, made: at least two each.
    """
    real, made = real.astype(np.float64), made.astype(np.float64)
    within = []
    for features in (real, made):
        kernel = _kernel(features, features)
        within.append((kernel.sum() - np.trace(kernel)) / (len(features) * (len(features) - 1)))
    return float(sum(within) - 2 * _kernel(real, made).mean())


def kernel_distances(
    real: Num[np.ndarray, "N D"], made: Num[np.ndarray, "M D"], subsets: int, size: int, seed: int = 0
) -> Float[np.ndarray, " subsets"]:
    """Those of parts of both: their mean is the estimate, and their deviation says how sure it is.

    Args:
        subsets: how many parts, each drawn without putting back.
        size: of each part, or of the smaller set.

    Raises:
        UserError: for fewer than two images of one kind.
    """
    size = min(size, len(real), len(made))
    if size < 2:
        raise UserError(f"There are {len(real)} real images and {len(made)} samples", "Evaluate on at least two")
    parts = ([x[some_of(len(x), size, seed, k, which)] for which, x in enumerate((real, made))] for k in range(subsets))
    return np.array([kernel_distance(*part) for part in parts])


def _kernel(first: Float[np.ndarray, "N D"], second: Float[np.ndarray, "M D"]) -> Float[np.ndarray, "N M"]:
    return (first @ second.T / first.shape[1] + 1) ** 3


@dataclasses.dataclass(frozen=True)
class Kid(OfPictures):
    """`kid(judge@sha)` and its deviation over subsets `std`; `real` and `real_std` of as many other real images.

    With features of FID's Inception (`judge` a file of pytorch-fid's names) it is what papers call KID, but for the
    resizing, which is the checkpoint's. See `OfPictures` for the other arguments.

    Args:
        train: where the other real images come from.
        judge: path of a checkpoint that gives `features`.
        subsets, size: see `kernel_distances`.
    """

    train: EvalPipeline = dataclasses.field(hash=False)
    judge: str
    subsets: int
    size: int

    def check(self) -> None:
        judge(self.judge)

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        by = judge(self.judge)
        made, real = by.images(self.pictures(run).made), by.pipeline(self.real)
        found = kernel_distances(real, made, self.subsets, self.size)
        others = kernel_distances(real, by.pipeline(some(self.train, len(made))), self.subsets, self.size)
        of_real = {"real": others.mean(), "real_std": others.std()}
        return {f"kid({by.name})": found.mean(), "std": found.std(), **of_real}


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
    subsets: Count = 100,
    size: Count = 1000,
) -> Kid:
    """Against the real images of `source`, or of the config's `data.eval`; `train` is a source section too."""
    pictures = asked(pipeline, source, of, count, seed, settings)
    return Kid(**pictures, train=pipeline(source=train), judge=judge, subsets=subsets, size=size)
