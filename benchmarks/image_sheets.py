"""Sheets of `benchmarks/image_generation.py`: what tokens keep of an image, and in which order they come."""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jaxtyping import Float, UInt8

from vit_jax.checkpoints.load import Loaded, load
from vit_jax.evaluators.feature_neighbours import squared_distances
from vit_jax.evaluators.image_quality import psnr
from vit_jax.evaluators.judge import read
from vit_jax.nn.token_order import random_orders
from vit_jax.training.config import run_config
from vit_jax.training.evaluation import inputs_of

matplotlib.use("Agg")
from matplotlib import pyplot

if TYPE_CHECKING:
    from benchmarks.image_generation import Board

Images = UInt8[np.ndarray, "N H W 3"]
SHOWN = 12


def sheets(board: "Board", codes: Sequence[int]) -> None:
    """Writes those whose runs are asked for."""
    if "vq" in board.tokenizers:
        against_codes(board, codes)
    if "kl" in board.tokenizers:
        scalar_and_vector(board)
    if "multiscale" in board.tokenizers:
        scale_by_scale(board)
    if "hybrid" in board.tokenizers:
        hybrid(board)
    orders(board)


def against_codes(board: "Board", codes: Sequence[int]) -> None:
    """`codes.png`: reconstructions of VQs of more and more codes."""
    rows: dict[str, Images] = {}
    for count in sorted({*codes, 128}):
        further = "" if count == 128 else f",codes={count}"
        loaded = load(board.run("vq", 0, further))
        images = _test_images(loaded)
        made = _reconstructed(loaded, images)
        rows.setdefault("images", images)
        rows[f"{count} codes, {math.log2(count):.0f} bits\n{_decibels(made, images):.1f} dB"] = made
    draw(rows, board.workdir / "codes.png")


def scalar_and_vector(board: "Board") -> None:
    """`scalar_vector.png`: the latents of one autoencoder, rounded number by number or place by place, in equal bits.

    Each of the C numbers of a place has L levels, those of k-means in one dimension; or a place has L ** C codes, those
    of k-means of all its numbers. Both learn from the same latents.
    """
    loaded = load(board.run("kl", 0))
    images = _test_images(loaded)
    decode = jax.jit(lambda z: loaded.model.apply({"params": loaded.params}, z, method="decode"))
    learn, shown = (
        np.asarray(_latents(loaded, x)) for x in (_images(loaded, "train", 60 if board.smoke else 1000), images)
    )
    width = learn.shape[-1]
    rows = {"images": images, f"as they are\n{_decibels(made := _bytes(decode(shown)), images):.1f} dB": made}
    for levels in (2,) if board.smoke else (2, 4):
        codes, bits = levels**width, width * math.log2(levels)
        flat, wanted = learn.reshape(-1, width), shown.reshape(-1, width)
        scalar = np.stack(
            [_rounded(wanted[:, i : i + 1], kmeans(flat[:, i : i + 1], levels))[:, 0] for i in range(width)], 1
        )
        vector = _rounded(wanted, kmeans(flat, codes))
        for name, found in ((f"{width} x {levels} levels", scalar), (f"{codes} codes", vector)):
            made = _bytes(decode(found.reshape(shown.shape).astype(np.float32)))
            rows[f"{name}, {bits:.0f} bits\n{_decibels(made, images):.1f} dB"] = made
    draw(rows, board.workdir / "scalar_vector.png")


def scale_by_scale(board: "Board") -> None:
    """`scales.png`: images after each of the maps of a multi-scale tokenizer."""
    loaded = load(board.run("multiscale", 0))
    images, model = _test_images(loaded), loaded.model
    grids = model.grids(images.shape[1:3])
    collections = {"params": loaded.params, **loaded.model_state}

    @jax.jit
    def after_each(x: jax.Array) -> jax.Array:
        tokens = model.apply(collections, x, method="tokenize")
        return model.apply(collections, tokens, grids, method="detokenize_scales")

    made = [_bytes(x) for x in after_each(loaded.preprocess.normalize(images))]
    rows = {"images": images}
    for grid, x in zip(grids, made, strict=True):
        rows[f"up to {grid[0]}x{grid[1]}\n{_decibels(x, images):.1f} dB"] = x
    draw(rows, board.workdir / "scales.png")


def hybrid(board: "Board") -> None:
    """`hybrid.png`: images of HART's codes, of what they leave, and of both, through one decoder."""
    loaded = load(board.run("hybrid", 0))
    images = _test_images(loaded)
    found = loaded.outputs({"image": images}, ("reconstruction", "discrete_reconstruction"))
    whole, codes = (np.asarray(found[name]) for name in ("reconstruction", "discrete_reconstruction"))
    rows = {"images": images}
    for name, x in (("codes", codes), ("codes and the rest", whole)):
        rows[f"{name}\n{_decibels(_bytes(2 * x - 1), images):.1f} dB"] = _bytes(2 * x - 1)
    rows["what the rest\nchanges, x 4"] = _bytes(4 * (whole - codes))
    draw(rows, board.workdir / "hybrid.png")


