"""A head of transposed convolutions; against a published file's own in tests/real."""

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.nn.conv import ConvTranspose
from vit_jax.nn.transposed_head import TransposedHead

MAPS = {16: np.random.default_rng(0).normal(size=(2, 3, 2, 5)).astype(np.float32), 8: np.zeros((2, 6, 4, 1))}


def test_every_convolution_doubles_the_coarsest_map():
    head = TransposedHead(3, widths=(4, 6))
    shapes = jax.eval_shape(lambda: head.init(jax.random.key(0), MAPS))
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda leaf: rng.uniform(-0.5, 0.9, leaf.shape).astype(np.float32), shapes)
    variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])

    @jax.jit
    def by_hand(variables):
        params, x = variables["params"], jnp.asarray(MAPS[16])
        for i, width in enumerate((4, 6)):
            x = ConvTranspose(width, 4, 2, padding=1).apply({"params": params[f"conv_{i}"]}, x)
            norm, seen = params[f"norm_{i}"], variables["batch_stats"][f"norm_{i}"]
            x = (x - seen["mean"]) / jnp.sqrt(seen["var"] + 1e-5) * norm["scale"] + norm["bias"]
            x = jnp.maximum(x, 0)
        return x @ params["classifier"]["kernel"][0, 0] + params["classifier"]["bias"]

    found = jax.jit(lambda v: head.apply(v, MAPS))(variables)["mask_logits"]
    assert found.shape == (2, 12, 8, 3) and (np.asarray(found).std() > 0.1)
    np.testing.assert_allclose(found, by_hand(variables), rtol=1e-5, atol=1e-5)
    # Each place of a map is multiplied with 4x4 filters.
    products = 6 * 5 * 16 * 4 + 24 * 4 * 16 * 6 + 96 * 6 * 3
    assert head.flops({16: (3, 2, 5), 8: (6, 4, 1)}) == 2 * products
