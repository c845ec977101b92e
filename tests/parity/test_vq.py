"""vector_quantize_pytorch: codes, losses and gradients, moving averages over three steps, residual codes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from vit_jax.nn import vq

pytorch = pytest.importorskip("vector_quantize_pytorch")

RNG = np.random.default_rng(0)
CODES = RNG.normal(size=(3, 16, 8)).astype(np.float32)
STEPS = RNG.normal(size=(3, 6, 10, 8)).astype(np.float32)  # [step, B, N, D]


def theirs(codes, **kwargs):
    kwargs |= {"decay": 0.99, "threshold_ema_dead_code": 0, "commitment_weight": 0.25}
    model = pytorch.VectorQuantize(8, 16, rotation_trick=False, **kwargs)  # its gradient, another than the paper's
    put(model._codebook, codes)
    return model.train()


def put(codebook, codes):
    codes = torch.from_numpy(codes)[None]
    codebook.embed.data.copy_(codes)
    codebook.embed_avg.data.copy_(codes)


def ours(codes, **kwargs):
    model = vq.VectorQuantizer(vq.Codebook(16, 8, decay=0.99, codes_init=lambda *_: jnp.asarray(codes), **kwargs))
    return model, model.init(jax.random.key(0), STEPS[0])


@pytest.mark.parametrize("cosine", [False, True])
def test_moving_averages_over_three_steps(cosine):
    codes = CODES[0] / np.linalg.norm(CODES[0], axis=1, keepdims=True) if cosine else CODES[0]
    oracle = theirs(codes, use_cosine_sim=cosine)
    model, state = ours(codes, cosine=cosine)
    for step in STEPS:
        x = torch.from_numpy(step).requires_grad_()
        latents, indices, loss = oracle(x)
        (latents.square().sum() + loss).backward()

        def value(x, state=state):
            found, new = model.apply(state, x, train=True, mutable=[vq.COLLECTION])
            return jnp.square(found.latents).sum() + found.loss, (found, new)

        slopes, (found, state) = jax.jit(jax.grad(value, has_aux=True))(step)
        np.testing.assert_array_equal(found.indices, indices.numpy())
        np.testing.assert_allclose(found.latents, latents.detach().numpy(), atol=1e-5)
        np.testing.assert_allclose(found.loss, loss.item(), rtol=1e-5)
        np.testing.assert_allclose(slopes, x.grad.numpy(), atol=1e-5)
        mine = state[vq.COLLECTION]["codebook"]
        np.testing.assert_allclose(mine["codes"], oracle._codebook.embed[0].numpy(), atol=1e-5)
        np.testing.assert_allclose(mine["counts"], oracle._codebook.cluster_size[0].numpy(), atol=1e-5)
        np.testing.assert_allclose(mine["sums"], oracle._codebook.embed_avg[0].numpy(), atol=1e-5)
    assert np.abs(mine["codes"] - codes).max() > 1e-3


def test_codes_that_learn_by_a_gradient():
    """Theirs weighs both terms alike: beta is 1."""
    oracle = pytorch.VectorQuantize(8, 16, ema_update=False, learnable_codebook=True, threshold_ema_dead_code=0)
    put(oracle._codebook, CODES[0])
    _, indices, loss = oracle.train()(torch.from_numpy(STEPS[0]).requires_grad_())
    loss.backward()
    model = vq.VectorQuantizer(vq.Codebook(16, 8), beta=1.0)

    def value(codes):
        found = model.apply({"params": {"codebook": {"codes": codes}}}, STEPS[0])
        return found.loss, found

    (_, found), slopes = jax.value_and_grad(value, has_aux=True)(jnp.asarray(CODES[0]))
    np.testing.assert_array_equal(found.indices, indices.numpy())
    np.testing.assert_allclose(found.loss / 2, loss.item(), rtol=1e-5)
    np.testing.assert_allclose(slopes, oracle._codebook.embed.grad[0].numpy(), atol=1e-7)


@pytest.mark.parametrize("shared", [False, True])
def test_residual_codes(shared):
    """In evaluation; theirs hands the gradient of each depth to the latents, ours that of the sum once."""
    oracle = pytorch.ResidualVQ(dim=8, num_quantizers=3, codebook_size=16, shared_codebook=shared).eval()
    for layer, codes in zip(oracle.layers, CODES, strict=True):
        put(layer._codebook, CODES[0] if shared else codes)
    model = vq.ResidualQuantizer(tuple(vq.Codebook(16, 8) for _ in range(1 if shared else 3)), depth=3)
    params = {f"codebooks_{i}": {"codes": codes} for i, codes in enumerate(CODES[: len(model.codebooks)])}
    with torch.no_grad():
        latents, indices, _ = oracle(torch.from_numpy(STEPS[0]))
    found = jax.jit(model.apply)({"params": params}, STEPS[0])
    np.testing.assert_array_equal(found.indices, indices.numpy())
    np.testing.assert_allclose(found.latents, latents.numpy(), atol=1e-5)


def test_residual_codes_with_moving_averages():
    oracle = pytorch.ResidualVQ(
        dim=8, num_quantizers=3, codebook_size=16, decay=0.99, threshold_ema_dead_code=0, commitment_weight=0.25
    ).train()  # fmt: skip
    for layer, codes in zip(oracle.layers, CODES, strict=True):
        put(layer._codebook, codes)
    tables = iter(CODES)
    books = tuple(vq.Codebook(16, 8, decay=0.99, codes_init=lambda *_: jnp.asarray(next(tables))) for _ in range(3))
    model = vq.ResidualQuantizer(books, depth=3)
    state = model.init(jax.random.key(0), STEPS[0])
    for step in STEPS:
        latents, indices, losses = oracle(torch.from_numpy(step))
        found, state = model.apply(state, step, train=True, mutable=[vq.COLLECTION])
        np.testing.assert_array_equal(found.indices, indices.numpy())
        np.testing.assert_allclose(found.latents, latents.detach().numpy(), atol=1e-5)
        np.testing.assert_allclose(found.loss, losses.sum().item(), rtol=1e-5)
        for i, layer in enumerate(oracle.layers):
            wanted = layer._codebook.embed[0].numpy()
            np.testing.assert_allclose(state[vq.COLLECTION][f"codebooks_{i}"]["codes"], wanted, atol=1e-5)
