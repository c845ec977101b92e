"""Whether samples have their edges where they were told to have them."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import cv2
import numpy as np
from jaxtyping import Bool

from vit_jax.data.edges import HIGH, LOW, edge_map, edges
from vit_jax.errors import UserError
from vit_jax.evaluators import EvaluationRun, PipelineFactory
from vit_jax.evaluators.of_images import OfImages, asked_of_images
from vit_jax.ranges import Count, Natural, Positive


def edge_f1(found: Bool[np.ndarray, "h w"], wanted: Bool[np.ndarray, "h w"], reach: int = 1) -> float:
    """The harmonic mean of two shares: of the edges that are found those within `reach` pixels, also diagonally, of one
    that is wanted; and of those that are wanted the ones within reach of one that is found. 1 where neither has any."""
    if not found.any() or not wanted.any():
        return float(found.any() == wanted.any())
    around = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    near_wanted, near_found = (cv2.dilate(x.astype(np.uint8), around) > 0 for x in (wanted, found))
    right, reached = (found & near_wanted).sum() / found.sum(), (wanted & near_found).sum() / wanted.sum()
    return float(2 * right * reached / (right + reached)) if right + reached else 0.0


@dataclasses.dataclass(frozen=True)
class EdgeAgreement(OfImages):
    """`f1`, the mean of `edge_f1` of Canny's edges of samples and those that they were given as `control`, which are
    those of real images; `exchanged`, of the same samples and the image's before, which is what chance gives. `edges`
    is the share of pixels that are edges, of the samples, `wanted` the same of the images. See `OfImages` for the other
    arguments.

    Args:
        low, high: see `vit_jax.data.edges.edge_map`.
    """

    low: int = LOW
    high: int = HIGH
    gives: ClassVar[tuple[str, ...]] = ("control",)

    def check(self) -> None:
        if len(self.real.source) < 2:
            raise UserError("The edges of one image can be compared with nothing by chance", "Use at least 2 images")

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        images, prompts = self.examples(run)
        control = np.stack([edges(image, self.low, self.high) for image in images]).astype(np.float32) / 255
        samples = run.samples(len(images), self.seed, prompts=prompts, pictures={"control": control}, **self.settings)
        wanted = control[..., 0] > 0
        found = np.stack([edge_map(image, self.low, self.high) for image in samples.images])
        scores, others = (
            [edge_f1(*pair) for pair in zip(found, of, strict=True)] for of in (wanted, np.roll(wanted, 1, axis=0))
        )
        return {
            "f1": float(np.mean(scores)), "exchanged": float(np.mean(others)), "edges": float(found.mean()),
            "wanted": float(wanted.mean()), "images": len(images),
        }  # fmt: skip


def build(
    pipeline: PipelineFactory,
    *,
    source: Mapping[str, Any] | None = None,
    count: Count = 200,
    seed: Natural = 0,
    settings: Mapping[str, Any] | None = None,
    told: bool = True,
    low: Positive = LOW,
    high: Positive = HIGH,
) -> EdgeAgreement:
    """Of at most `count` images of `source`, or of the config's `data.eval`; see `EdgeAgreement`."""
    if low > high:
        raise UserError(f"Edges begin at {high:g}, below {low:g} where they end", "Make low at most high")
    return EdgeAgreement(**asked_of_images(pipeline, source, count, seed, settings, told), low=int(low), high=int(high))
