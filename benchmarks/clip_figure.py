"""A picture of what a model of pictures and words finds: five names, and for each the five pictures nearest to it."""

import json
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from vit_jax.checkpoints.load import Loaded
from vit_jax.data.decode import decode

matplotlib.use("agg")

QUERIES = (
    "a smiling face with heart-eyes",
    "a red flower",
    "a person riding a horse",
    "the flag of a country",
    "a fish",
)
BEST = 5


def queries(loaded: Loaded, data: Path, output: Path) -> None:
    """Writes a PNG of the held-out emoji of `data` that are nearest to `QUERIES`, best first, with their cosines."""
    lines = (data / "google.jsonl").read_text(encoding="utf-8").splitlines()
    paths = [str(data / row["path"]) for row in map(json.loads, lines) if row["split"] == "test"]
    cosines = loaded.embed_texts(list(QUERIES)) @ loaded.embed_images(paths).T
    figure = Figure(figsize=(8, 1.5 * len(QUERIES)), layout="constrained")
    axes = figure.subplots(len(QUERIES), BEST + 1, gridspec_kw={"width_ratios": [2.2, *[1] * BEST]})
    for row, (query, scores) in zip(axes, zip(QUERIES, cosines, strict=True), strict=True):
        row[0].text(0, 0.5, query, va="center", fontsize=11, wrap=True)
        for axis, best in zip(row[1:], np.argsort(-scores)[:BEST], strict=True):
            axis.imshow(decode(paths[best]))
            axis.set_title(f"{scores[best]:.2f}", fontsize=8)
    for axis in axes.flat:
        axis.axis("off")
    figure.savefig(output, dpi=110)
