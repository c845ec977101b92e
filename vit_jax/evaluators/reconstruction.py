"""How near what a tokenizer gives back is to the images that it was given, pixel by pixel."""

import csv
import dataclasses
import functools
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array

from vit_jax.data.pipeline import EvalPipeline
from vit_jax.errors import UserError
from vit_jax.evaluators import Apply, EvaluationRun, PipelineFactory
from vit_jax.evaluators.image_quality import WINDOW, psnr, ssim
from vit_jax.evaluators.pictures import Made, pixels


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """Means over the images of `psnr` in decibels and `ssim`, in RGB, and of the absolute error `l1` of values from 0
    to 1; `psnr_of_mean` is the decibels of the mean squared error over all images, which some papers print, and is
    never more. `exact` is the share that came back bit by bit, which has no decibels and is left out of `psnr`.

    Both images are rounded to bytes first. File: `per_image.csv`.

    Args:
        pipeline: the images.
        of: the output that is measured, see `OfPictures`.
    """

    pipeline: EvalPipeline = dataclasses.field(hash=False)
    of: Made = "reconstruction"

    def measure(self, apply: Apply, batch: Mapping[str, Array]) -> dict[str, Array]:
        found = apply(batch, ("original", self.of))
        sides = found["original"].shape[1:3]
        if min(sides) < WINDOW:
            raise UserError(
                f"Images of {sides[1]}x{sides[0]} pixels are smaller than the {WINDOW}x{WINDOW} that SSIM looks at",
                "Evaluate at a larger image_size",
            )
        return {"valid": batch["valid"], **{name: pixels(x) for name, x in found.items()}}

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        rows = []
        for part in run(self.pipeline):
            for i in np.flatnonzero(part["valid"] > 0):
                made, original = part[self.of][i], part["original"][i]
                error = np.abs(made.astype(np.float64) - original) / 255
                squared = float(np.square(error).mean())
                row = {"psnr": psnr(made, original), "ssim": ssim(made, original), "l1": float(error.mean())}
                rows.append(row | {"squared": squared})
        run.keep("per_image.csv", functools.partial(_table, rows))
        noisy = [row["psnr"] for row in rows if math.isfinite(row["psnr"])]
        squared = math.fsum(row["squared"] for row in rows) / len(rows)
        found = {name: math.fsum(row[name] for row in rows) / len(rows) for name in ("ssim", "l1")}
        if noisy:
            found |= {"psnr": math.fsum(noisy) / len(noisy), "psnr_of_mean": -10 * math.log10(squared)}
        return {**found, "exact": 1 - len(noisy) / len(rows), "images": len(rows)}


def _table(rows: Sequence[Mapping[str, float]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["image", "psnr", "ssim", "l1"], lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows({"image": i, **row} for i, row in enumerate(rows))
    return text.getvalue().encode()


def build(
    pipeline: PipelineFactory, source: Mapping[str, Any] | None = None, of: Made = "reconstruction"
) -> Reconstruction:
    """Of the images of `source`, or of the config's `data.eval`."""
    return Reconstruction(pipeline(source=source), of)
