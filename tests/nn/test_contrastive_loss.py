"""CLIP's and SigLIP's losses against the papers' formulas in float64 NumPy with loops, on one and on eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vit_jax.nn import contrastive_loss
from vit_jax.nn.batch_axis import batch_split_like
from vit_jax.nn.contrastive_loss import sigmoid_loss, softmax_loss

N, E = 24, 6
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(N, E))
TEXTS = 0.7 * IMAGES + RNG.normal(size=(N, E)) * np.linspace(0.1, 2, N)[:, None]
IMAGES, TEXTS = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (IMAGES, TEXTS))
FACTOR, BIAS = 7.0, -2.0


def cross_entropies(images, texts, factor):
    """Of each image over all texts, with loops."""
    losses, positive, negative = [], 0, 0
    for i, image in enumerate(images):
        own, others = factor * image @ texts[i], [factor * image @ texts[j] for j in range(len(texts)) if j != i]
        losses.append(np.log(np.exp(own) + np.exp(others).sum()) - own)
        positive, negative = positive + 1, negative + len(others)
    return np.array(losses), positive, negative


def softmax_formula(images, texts, factor, bias):
    """Figure 3 of the paper: the mean of both ways."""
    del bias
    return (cross_entropies(images, texts, factor)[0].mean() + cross_entropies(texts, images, factor)[0].mean()) / 2


def sigmoid_formula(images, texts, factor, bias):
    """Algorithm 1 of the paper."""
    total = 0.0
    for i, image in enumerate(images):
        for j, text in enumerate(texts):
            total += np.log1p(np.exp(-(1 if i == j else -1) * (factor * image @ text + bias)))
    return total / len(images)


def ours_softmax(images, texts, factor, bias):
    del bias
    return softmax_loss(images, texts, factor)[0].mean()


CASES = {"softmax": (ours_softmax, softmax_formula), "sigmoid": (sigmoid_loss, sigmoid_formula)}


def mesh_of(devices, tensor=1):
    shape = (devices // tensor, tensor)
    return jax.make_mesh(shape, ("data", "tensor"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:devices])


def gradients_of(loss, devices, tensor=1):
    """Value and gradients by all four, jitted for so many devices as the train step is."""
    rows = NamedSharding(mesh_of(devices, tensor), PartitionSpec("data"))

    def function(*args):
        with batch_split_like(rows):
            return jax.value_and_grad(loss, argnums=(0, 1, 2, 3))(*args)

    return jax.jit(function), rows


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_the_papers_formula_and_its_gradients(name, monkeypatch):
    """In pieces of at most two rows, the last of them filled up; gradients against differences in float64. Two of the
    eight devices may have the same examples, by tensor parallelism."""
    monkeypatch.setattr(contrastive_loss, "_ROWS", 2)
    ours, formula = CASES[name]
    expected = formula(IMAGES, TEXTS, FACTOR, BIAS)
    inputs = [np.asarray(x, np.float64) for x in (IMAGES, TEXTS, FACTOR, BIAS)]
    step, slopes = 1e-6, []
    for which, at in ((0, (3, 1)), (1, (20, 4)), (2, ()), (3, ())):
        moved = [[x.copy() for x in inputs] for _ in range(2)]
        moved[0][which][at] += step
        moved[1][which][at] -= step
        slopes.append((which, at, (formula(*moved[0]) - formula(*moved[1])) / (2 * step)))
    found = []
    for devices, tensor in ((1, 1), (8, 1), (8, 2)):
        function, rows = gradients_of(ours, devices, tensor)
        arguments = [jnp.asarray(x, jnp.float32) for x in inputs]
        value, gradients = function(*jax.device_put(arguments[:2], rows), *arguments[2:])
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        for which, at, slope in slopes:
            np.testing.assert_allclose(gradients[which][at], slope, rtol=1e-4, atol=1e-7)
        found.append(gradients)
    for one, *others in zip(*found, strict=True):
        for other in others:
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    assert np.abs(found[0][0]).max() > 1e-3


def test_the_conventions_of_the_notes():
    """Three pairs have three positive and six negative combinations. The sum of both cross-entropies, as a formula of
    the notes has it, is twice the loss of their codes, which is ours; a fixed factor gives the same as a learned one."""
    images, texts = IMAGES[-3:], TEXTS[-3:]
    of_images, positive, negative = cross_entropies(images, texts, 1 / 0.07)
    of_texts, _, _ = cross_entropies(texts, images, 1 / 0.07)
    assert (positive, negative) == (3, 6)
    losses = jax.jit(lambda factor: softmax_loss(jnp.asarray(images), jnp.asarray(texts), factor)[0])
    learned = np.exp(np.float32(np.log(1 / 0.07)))
    for factor in (1 / 0.07, learned):
        np.testing.assert_allclose(losses(factor).mean(), (of_images + of_texts).mean() / 2, rtol=1e-6)
    np.testing.assert_allclose(2 * losses(learned).mean(), (of_images + of_texts).mean(), rtol=1e-6)


def test_which_are_nearest():
    _, images_right, texts_right = jax.jit(softmax_loss)(jnp.asarray(IMAGES), jnp.asarray(TEXTS), FACTOR)
    cosines = IMAGES @ TEXTS.T
    np.testing.assert_array_equal(images_right, cosines.argmax(1) == np.arange(N))
    np.testing.assert_array_equal(texts_right, cosines.argmax(0) == np.arange(N))
    assert 0 < images_right.sum() < N


@pytest.mark.long
def test_memory_of_a_device():
    """As compiled for eight: that of CLIP's loss grows as the batch does, that of SigLIP's as its own inputs do."""
    width = 8

    def extra(loss, pairs):
        """Bytes beside arguments and results."""
        function, rows = gradients_of(loss, 8)
        vectors = jax.ShapeDtypeStruct((pairs, width), jnp.float32, sharding=rows)
        scalar = jax.ShapeDtypeStruct((), jnp.float32)
        return function.lower(vectors, vectors, scalar, scalar).compile().memory_analysis().temp_size_in_bytes

    few, many = (extra(ours_softmax, pairs) for pairs in (1024, 4096))
    assert few > 128 * 1024 * 4  # the rows of logits that exist at a time
    assert many < 4.2 * few
    # A device's own vectors and their gradients come and go; the square of its 512 pairs would be a megabyte.
    few, many = (extra(sigmoid_loss, pairs) for pairs in (1024, 4096))
    own = 384 * width * 4
    assert many - few < 10 * own < 128 * 128 * 4 * 2
