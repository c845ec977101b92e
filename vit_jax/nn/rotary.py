"""Rotary positions ("RoFormer", arXiv:2104.09864), along a line and over a grid."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.errors import UserError


def rotary_angles(positions: Float[Array, "*b t"], head_dim: int, base: float = 1e4) -> Float[Array, "*b t half"]:
    """Angles of positions on a line: position times base ** (-2i / head_dim) for the i-th pair of features.

    Args:
        positions: any numbers; an example each, or the same for all.
        head_dim: width of a head, even.
        base: ratio of the largest to the smallest frequency, nearly.

    Raises:
        UserError: for an odd width.
    """
    if head_dim % 2:
        raise UserError(f"Rotary positions need heads of even width, not {head_dim}", "Change num_heads or head_dim")
    frequencies = base ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    return jnp.asarray(positions, jnp.float32)[..., None] * frequencies


def rotary_angles_2d(
    coordinates: Float[Array, "*b t 2"], head_dim: int, base: float = 1e4
) -> Float[Array, "*b t half"]:
    """Angles of points in the plane: the first half of the pairs turns with the row, the second with the column.

    Args:
        coordinates: (row, column) of each token; (0, 0) turns nothing, which is what tokens without a place get.
        head_dim: width of a head, a multiple of 4.

    Raises:
        UserError: for another width.
    """
    if head_dim % 4:
        raise UserError(
            f"Rotary positions in the plane need heads whose width 4 divides, not {head_dim}",
            "Change num_heads or head_dim",
        )
    coordinates = jnp.asarray(coordinates)
    halves = [rotary_angles(coordinates[..., axis], head_dim // 2, base) for axis in (0, 1)]
    return jnp.concatenate(halves, axis=-1)


def rotate(
    x: Float[Array, "b t h d"],
    angles: Float[Array, "*b t half"] | Float[Array, "*b t d"],
    pairing: Literal["halves", "pairs"],
) -> Float[Array, "b t h d"]:
    """Turns each pair of features by its angle, in float32.

    Args:
        angles: of each token, the same for all heads. Where each feature has one of its own, it is its cosine times the
            feature and its sine times the other one of the pair, negated for the first: a turn where both are equal.
        pairing: "halves" pairs feature i with i + d/2 (LLaMA in transformers), "pairs" 2i with 2i + 1 (the paper).

    Raises:
        UserError: angles for another width or number of tokens.
    """
    if angles.shape[-2] != x.shape[1] or angles.shape[-1] not in (x.shape[3] // 2, x.shape[3]):
        raise UserError(
            f"Rotary angles of shape {tuple(angles.shape)} do not fit {x.shape[1]} tokens with heads of {x.shape[3]}",
            "They need the axes tokens and half the width of a head",
        )
    both = (angles, angles) if angles.shape[-1] != x.shape[3] else _parted(angles, pairing)
    (cos1, sin1), (cos2, sin2) = ((jnp.cos(y)[..., None, :], jnp.sin(y)[..., None, :]) for y in both)
    first, second = _parted(x.astype(jnp.float32), pairing)
    turned = (first * cos1 - second * sin1, second * cos2 + first * sin2)
    joined = jnp.concatenate(turned, axis=-1) if pairing == "halves" else jnp.stack(turned, axis=-1).reshape(x.shape)
    return joined.astype(x.dtype)


def _parted(x: Float[Array, "*b d"], pairing: Literal["halves", "pairs"]) -> tuple[Array, Array]:
    """The first feature of each pair, and the second."""
    if pairing == "halves":
        first, second = jnp.split(x, 2, axis=-1)
        return first, second
    return x[..., 0::2], x[..., 1::2]
