"""The losses and metrics of VQ-VAE, VAE and PixelCNN on eight devices are those on one."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.tasks import test_pixelcnn, test_vae, test_vqvae
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.training.experiment import build_experiment

CONFIGS = {"vqvae": test_vqvae.config(), "vae": test_vae.config(), "pixelcnn": test_pixelcnn.config()}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_measured_is_one_number_whatever_the_batch(name):
    """On shapes alone: a sum and what it is divided by, so that parts of a batch add up to the whole."""
    task = build_experiment(CONFIGS[name]).task
    found = []
    for size in (2, 16):
        batch = {
            "image": jax.ShapeDtypeStruct((size, 8, 8, 3), np.float32), "label": jax.ShapeDtypeStruct((size,), np.int32)
        }  # fmt: skip
        variables = init_shapes(task.init, jax.random.key(0), batch)
        found.append(jax.eval_shape(task.loss, variables, batch, jax.random.key(1), 0))
    value, (metrics, state) = found[0]
    assert value.shape == () and all(leaf.shape == () for leaf in jax.tree.leaves(metrics)) and found[0] == found[1]
    assert jax.tree.structure(state) == jax.tree.structure(variables["model_state"])


@pytest.mark.long
@pytest.mark.parametrize("name", CONFIGS)
def test_a_loss_of_the_global_batch(name):
    task = build_experiment(CONFIGS[name]).task
    rng = np.random.default_rng(0)
    batch = {"image": rng.uniform(-1, 1, (16, 8, 8, 3)).astype(np.float32), "label": rng.integers(0, 10, 16)}
    variables = jax.jit(task.init)(jax.random.key(0), batch)
    found = []
    for count in (1, 8):
        mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])
        rows = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
        value, (metrics, state) = jax.jit(task.loss)(variables, rows, jax.random.key(1), 0)
        found.append(jax.device_get((value, metrics, state)))
    assert np.isfinite(found[0][0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *found)
    for each in ("codes_used", "perplexity"):
        if each in found[0][1]:
            assert found[0][1][each] == found[1][1][each]
