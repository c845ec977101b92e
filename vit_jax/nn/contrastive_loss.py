"""The two losses by which images and texts of a batch find each other, on however many devices the batch lies.

Each device embeds its own pairs. In neither loss does it ever hold the logits of its images for all texts, whose number
is the square of the batch: they are made a piece at a time, and again in the backward pass.
"""

import functools
import math

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


@jax.custom_vjp
def sigmoid_loss(
    images: Float[Array, "n e"], texts: Float[Array, "n e"], factor: Float[Array, ""], bias: Float[Array, ""]
) -> Float[Array, ""]:
    """SigLIP's loss (arXiv:2303.15343, algorithm 1): for each image and each text whether they belong together, by the
    sigmoid of factor * cosine + bias; the sum over all n^2 of them divided by n.

    Texts go round the devices (section 3.3), each step those of one device to the next, and their gradients with them:
    loss and gradients are made in one round, a piece of the logits at a time. What a device holds beside its own
    vectors and their gradients does not grow with the batch.

    Args:
        images: row i belongs to row i of `texts`, like these of length 1.
    """
    return _round(images, texts, factor, bias, gradients=False)[0]


def _sigmoid_forward(images: Array, texts: Array, factor: Array, bias: Array) -> tuple[Array, tuple[Array, ...]]:
    loss, *gradients = _round(images, texts, factor, bias, gradients=True)
    return loss, tuple(gradients)


def _sigmoid_backward(gradients: tuple[Array, ...], gradient: Array) -> tuple[Array, ...]:
    return tuple(gradient * of_input for of_input in gradients)


sigmoid_loss.defvjp(_sigmoid_forward, _sigmoid_backward)


def _round(images: Array, texts: Array, factor: Array, bias: Array, gradients: bool) -> tuple[Array, ...]:
    """The loss, and its gradients by each of the four."""
    split = example_axes()
    if split is None:
        return _round_of_one(images, texts, factor, bias, axes=(), devices=1, gradients=gradients)
    mesh, axes = split
    rows, same = PartitionSpec(axes), PartitionSpec()
    devices = math.prod(mesh.shape[name] for name in axes)
    return jax.shard_map(
        functools.partial(_round_of_one, axes=axes, devices=devices, gradients=gradients),
        mesh=mesh,
        in_specs=(rows, rows, same, same),
        out_specs=(same, rows, rows, same, same) if gradients else (same,),
        check_vma=False,  # sums over all devices are the same on each, which the check does not follow through a scan
    )(images, texts, factor, bias)


def _round_of_one(
    images: Array, texts: Array, factor: Array, bias: Array, axes: tuple[str, ...], devices: int, gradients: bool
) -> tuple[Array, ...]:
    """What one device has of the sums."""
    count = images.shape[0]
    there = _pieces(jnp.ones(count, images.dtype))
    images, texts = _pieces(images), _pieces(texts)
    pieces, rows = there.shape
    forward = [(i, (i + 1) % devices) for i in range(devices)]
    right = jnp.eye(rows, dtype=bool)

    def compare(sums: tuple[Array, ...], at: tuple[Array, Array], texts: Array, own: Array) -> tuple[Array, ...]:
        """A piece of images with a piece of texts; `own` is whether the texts are those of this device."""
        i, j = at
        cosines = jnp.matmul(images[i], texts[j].T, precision="highest")
        sign = jnp.where(right & own & (i == j), 1.0, -1.0)
        counts = there[i][:, None] * there[j]
        logits = sign * (factor * cosines + bias)
        loss, *of_inputs = sums
        loss = loss + (jax.nn.softplus(-logits) * counts).sum()
        if not gradients:
            return (loss,)
        of_logits = -sign * jax.nn.sigmoid(-logits) * counts
        of_images, of_texts, of_factor, of_bias = of_inputs
        of_images = of_images.at[i].add(factor * jnp.matmul(of_logits, texts[j], precision="highest"))
        of_texts = of_texts.at[j].add(factor * jnp.matmul(of_logits.T, images[i], precision="highest"))
        return loss, of_images, of_texts, of_factor + (of_logits * cosines).sum(), of_bias + of_logits.sum()

    i, j = (x.reshape(-1) for x in jnp.mgrid[:pieces, :pieces])

    def step(k: Array, carried: tuple[Array, tuple[Array, ...]]) -> tuple[Array, tuple[Array, ...]]:
        texts, sums = carried
        sums = jax.lax.scan(lambda sums, at: (compare(sums, at, texts, k == 0), None), sums, (i, j))[0]
        if axes:
            texts = jax.lax.ppermute(texts, axes, forward)
            if gradients:
                sums = (*sums[:2], jax.lax.ppermute(sums[2], axes, forward), *sums[3:])
        return texts, sums

    zero = jnp.zeros((), images.dtype)
    sums = (zero, jnp.zeros_like(images), jnp.zeros_like(texts), zero, zero) if gradients else (zero,)
    _, sums = jax.lax.fori_loop(0, devices, step, (texts, sums))
    loss, *of_inputs = sums
    total = functools.partial(jax.lax.psum, axis_name=axes) if axes else lambda x: x
    n = count * devices
    if not gradients:
        return (total(loss) / n,)
    of_images, of_texts, of_factor, of_bias = of_inputs
    whole = (x.reshape(-1, x.shape[-1])[:count] / n for x in (of_images, of_texts))
    return total(loss) / n, *whole, total(of_factor) / n, total(of_bias) / n


def _pieces(x: Array) -> Array:
    """Rows [b, ...] in as few pieces [p, r, ...] of at most `_ROWS` as there can be, the last filled up with zeros."""
    pieces = -(-x.shape[0] // _ROWS)
    rows = -(-x.shape[0] // pieces)
    padded = jnp.pad(x, [(0, pieces * rows - x.shape[0])] + [(0, 0)] * (x.ndim - 1))
    return padded.reshape(pieces, rows, *x.shape[1:])
