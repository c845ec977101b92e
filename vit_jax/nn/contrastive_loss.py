"""The two losses by which images and texts of a batch find each other, on however many devices the batch lies.

Each device embeds its own pairs. In neither loss does it ever hold the logits of its images for all texts, whose number
is the square of the batch: they are made a piece at a time, and again in the backward pass.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from vit_jax.nn.batch_axis import example_axes

_ROWS = 128  # of logits that exist at a time


def softmax_loss(
    images: Float[Array, "n e"], texts: Float[Array, "n e"], factor: Float[Array, ""]
) -> tuple[Float[Array, " n"], Float[Array, " n"], Float[Array, " n"]]:
    """CLIP's loss (arXiv:2103.00020, figure 3): cross-entropy of each image over all texts and of each text over all
    images, and their mean.

    Of n pairs n are positive and n^2 - n negative. A device holds the vectors of the whole batch, and some rows of
    logits: its memory grows as the batch does.

    Args:
        images: row i belongs to row i of `texts`, like these of length 1.
        factor: what their cosines are multiplied by.

    Returns:
        For each pair its loss, the mean of the two; whether the image is nearest to its text of all; and whether the
        text is nearest to its image.
    """
    split = example_axes()
    if split is None:
        return _pairs_found(images, texts, factor, axes=())
    mesh, axes = split
    rows = PartitionSpec(axes)
    return jax.shard_map(
        functools.partial(_pairs_found, axes=axes),
        mesh=mesh,
        in_specs=(rows, rows, PartitionSpec()),
        out_specs=(rows, rows, rows),
    )(images, texts, factor)


def _pairs_found(images: Array, texts: Array, factor: Array, axes: tuple[str, ...]) -> tuple[Array, Array, Array]:
    own = jnp.arange(images.shape[0])
    all_images, all_texts = images, texts
    if axes:
        own = own + jax.lax.axis_index(axes) * images.shape[0]
        all_images, all_texts = (jax.lax.all_gather(x, axes, tiled=True) for x in (images, texts))
    of_images, images_right = _found(images, all_texts, own, factor)
    of_texts, texts_right = _found(texts, all_images, own, factor)
    return (of_images + of_texts) / 2, images_right, texts_right


def _found(
    queries: Float[Array, "b e"], keys: Float[Array, "n e"], own: Int[Array, " b"], factor: Float[Array, ""]
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """The cross-entropy of each query over the keys, of which number `own` is the right one, and whether that is the
    nearest."""

    @jax.checkpoint
    def some(queries: Array, own: Array) -> tuple[Array, Array]:
        logits = factor * jnp.matmul(queries, keys.T, precision="highest")
        right = jnp.take_along_axis(logits, own[:, None], axis=1)[:, 0]
        return jax.nn.logsumexp(logits, axis=1) - right, (logits.argmax(axis=1) == own).astype(jnp.float32)

    count = queries.shape[0]
    pieces = [_pieces(x) for x in (queries, own)]
    losses, right = jax.lax.map(lambda piece: some(*piece), tuple(pieces))
    return losses.reshape(-1)[:count], right.reshape(-1)[:count]


def _pieces(x: Array) -> Array:
    """Rows [b, ...] in as few pieces [p, r, ...] of at most `_ROWS` as there can be, the last filled up with zeros."""
    pieces = -(-x.shape[0] // _ROWS)
    rows = -(-x.shape[0] // pieces)
    padded = jnp.pad(x, [(0, pieces * rows - x.shape[0])] + [(0, 0)] * (x.ndim - 1))
    return padded.reshape(pieces, rows, *x.shape[1:])
