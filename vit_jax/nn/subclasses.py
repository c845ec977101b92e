"""Scores of subclasses as scores of their classes.

Novack et al., "CHiLS: Zero-shot image classification with hierarchical label sets" (arXiv:2302.02551), algorithm 1.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def mapped_up(finer: Float[Array, "B S"], parents: Sequence[int], count: int) -> Float[Array, "B K"]:
    """Of each class the largest score of its subclasses, so that the class of the best subclass is the best one.

    Args:
        parents: of each subclass the number of its class; each class has one or more.
        count: K.
    """
    return jax.ops.segment_max(finer.T, jnp.array(parents), count).T


def reweighted(finer: Float[Array, "B S"], coarse: Float[Array, "B K"], parents: Sequence[int]) -> Float[Array, "B K"]:
    """The logarithm of the probability of each class's most likely subclass times that of the class itself.

    Args:
        finer, coarse: logits of the subclasses and of the classes, of which a softmax makes the probabilities.
        parents: see `mapped_up`.
    """
    likely = mapped_up(jax.nn.log_softmax(finer), parents, coarse.shape[-1])
    return likely + jax.nn.log_softmax(coarse)
