"""PSNR and SSIM of enlarged photos against the photos, and of bicubic ones beside them."""

import csv
import dataclasses
import functools
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from vit_jax.data.geometry import size_pair
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.errors import UserError
from vit_jax.evaluators import Apply, EvaluationRun, PipelineFactory
from vit_jax.evaluators.image_quality import WINDOW, luma, psnr, ssim
from vit_jax.ranges import Count, Natural, Range

_OUTPUTS = ("restored", "bicubic", "original")


@dataclasses.dataclass(frozen=True)
class Restoration:
    """Means over the images of `psnr_y` and `psnr_rgb` in decibels, and of `ssim_y` and `ssim_rgb`; the same of bicubic
    as `bicubic_psnr_y`, ...; and `better`, the share of the images whose PSNR of Y is above bicubic's.

    Both are rounded to bytes first. Y is BT.601's, and a border is left out, as papers of super-resolution do.
    File: `per_image.csv`.

    Args:
        pipeline: photos in two resolutions.
        border: pixels of the photo that are left out on each side.
    """

    pipeline: EvalPipeline = dataclasses.field(hash=False)
    border: int

    def measure(self, apply: Apply, batch: Mapping[str, Array]) -> dict[str, Array]:
        found = apply(batch, _OUTPUTS)
        return {"valid": batch["valid"], **{name: jnp.round(found[name]).astype(jnp.uint8) for name in _OUTPUTS}}

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        rows = []
        for part in run(self.pipeline):
            for i in np.flatnonzero(part["valid"] > 0):
                rows.append(dict(self._of_image(*(part[name][i] for name in _OUTPUTS))))
        run.keep("per_image.csv", functools.partial(_table, rows))
        means = {name: math.fsum(row[name] for row in rows) / len(rows) for name in rows[0]}
        better = sum(row["psnr_y"] > row["bicubic_psnr_y"] for row in rows) / len(rows)
        return {**means, "better": better, "images": len(rows)}

    def _of_image(self, *images: UInt8[np.ndarray, "h w 3"]) -> Iterator[tuple[str, float]]:
        inner = [image[self.border : len(image) - self.border] for image in images]
        *tried, original = [image[:, self.border : image.shape[1] - self.border] for image in inner]
        for image, name in zip(tried, ("", "bicubic_"), strict=True):
            for measured, of in (("psnr", psnr), ("ssim", ssim)):
                yield f"{name}{measured}_y", of(luma(image), luma(original))
                yield f"{name}{measured}_rgb", of(image, original)


def _table(rows: Sequence[Mapping[str, float]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["image", *rows[0]], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"image": i, **row} for i, row in enumerate(rows))
    return text.getvalue().encode()


def build(
    pipeline: PipelineFactory,
    scale: Annotated[int, Range(2)],
    size: Count | Sequence[int],
    source: Mapping[str, Any] | None = None,
    border: Natural | None = None,
) -> Restoration:
    """Measures on the middle of each photo of `source`, or of the config's `data.eval`.

    Args:
        scale: by which the photos are reduced.
        size: (height, width) of the middle, in pixels of the photo.
        border: see `Restoration`; None for `scale` pixels.

    Raises:
        UserError: for a size that the scale does not divide, or that is too small for SSIM.
    """
    size, border = size_pair(size), scale if border is None else border
    shown = f"{size[1]}x{size[0]}"
    if any(side % scale for side in size):
        raise UserError(f"Photos of {shown} pixels are not divided by a scale of {scale}", "Change size or scale")
    if min(size) - 2 * border < WINDOW:
        raise UserError(
            f"Photos of {shown} pixels without a border of {border} are smaller than the {WINDOW}x{WINDOW} pixels that"
            " SSIM looks at",
            "Make size larger",
        )
    low = tuple(side // scale for side in size)
    transform = {"name": "low_resolution", "scale": scale, "size": low, "crop": "centre", "flip": False}
    return Restoration(pipeline(source=source, transform=transform), border)
