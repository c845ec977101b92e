"""Two-dimensional position embeddings: fixed sine-cosine tables, and resizing of learned ones."""

import math
from collections.abc import Callable, Mapping
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from vit_jax.errors import UserError
from vit_jax.naming import nearest
from vit_jax.nn.resize import (
    linear_weights,
    resample_kernel,
    resize_bicubic,
    resize_bilinear,
    resize_grid,
    triangle_weights,
)

# Those of `vit_jax.nn.resize.Resize` that positions are resized with.
PosembResize = Literal["align_corners", "half_pixel", "half_pixel_antialias", "bicubic", "bicubic_antialias"]

RESIZES = get_args(PosembResize)


def sincos2d(
    grid_hw: tuple[int, int],
    width: int,
    temperature: float = 1e4,
    row_first: bool = False,
    reaches_temperature: bool = True,
    span: float | None = None,
) -> Float[np.ndarray, "gh gw width"]:
    """Fixed 2-D sine-cosine position embedding, by default in the dialect of big_vision ("Better plain ViT baselines").

    A token at (row y, column x) gets [sin(x w), cos(x w), sin(y w), cos(y w)]: the column comes first, and
    w_k = temperature ** (-k / (width/4 - 1)), so that the last frequency is exactly 1 / temperature. `SINCOS2D` has the
    arguments for the other dialects; a model that is read in the wrong one fails silently.

    Args:
        grid_hw: rows and columns of patches.
        width: embedding width, a multiple of 4 and at least 8.
        temperature: ratio of the largest to the smallest frequency.
        row_first: [sin(y w), cos(y w), sin(x w), cos(x w)] instead.
        reaches_temperature: False for w_k = temperature ** (-k / (width/4)), which stops one frequency before.
        span: rows and columns go from 0 to below it, however many there are, so that a model made for a square grid of
            this side sees another one stretched; None to count them.

    Returns:
        float32 table.

    Raises:
        UserError: when the width cannot be split into four equal parts of at least two frequencies.
    """
    if width % 4 or width < 8:
        raise UserError(f"2-D sine-cosine positions cannot have width {width}", "Use a multiple of 4, at least 8")
    omega = temperature ** -np.linspace(0.0, 1.0, width // 4, endpoint=reaches_temperature)
    axes = [np.arange(side) * (1.0 if span is None else span / side) for side in grid_hw]
    y, x = (coordinate[..., None] * omega for coordinate in np.meshgrid(*axes, indexing="ij"))
    first, second = (y, x) if row_first else (x, y)
    waves = [np.sin(first), np.cos(first), np.sin(second), np.cos(second)]
    return np.concatenate(waves, axis=-1).astype(np.float32)


# What the `posemb` of a model may say, beside "learn". The first dialect is big_vision's.
SINCOS2D: dict[str, dict[str, bool]] = {
    "sincos2d": {},
    "sincos2d_mae": {"reaches_temperature": False},
    "sincos2d_moco": {"reaches_temperature": False, "row_first": True},
}


def check_grid(grid: tuple[int, int], held: tuple[int, int]) -> None:
    """Raises a UserError when images have another grid of patches than the positions are for."""
    if grid != held:
        raise UserError(
            f"The images have a grid of {grid[0]}x{grid[1]} patches, but the parameters hold positions for "
            f"{held[0]}x{held[1]}",
            "Use images of the size that the parameters were made for, or load them into a model of this size with "
            "init_from, which interpolates the positions",
        )


def interpolate_posemb(
    posemb: Float[np.ndarray, "gh gw width"],
    new_hw: tuple[int, int],
    method: PosembResize = "align_corners",
) -> Float[np.ndarray, "new_gh new_gw width"]:
    """Resizes a learned grid of positions to another grid, e.g. to fine-tune at a higher resolution (ViT, section 3.2).

    Args:
        posemb: positions of the patches only; a class token has no place in a grid.
        new_hw: rows and columns of the new grid; neither grid needs to be square.
        method: "align_corners" is what the original ViT code and big_vision do (`scipy.ndimage.zoom`, order 1);
            "half_pixel" is bilinear in the convention of image resizing (timm for the original files), and
            "half_pixel_antialias" the same over all positions when shrinking (FlexiViT);
            "bicubic" is what transformers does, "bicubic_antialias" timm, and transformers for DINOv2 with registers.
            They differ visibly: use the one with which the checkpoint is meant to be read, its `posemb_resize`.

    Raises:
        UserError: for an unknown method.
    """
    if method not in RESIZES:
        raise UserError(f"Unknown way '{method}' to resize position embeddings", nearest(method, RESIZES))
    if posemb.shape[:2] == tuple(new_hw):
        return posemb
    if method in ("bicubic", "bicubic_antialias"):
        return resize_bicubic(posemb, new_hw, antialias=method == "bicubic_antialias")
    if method == "half_pixel_antialias":
        return resize_grid(posemb, *map(triangle_weights, posemb.shape[:2], new_hw))
    return resize_bilinear(posemb, new_hw, align_corners=method == "align_corners")


def _fitted_grid(value: np.ndarray, shape: tuple[int, ...], method: PosembResize) -> np.ndarray | None:
    """An embedding for each patch, [gh, gw, D]."""
    fits = value.ndim == len(shape) == 3 and value.shape[2] == shape[2]
    return interpolate_posemb(value, shape[:2], method) if fits else None


def _fitted_table(value: np.ndarray, shape: tuple[int, ...], method: PosembResize) -> np.ndarray | None:
    """A bias for each offset in a square window and each head, [(2M - 1)^2, H]: each head's picture is resized
    bicubically whatever the method, as Swin's authors do it."""
    del method
    if not (value.ndim == len(shape) == 2 and value.shape[1] == shape[1]):
        return None
    old, new = (math.isqrt(offsets) for offsets in (value.shape[0], shape[0]))
    if (old * old, new * new) != (value.shape[0], shape[0]):
        return None
    picture = resize_bicubic(value.reshape(old, old, -1), (new, new), antialias=False)
    return picture.reshape(shape)


def _fitted_axis(value: np.ndarray, shape: tuple[int, ...], method: PosembResize) -> np.ndarray | None:
    """A vector for each distance along one axis, [2S - 1, d]: interpolated linearly whatever the method, as the authors
    of SAM and ViTDet do it."""
    del method
    if not (value.ndim == len(shape) == 2 and value.shape[1] == shape[1]):
        return None
    weights = linear_weights(value.shape[0], shape[0], align_corners=False)
    return (weights @ value.astype(np.float64)).astype(np.float32)


def _fitted_patches(value: np.ndarray, shape: tuple[int, ...], method: PosembResize) -> np.ndarray | None:
    """The kernel of patches [ph, pw, C, D], as if these were resized: as timm does it where positions are resized as in
    timm too, else as in the paper of FlexiViT."""
    if not (value.ndim == len(shape) == 4 and value.shape[2:] == shape[2:]):
        return None
    return resample_kernel(value, shape[:2], method if method == "bicubic_antialias" else "half_pixel")


# How learned positions follow another resolution or another window, and the kernel of patches another size of them, by
# what modules call them. Positions under other names belong to one size alone; those that are computed (sine-cosine
# tables, Swin v2's biases) follow by themselves.
FOLLOWS: Mapping[str, Callable[[np.ndarray, tuple[int, ...], PosembResize], np.ndarray | None]] = {
    "pos_embedding": _fitted_grid,
    "relative_position_bias_table": _fitted_table,
    "rel_pos_rows": _fitted_axis,
    "rel_pos_columns": _fitted_axis,
    "embedding/kernel": _fitted_patches,
}


def fitted_positions(
    name: str, value: Float[np.ndarray, "..."], shape: tuple[int, ...], method: PosembResize = "align_corners"
) -> Float[np.ndarray, "..."] | None:
    """A parameter of positions as a model of another resolution or window has it, or the kernel of patches as one of
    other patches has it.

    Args:
        name: of the parameter, 'encoder/pos_embedding'; its end says how it follows.
        value: what there is.
        shape: what the model has.
        method: see `interpolate_posemb`.

    Returns:
        The same for the other size; None for a parameter that is neither, or that could not follow.
    """
    follow = next((follow for end, follow in FOLLOWS.items() if f"/{name}".endswith(f"/{end}")), None)
    return None if follow is None else follow(value, tuple(shape), method)
