"""Generators of tokens on eight devices as on one: their losses and their samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests.tasks import test_autoregressive as tokenwise
from tests.tasks import test_dalle as painting
from tests.tasks import test_maskgit as masked
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.tasks.autoregressive import TokenSampling
from vit_jax.tasks.dalle import DalleSampling
from vit_jax.tasks.maskgit import MaskGITSampling

CASES = {
    "autoregressive": (lambda: tokenwise.task_of(size=3, colors=5, order="random"), tokenwise, 9, TokenSampling()),
    "maskgit": (masked.task_of, masked, 16, MaskGITSampling(steps=3, guidance=1.5)),
    "dalle": (lambda: painting.task_of(text_drop=0.1), painting, 9, DalleSampling(temperature=0.9)),
}


@pytest.fixture(scope="module")
def split():
    """How rows and parameters lie on eight devices."""
    mesh = Mesh(np.array(jax.devices()[:8]), "data")
    return NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())


@pytest.mark.parametrize("name", CASES)
def test_what_is_drawn_is_as_large_as_what_is_learned_from(name):
    """On shapes alone: an image of as many pixels as there are tokens, and one number for a batch."""
    build, _, count, settings = CASES[name]
    task, asked = build(), {"label": jnp.arange(5) % 3}
    if name == "dalle":
        asked = task.conditions(["ab", "c", "", "de", "e"], settings)
    variables = init_shapes(task.init, jax.random.key(0), {})
    batch = {**asked, "indices": jax.ShapeDtypeStruct((5, count), jnp.int32)}
    value, (metrics, _) = jax.eval_shape(task.loss, variables, batch, jax.random.key(0), 0)
    assert all(leaf.shape == () for leaf in jax.tree.leaves((value, metrics)))
    keys = jax.random.split(jax.random.key(1), 5)
    drawn = jax.eval_shape(lambda *given: task.sample(*given, settings), variables, asked, keys)
    side = round(count**0.5)
    assert drawn.shape == (5, side, side, 3) and drawn.dtype == jnp.float32


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_eight_devices(name, split):
    build, tests, count, settings = CASES[name]
    task, rng = build(), np.random.default_rng(0)
    asked = {"label": rng.integers(0, 3, 8)}
    if name == "dalle":
        asked = task.conditions(["ab", "c", "", "de"] * 2, settings)
    batch = {**asked, "indices": rng.integers(0, 5, (8, count))}
    keys = jax.random.split(jax.random.key(1), 8)
    variables, (rows, everywhere) = tests.variables_of(task), split
    loss = jax.jit(lambda variables, batch: task.loss(variables, batch, jax.random.key(0), 0)[:2])
    draw = jax.jit(lambda variables, asked, keys: task.sample(variables, asked, keys, settings))
    asked = jax.tree.map(jnp.asarray, asked)
    ours, theirs = loss(variables, batch), loss(jax.device_put(variables, everywhere), jax.device_put(batch, rows))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours[0], theirs[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours[1][0], theirs[1][0])
    images = draw(variables, asked, keys)
    split_images = draw(*jax.device_put((variables,), everywhere), *jax.device_put((asked, keys), rows))
    np.testing.assert_allclose(images, split_images, atol=1e-6)
