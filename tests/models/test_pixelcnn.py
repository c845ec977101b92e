"""PixelCNN and PixelRNN: no value sees a later one or itself, all images' probabilities add up to one, and what the
blind spot is."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.drawn import drawn
from vit_jax.models import pixelcnn, pixelrnn
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.masked_conv import causal_mask, colour_of

WIDTH = {"width": 12, "depth": 2, "first_size": 3}
KINDS = {
    "plain": functools.partial(pixelcnn.build, kind="plain", **WIDTH),
    "gated": functools.partial(pixelcnn.build, kind="gated", **WIDTH),
    "row": functools.partial(pixelrnn.build, direction="row", **WIDTH),
    "diagonal": functools.partial(pixelrnn.build, direction="diagonal", **WIDTH),
}


@functools.cache
def built(kind, levels, colours, side):
    model = KINDS[kind](levels=levels, colours=colours)
    empty = jnp.zeros((1, side, side, colours), jnp.int32)
    params = init_shapes(model.init, jax.random.key(0), empty)["params"]
    rng = np.random.default_rng(1)
    return model, {"params": jax.tree.map(lambda x: rng.normal(0, 0.4, x.shape).astype(np.float32), params)}


@functools.cache
def sees(kind):
    """Which values (columns) each value's logits (rows) depend on in images of 4x4 pixels and three colours, in the order
    in which they come: where the Jacobian is not zero at one of several images."""
    model, variables = built(kind, 4, 3, 4)
    weights = np.random.default_rng(2).normal(size=4)

    def answers(x):
        return (model.apply(variables, x[None])[0] @ weights).reshape(-1)

    images = np.random.default_rng(3).uniform(-1, 1, (24, 4, 4, 3)).astype(np.float32)
    return (np.asarray(jax.jit(jax.vmap(jax.jacfwd(answers)))(images)).reshape(24, 48, 48) != 0).any(0)


@pytest.mark.parametrize("kind", KINDS)
def test_no_value_sees_itself_or_a_later_one(kind):
    found = sees(kind)
    assert not np.triu(found).any()
    # The value right before in the row, and the pixel above.
    assert all(found[i, i - 1] for i in range(1, 48) if i % 12) and all(found[i, i - 12] for i in range(12, 48))
    pixels = found.reshape(16, 3, 16, 3).any((1, 3))
    assert pixels[np.tril_indices(16)].all() == (kind == "diagonal")


def test_the_blind_spot():
    """What stands above the pixel in row 2 and column 0, two places to its right, reaches the two stacks only."""
    plain, gated = (sees(kind).reshape(4, 4, 3, 4, 4, 3)[2, 0, 0, 1].any(-1) for kind in ("plain", "gated"))
    np.testing.assert_array_equal(plain, [1, 1, 0, 0])
    np.testing.assert_array_equal(gated, [1, 1, 1, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_probabilities_of_all_images_add_up_to_one(kind):
    """4,096 images of 2x2 pixels with three colours of two levels, by the chain rule."""
    model, variables = built(kind, 2, 3, 2)
    images = np.array(list(itertools.product(range(2), repeat=12))).reshape(-1, 2, 2, 3)
    logs = jax.nn.log_softmax(jax.jit(model.apply)(variables, images))
    each = np.take_along_axis(np.float64(logs), images[..., None], -1).sum((1, 2, 3, 4))
    np.testing.assert_allclose(np.exp(each).sum(), 1, rtol=1e-5)
    assert np.exp(each).std() > 0


@pytest.mark.parametrize("kind", ["gated", "diagonal"])
def test_a_class_and_maps_are_heard_everywhere(kind):
    model = KINDS[kind](levels=3, colours=1, num_conditions=4)
    levels = np.random.default_rng(0).integers(0, 3, (2, 4, 4, 1))
    maps = np.random.default_rng(1).normal(size=(2, 4, 4, 5)).astype(np.float32)
    variables = drawn(model.init, jax.random.key(0), levels, np.array([0, 1]), maps)
    apply = jax.jit(model.apply)
    one, other = (apply(variables, levels, np.array(label), maps) for label in ([0, 1], [2, 1]))
    assert np.all(np.abs(one[0] - other[0]).max(-1) > 0)
    np.testing.assert_allclose(one[1], other[1], atol=1e-6)
    changed = maps.copy()
    changed[0, 0, 0] += 1
    assert np.abs(apply(variables, levels, np.array([0, 1]), changed)[0, 0, 0] - one[0, 0, 0]).max() > 0
    assert model.flops((4, 4)) > 0


def test_masks():
    """By hand, for two colours: three channels of each, and the gates of a unit cut before."""
    np.testing.assert_array_equal(colour_of(6, 2), [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(colour_of(8, 2, 2), [0, 0, 1, 1, 0, 0, 1, 1])
    mask = causal_mask((3, 3), (0, 1), (0, 1), itself=False)
    assert mask[0].all() and mask[1, 0].all() and not mask[1, 2].any() and not mask[2].any()
    np.testing.assert_array_equal(mask[1, 1], [[0, 1], [0, 0]])
    np.testing.assert_array_equal(causal_mask((3, 3), (0, 1), (0, 1), itself=True)[1, 1], [[1, 1], [0, 1]])
