"""HART's quantiser against what its authors' code computed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.shared_golden import Golden, assert_close
from vit_jax.nn.hybrid_vq import HybridQuantizer
from vit_jax.nn.vq import Codebook

GRIDS = tuple((side, side) for side in (1, 2, 3, 5, 8))
MODEL = HybridQuantizer(Codebook(64, 8), phis=4)


@pytest.fixture(scope="module")
def golden():
    return Golden("hart")


@pytest.fixture(scope="module")
def params(golden):
    theirs = golden.under("quantiser")
    phis = {
        f"phi_{i}": {
            "kernel": theirs[f"quant_resi.qresi_ls.{i}.weight"].transpose(2, 3, 1, 0),
            "bias": theirs[f"quant_resi.qresi_ls.{i}.bias"],
        }
        for i in range(4)
    }
    return {"codebook": {"codes": theirs["embedding.weight"]}, **phis}


@functools.partial(jax.jit, static_argnames="method")
def run(params, *args, method="__call__"):
    return MODEL.apply({"params": params}, *args, GRIDS, method=method)


def latents(golden):
    return golden["f"].transpose(0, 2, 3, 1)


@pytest.mark.parametrize("continuous", [True, False])
def test_training_is_the_authors(golden, params, continuous):
    x = latents(golden)
    name = "train_continuous" if continuous else "train_discrete"
    found = jax.jit(lambda p, x: MODEL.apply({"params": p}, x, GRIDS, True, continuous))(params, x)
    # Theirs is [scales, images].
    stored = np.concatenate([golden[f"{name}/indices_{k}"] for k in range(5)], axis=1)
    np.testing.assert_array_equal(found.indices, stored)
    assert_close(found.latents.transpose(0, 3, 1, 2), golden[f"{name}/f_hat"])
    assert_close(found.loss, golden[f"{name}/vq_loss"])
    if continuous:
        np.testing.assert_array_equal(found.latents, x)


def test_tokens_are_the_authors(golden, params):
    """Without the last convolution, of which training has another result."""
    x = latents(golden)
    found = run(params, x, method="hybrid")
    stored = np.concatenate([golden[f"encode/indices_{k}"] for k in range(5)], axis=1)
    np.testing.assert_array_equal(found.indices, stored)
    assert_close(found.last, golden["encode/last_rest"])
    np.testing.assert_array_equal(found.inputs.shape, golden["transformer_input"].shape)
    assert_close(found.inputs, golden["transformer_input"])


def test_codes_and_what_they_leave_are_the_latents(golden, params):
    x = latents(golden)
    found = run(params, x, method="hybrid")
    tokens = run(params, x, method="tokenize")
    np.testing.assert_array_equal(tokens, found.indices)
    discrete = np.asarray(run(params, tokens, method="embed")).reshape(2, 64, 8)
    codes = np.asarray(params["codebook"]["codes"])[np.asarray(tokens)[:, -64:]]
    np.testing.assert_allclose(discrete + (np.asarray(found.last) - codes), x.reshape(2, 64, 8), atol=1e-6)


def test_gradients_of_both_ways(params):
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 8)).astype(np.float32)

    def loss(x, params, continuous):
        found = MODEL.apply({"params": params}, x, GRIDS, True, continuous)
        return (found.latents * jnp.arange(8)).sum()

    for continuous in (True, False):
        of_x, of_params = jax.jit(jax.grad(loss, argnums=(0, 1)))(x, params, continuous)
        np.testing.assert_allclose(of_x, np.broadcast_to(np.arange(8), x.shape))
        assert not any(np.any(leaf) for leaf in map(np.asarray, jax.tree.leaves(of_params)))