def orders(board: "Board") -> None:
    """`orders.png`: of a few images in which pass each place is filled, from dark to bright."""
    rows: dict[str, Any] = {}
    count = 4 if board.smoke else SHOWN
    side = 8
    keys = jax.random.split(jax.random.key(0), count)
    if "raster" in board.only:
        rows["raster\n64 passes"] = np.broadcast_to(np.arange(side**2).reshape(side, side), (count, side, side))
        place = np.argsort(np.asarray(random_orders(keys, side**2)), axis=1)
        rows["random\n64 passes"] = place.reshape(count, side, side)
    if "maskgit" in board.only:
        loaded = load(board.run("maskgit", 0))
        batch = {"label": np.arange(count) % len(loaded.labels), "index": np.arange(count, dtype=np.int32)}
        found = loaded.outputs(batch, ("passes", "samples"))
        passes = np.asarray(found["passes"])
        rows[f"MaskGIT\n{passes.max() + 1} passes"] = passes.reshape(count, side, side)
        rows["its images"] = _bytes(2 * found["samples"] - 1)
    if "mar" in board.only:
        from vit_jax.models.mar import masked_counts

        steps = 4 if board.smoke else 32
        left = np.asarray(masked_counts(side**2, steps))
        # The i-th of those that stay masked longest is filled in the pass after which i or fewer are left.
        order = np.argsort(np.asarray(random_orders(keys, side**2)), axis=1)
        rows[f"MAR\n{steps} passes"] = (left[None, None, 1:] > order[..., None]).sum(-1).reshape(count, side, side)
    if rows:
        draw(rows, board.workdir / "orders.png")


def kmeans(points: Float[np.ndarray, "N D"], count: int, rounds: int = 30) -> Float[np.ndarray, "K D"]:
    """Means of the points nearest to each, by Lloyd's algorithm from points drawn by k-means++; one that is nearest to
    none stays where it is."""
    rng = np.random.default_rng(0)
    points = points.astype(np.float64)
    centres = points[rng.integers(len(points))][None]
    nearest = squared_distances(points, centres)[:, 0]
    while len(centres) < count:
        total = nearest.sum()
        chosen = rng.choice(len(points), p=nearest / total) if total else rng.integers(len(points))
        centres = np.concatenate([centres, points[chosen][None]])
        nearest = np.minimum(nearest, squared_distances(points, centres[-1:])[:, 0])
    for _ in range(rounds):
        which = squared_distances(points, centres).argmin(axis=1)
        counts = np.bincount(which, minlength=count)
        sums = np.stack([np.bincount(which, points[:, d], count) for d in range(points.shape[1])], axis=1)
        centres = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres)
    return centres


def draw(rows: Mapping[str, Any], path: Path) -> None:
    """A sheet: a row of images, or of maps of numbers, for each name."""
    count = min(SHOWN, *(len(images) for images in rows.values()))
    figure, axes = pyplot.subplots(len(rows), count, figsize=(1.6 + 0.62 * count, 0.72 * len(rows)), squeeze=False)
    for (name, images), line in zip(rows.items(), axes, strict=True):
        for axis, image in zip(line, images, strict=False):
            axis.imshow(image, interpolation="nearest", cmap="viridis")
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    figure.tight_layout(pad=0.2)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    print(f"wrote {path}")


def _rounded(points: Float[np.ndarray, "N D"], centres: Float[np.ndarray, "K D"]) -> Float[np.ndarray, "N D"]:
    return centres[squared_distances(points.astype(np.float64), centres).argmin(axis=1)]


def _images(loaded: Loaded, split: str, count: int) -> Images:
    config = run_config(loaded.metadata["config"])
    inputs = inputs_of(loaded, config)
    source = {"train": config.data["train"], "test": config.data["eval"]}[split]
    found: list[Images] = []
    for part in read(inputs.eval_pipeline(config.batch_size, "the sheets", source=source)):
        found.append(part)
        if sum(map(len, found)) >= count:
            break
    return np.concatenate(found)[:count]


def _test_images(loaded: Loaded) -> Images:
    return _images(loaded, "test", SHOWN)


def _reconstructed(loaded: Loaded, images: Images) -> Images:
    return _bytes(2 * loaded.outputs({"image": images}, ("reconstruction",))["reconstruction"] - 1)


def _latents(loaded: Loaded, images: Images) -> jax.Array:
    return loaded.outputs({"image": images}, ("latents",))["latents"]


def _bytes(images: Float[Any, "N H W 3"]) -> Images:
    """Of images in -1..1."""
    return np.asarray(jnp.round(127.5 * (jnp.clip(images, -1, 1) + 1)).astype(jnp.uint8))


def _decibels(made: Images, images: Images) -> float:
    return float(np.mean([psnr(a, b) for a, b in zip(made, images, strict=True)]))
