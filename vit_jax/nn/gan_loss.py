"""Losses of a generator and its discriminator; the gradients of both stand in one scalar.

A loss that both parties learn from is the sum of the generator's, with `stop_gradient` on the discriminator's
parameters, and of the discriminator's, with `stop_gradient` on what was generated.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

GanLoss = Literal["hinge", "non_saturating"]

_MOST_WEIGHT = 1e4


def generator_loss(kind: GanLoss, fake: Float[Array, "*scores"]) -> Float[Array, ""]:
    """What a generator lowers, of the scores of what it made.

    Args:
        kind: "hinge" is the mean score itself (arXiv:1705.02894), "non_saturating" that of Goodfellow et al.
            (arXiv:1406.2661, section 3).
    """
    return -fake.mean() if kind == "hinge" else jax.nn.softplus(-fake).mean()


def discriminator_loss(kind: GanLoss, real: Float[Array, "*scores"], fake: Float[Array, "*scores"]) -> Float[Array, ""]:
    """What a discriminator lowers, of its scores of data and of what was made.

    The hinge is half of the sum, as VQGAN's (arXiv:2012.09841) authors have it; "non_saturating" is the sum.
    """
    if kind == "hinge":
        return 0.5 * (jax.nn.relu(1 - real).mean() + jax.nn.relu(1 + fake).mean())
    return jax.nn.softplus(-real).mean() + jax.nn.softplus(fake).mean()


def gradient_penalty(
    score: Callable[[Float[Array, "b *image"]], Float[Array, "b *scores"]], images: Float[Array, "b *image"]
) -> Float[Array, ""]:
    """R1: the mean over images of the squared gradient of an image's summed scores (Mescheder et al.,
    arXiv:1801.04406, section 4.1, who weigh it with half of their gamma; MaskGIT's tokenizer with 10).

    Args:
        score: of the discriminator, which must treat each image by itself.
    """
    gradient = jax.grad(lambda images: score(images).sum())(images)
    return jnp.square(gradient).reshape(len(images), -1).sum(1).mean()


def adaptive_weight(reconstruction: Float[Array, "*layer"], adversarial: Float[Array, "*layer"]) -> Float[Array, ""]:
    """By how much the adversarial loss is weighed so that both pull the decoder's last layer equally hard (VQGAN,
    arXiv:2012.09841, equation 7): between 0 and 10,000, without a gradient.

    Args:
        reconstruction: gradient of the loss of the reconstruction by that layer.
        adversarial: gradient of the generator's loss by it.
    """
    weight = jnp.linalg.norm(reconstruction.ravel()) / (jnp.linalg.norm(adversarial.ravel()) + 1e-4)
    return jax.lax.stop_gradient(jnp.clip(weight, 0, _MOST_WEIGHT))
