"""Boxes as detectors compare them: corners, centres, and how much two of them have in common."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def corners(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """(left, top, right, bottom) of (centre x, centre y, width, height)."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return jnp.concatenate([centre - half, centre + half], axis=-1)


def centred(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """The inverse of `corners`."""
    return jnp.concatenate([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], axis=-1)


def generalized_iou(first: Float[Array, "*n 4"], second: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Intersection over union less the share of the smallest box around both that neither fills (arXiv:1902.09630), of
    corners: from -1 for boxes far from each other to 1 for equal ones; 0 where nothing has an area."""
    inside = _area(jnp.maximum(first[..., :2], second[..., :2]), jnp.minimum(first[..., 2:], second[..., 2:]))
    union = _area(first[..., :2], first[..., 2:]) + _area(second[..., :2], second[..., 2:]) - inside
    around = _area(jnp.minimum(first[..., :2], second[..., :2]), jnp.maximum(first[..., 2:], second[..., 2:]))
    return _ratio(inside, union) - _ratio(around - union, around)


def _area(low: Float[Array, "*n 2"], high: Float[Array, "*n 2"]) -> Float[Array, "*n"]:
    return jnp.prod(jnp.maximum(high - low, 0), axis=-1)


def _ratio(part: Float[Array, "*n"], whole: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """0 where there is no whole, with a gradient of 0."""
    there = whole > 0
    return jnp.where(there, part / jnp.where(there, whole, 1), 0)
