"""Sheets and curves of `benchmarks/diffusion.py`: how samples come about, what steps change, and what is between."""

import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from matplotlib.figure import Figure

from benchmarks.midpoints import pairs, test_images
from vit_jax.checkpoints.load import load
from vit_jax.commands.diffusion_pictures import diffusion_sections
from vit_jax.inspection.diffusion_figures import rows_figure
from vit_jax.inspection.interpolation import arithmetic, interpolate

if TYPE_CHECKING:
    from benchmarks.diffusion import Board

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
_SHOWN = 10


def sheets(board: "Board", ways: Mapping[str, Mapping[str, Mapping[int, str]]]) -> None:
    """Writes those whose runs are asked for, see `quality`."""
    names = ("linear", "latents") if board.smoke else ("linear", "cosine", "latents", "pixels")
    for name in (name for name in names if _wanted(board, name)):
        run = board.run(name, 0)
        _steps(run, board.workdir, name)
        if name in ("latents", "linear"):
            _between(run, board.workdir, name)
    quality(board.found, ways, board.workdir)


def _wanted(board: "Board", name: str) -> bool:
    return name in board.only or (name in ("linear", "cosine") and "digits" in board.only)


def _steps(run: Path, folder: Path, name: str) -> None:
    """The pictures of `vit_jax visualize`, with some test images for what a step is worth."""
    loaded = load(run)
    images = {Path(f"{i}"): image for i, image in enumerate(test_images(loaded)[0][:32])}
    for _, _, pictures in diffusion_sections(loaded, images):
        for picture in pictures:
            _write(picture.figure, folder / f"{name}_{picture.name}.png")


def _between(run: Path, folder: Path, name: str) -> None:
    """`NAME_between.png`, rows of two pairs in all spaces; and `NAME_arithmetic.png`, a - b + c in latents."""
    loaded = load(run)
    images, labels = test_images(loaded)
    a, b = (x[:2] for x in pairs(labels, _SHOWN))
    shares = np.linspace(0, 1, 9)
    prompts = [loaded.labels[i] for i in labels[a]]
    found = interpolate(loaded, images[a], images[b], shares, prompts=prompts)
    rows = {f"{space}, {i + 1}": rows[i] for i in range(len(a)) for space, rows in found.items()}
    _write(rows_figure(rows, ["A", *(f"{share:.2f}" for share in shares[1:-1]), "B"]), folder / f"{name}_between.png")
    if "latents" in found:
        three = (images[:_SHOWN], images[_SHOWN : 2 * _SHOWN], images[2 * _SHOWN : 3 * _SHOWN])
        rows = {**dict(zip("abc", three, strict=True)), "a - b + c": arithmetic(loaded, *three)}
        _write(rows_figure(rows), folder / f"{name}_arithmetic.png")


def quality(found: Mapping[str, Any], ways: Mapping[str, Mapping[str, Mapping[int, str]]], folder: Path) -> None:
    """`quality.png`: Frechet distance against images a second, a line for each way, from few steps to many.

    Args:
        ways: by the part and the label of a line the names of rows, by their steps.
    """
    panels: dict[str, dict[str, list[tuple[float, float, int]]]] = {}
    for part, key in (("digits", "frechet"), ("garments", "distance/frechet")):
        for label, rows in ways[part].items():
            points = [
                (found["speeds"][name]["images_per_second"], statistics.mean(run[key] for run in found[part][name]), n)
                for n, name in rows.items()
                if name in found[part]
            ]
            if points:
                panels.setdefault(part, {})[label] = points
    if not panels:
        return
    figure = Figure(figsize=(4.8 * len(panels), 3.6), layout="constrained", dpi=110)
    for axes, (title, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for colour, (label, points) in zip(_COLOURS, lines.items(), strict=False):
            xs, ys, names = zip(*sorted(points), strict=True)
            axes.plot(xs, ys, color=colour, marker="o", markersize=4, label=label)
            for x, y, text in zip(xs, ys, names, strict=True):
                axes.annotate(text, (x, y), xytext=(3, 3), textcoords="offset points", fontsize=7, color=colour)
        axes.set(title=f"{title}: steps beside the points", xlabel="images a second", ylabel="Frechet distance")
        axes.set(xscale="log", yscale="log")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    _write(figure, folder / "quality.png")


def _write(figure: Figure, path: Path) -> None:
    figure.savefig(path, bbox_inches="tight", pad_inches=0.08)
    print(f"wrote {path}")
