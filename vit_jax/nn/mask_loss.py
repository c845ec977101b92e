"""What a predicted mask costs against a wanted one: focal loss, cross-entropy, dice, and the overlap itself.

All are of one mask, a mean or share over its pixels, so that losses of several masks can be compared and averaged.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def binary_cross_entropy(logits: Float[Array, "*m h w"], wanted: Bool[Array, "*m h w"]) -> Float[Array, "*m"]:
    """The mean over pixels, in nats."""
    return _pixel_losses(logits, wanted).mean((-2, -1))


def focal_loss(
    logits: Float[Array, "*m h w"], wanted: Bool[Array, "*m h w"], alpha: float = 0.25, gamma: float = 2.0
) -> Float[Array, "*m"]:
    """The mean over pixels: Lin et al., "Focal loss for dense object detection" (arXiv:1708.02002), equation 5.

    Args:
        alpha: weight of the pixels that belong to the mask, one minus that of the others.
        gamma: how much less a pixel counts the better it is predicted.
    """
    chance = jax.nn.sigmoid(jnp.where(wanted, -logits, logits))  # that the pixel is wrong
    weight = jnp.where(wanted, alpha, 1 - alpha)
    return (weight * chance**gamma * _pixel_losses(logits, wanted)).mean((-2, -1))


def dice_loss(logits: Float[Array, "*m h w"], wanted: Bool[Array, "*m h w"]) -> Float[Array, "*m"]:
    """One minus the overlap of probabilities: Milletari et al., "V-Net" (arXiv:1606.04797), with 1 added to both sums
    and without their squares, as DETR has it (arXiv:2005.12872)."""
    chance = jax.nn.sigmoid(logits)
    both = (chance * wanted).sum((-2, -1))
    return 1 - (2 * both + 1) / (chance.sum((-2, -1)) + wanted.sum((-2, -1)) + 1)


def overlap(found: Bool[Array, "*m h w"], wanted: Bool[Array, "*m h w"]) -> tuple[Int[Array, "*m"], Int[Array, "*m"]]:
    """How many pixels lie in both masks, and in one of them at least."""
    return (found & wanted).sum((-2, -1), dtype=jnp.int32), (found | wanted).sum((-2, -1), dtype=jnp.int32)


def iou(found: Bool[Array, "*m h w"], wanted: Bool[Array, "*m h w"]) -> Float[Array, "*m"]:
    """Intersection over union, 0 for two empty masks."""
    both, either = overlap(found, wanted)
    return both / jnp.maximum(either, 1)


def _pixel_losses(logits: Float[Array, "*m h w"], wanted: Bool[Array, "*m h w"]) -> Float[Array, "*m h w"]:
    return jax.nn.softplus(jnp.where(wanted, -logits, logits))
