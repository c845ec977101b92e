"""The losses and metrics of VQ-VAE, VAE and PixelCNN on eight devices are those on one."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.tasks import test_pixelcnn, test_vae, test_vqvae
from vit_jax.training.experiment import build_experiment

CONFIGS = {"vqvae": test_vqvae.config(), "vae": test_vae.config(), "pixelcnn": test_pixelcnn.config()}


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
