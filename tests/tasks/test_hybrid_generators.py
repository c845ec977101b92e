"""Generators with a diffusion head on eight devices as on one: their losses and their samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests.tasks import test_hart as hybrid
from tests.tasks import test_mar as filling
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.tasks.hart import HARTSampling
from vit_jax.tasks.mar import MARSampling

CASES = {
    "mar": (filling, MARSampling(steps=3, head_steps=2, guidance=1.5)),
    "hart": (hybrid, HARTSampling(steps=2, guidance=1.5)),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_drawn_is_as_large_as_what_is_learned_from(name):
    """On shapes alone: an image for each class that is asked for."""
    tests, settings = CASES[name]
    task = tests.task_of()
    variables = init_shapes(task.init, jax.random.key(0), {})
    asked, keys = {"label": jnp.arange(5) % 3}, jax.random.split(jax.random.key(1), 5)
    drawn = jax.eval_shape(lambda *given: task.sample(*given, settings), variables, asked, keys)
    assert drawn.shape == (5, 8, 8, 3) and drawn.dtype == jnp.float32


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_eight_devices(name):
    tests, settings = CASES[name]
    mesh = Mesh(np.array(jax.devices()[:8]), "data")
    rows, everywhere = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    task, rng = tests.task_of(), np.random.default_rng(0)
    asked = {"label": jnp.asarray(rng.integers(0, 3, 8))}
    batch = {**asked, "image": jnp.asarray(rng.uniform(-1, 1, (8, 8, 8, 3)), jnp.float32)}
    keys, variables = jax.random.split(jax.random.key(1), 8), tests.variables_of(task)
    spread = jax.device_put(variables, everywhere)
    loss = jax.jit(lambda variables, batch: task.loss(variables, batch, jax.random.key(0), 0)[:2])
    ours, theirs = loss(variables, batch), loss(spread, jax.device_put(batch, rows))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), (ours[0], ours[1][0]), (theirs[0], theirs[1][0])
    )
    draw = jax.jit(lambda variables, asked, keys: task.sample(variables, asked, keys, settings))
    split = draw(spread, *jax.device_put((asked, keys), rows))
    np.testing.assert_allclose(draw(variables, asked, keys), split, atol=2e-5)
