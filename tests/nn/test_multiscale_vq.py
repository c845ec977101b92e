"""Maps of tokens from coarse to fine: against the authors' own numbers, and what must hold of any."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.errors import UserError
from vit_jax.nn.multiscale_vq import MultiScaleQuantizer, phi_of_scale, split_scales, square_grids
from vit_jax.nn.vq import Codebook

GRIDS = ((1, 1), (2, 2), (3, 3))
X = np.random.default_rng(0).normal(size=(2, 3, 3, 4)).astype(np.float32)


def test_scales_and_the_convolutions_that_they_share():
    assert [phi_of_scale(k, 10, 4) for k in range(10)] == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    assert [phi_of_scale(k, 5, 5) for k in range(5)] == [0, 1, 2, 3, 4]
    assert [phi_of_scale(k, 5, 1) for k in range(5)] == [0] * 5
    assert phi_of_scale(0, 1, 4) == 0
    assert square_grids((1, 2), (2, 2)) == ((1, 1), (2, 2))


@pytest.fixture(scope="module")
def quantizer():
    model = MultiScaleQuantizer(Codebook(16, 4, codes_init=jax.nn.initializers.normal(1.0)), phis=2)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), X, GRIDS))["params"]
    draw = np.random.default_rng(1)
    return model, {"params": jax.tree.map(lambda p: jnp.asarray(draw.normal(0, 0.4, p.shape), jnp.float32), params)}


def test_what_tokens_stand_for_is_the_sum_of_all_scales(quantizer):
    model, variables = quantizer

    @jax.jit
    def run(variables):
        tokens = model.apply(variables, X, GRIDS, method="tokenize")
        each = [
            model.apply(variables, indices, k, GRIDS, method="enlarged")
            for k, indices in enumerate(split_scales(tokens, GRIDS))
        ]
        return tokens, model.apply(variables, X, GRIDS), model.apply(variables, tokens, GRIDS, method="embed"), each

    tokens, out, embedded, each = run(variables)
    assert tokens.shape == (2, 14) and tokens.dtype == jnp.int32
    np.testing.assert_array_equal(out.indices, tokens)
    np.testing.assert_allclose(out.latents, embedded, atol=1e-6)
    np.testing.assert_allclose(out.latents, np.sum(each, axis=0), atol=1e-6)


def test_the_input_of_a_scale_knows_no_later_one(quantizer):
    """Tokens of a scale change the inputs of those behind it, and of no other."""
    model, variables = quantizer
    tokens = np.random.default_rng(2).integers(0, 16, (1, 14))
    run = jax.jit(lambda tokens: model.apply(variables, tokens, GRIDS, method="inputs"))
    inputs = run(jnp.asarray(tokens))
    assert inputs.shape == (1, 13, 4)
    for first, last, same in ((0, 1, 0), (1, 5, 4), (5, 14, 13)):
        other = tokens.copy()
        other[:, first:last] = (other[:, first:last] + 1) % 16
        changed = np.any(run(jnp.asarray(other)) != inputs, axis=-1)[0]
        assert not changed[:same].any() and changed[same:].all()


def test_the_gradient_of_the_latents_goes_straight_through(quantizer):
    model, variables = quantizer
    weight = np.random.default_rng(3).normal(size=X.shape).astype(np.float32)
    gradient = jax.jit(jax.grad(lambda x: (model.apply(variables, x, GRIDS).latents * weight).sum()))(X)
    np.testing.assert_allclose(gradient, weight, atol=1e-6)


def test_moving_averages_learn_from_all_scales():
    model = MultiScaleQuantizer(Codebook(8, 4, decay=0.5), phis=1)

    @jax.jit
    def run(key):
        variables = model.init(key, X, GRIDS)
        return model.apply(variables, X, GRIDS, train=True, mutable=["codebooks"])

    _, state = run(jax.random.key(0))
    counts = state["codebooks"]["codebook"]["counts"]
    assert counts.sum() == pytest.approx(0.5 * 8 + 0.5 * 2 * 14)


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda q: square_grids((1, 2), (3, 3)), "end at 2x2, and the latents of the image have 3x3"),
        (lambda q: q[0].apply(q[1], X, GRIDS[:2]), "end at 2x2, and the latents are 3x3"),
        (lambda q: q[0].apply(q[1], jnp.zeros((1, 13), int), GRIDS, method="embed"), "13 tokens has not the 14"),
    ],
)
def test_what_does_not_fit_is_one_sentence(quantizer, call, what):
    with pytest.raises(UserError, match=what):
        call(quantizer)
