"""Quantisers against loops in NumPy: look-up, gradients, losses, moving averages, restarts, and the use of codes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vit_jax import UserError
from vit_jax.nn import vq
from vit_jax.nn.code_usage import code_counts, perplexity, usage, usage_remarks

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 3, 3, 4)).astype(np.float32)
CODES = RNG.normal(size=(6, 4)).astype(np.float32)


def fixed_codes(*_):
    return jnp.asarray(CODES)


def by_hand(x, codes):
    """The nearest code of each row, with a loop in float64."""
    return np.array([np.argmin([np.sum((row - code) ** 2) for code in codes]) for row in np.float64(x)])


@pytest.mark.long
def test_nearest_is_brute_force_and_ties_go_to_the_first():
    found = jax.jit(vq.nearest)(X, CODES)
    np.testing.assert_array_equal(found.reshape(-1), by_hand(X.reshape(-1, 4), CODES))
    distances = np.square(X[..., None, :] - CODES).sum(-1)
    np.testing.assert_allclose(vq.squared_distances(X, CODES), distances, rtol=1e-5)
    angles = np.einsum("bhwd,kd->bhwk", X, CODES) / np.linalg.norm(CODES, axis=1)
    np.testing.assert_array_equal(vq.nearest(X, CODES, cosine=True), angles.argmax(-1))
    twice = np.concatenate([CODES[::-1], CODES])
    assert np.all(vq.nearest(X, twice) < 6)
    assert not np.array_equal(vq.nearest(X, CODES), vq.nearest(X, CODES, cosine=True))


def test_straight_through_and_the_two_losses():
    codes = CODES[by_hand(X.reshape(-1, 4), CODES)].reshape(X.shape)
    np.testing.assert_array_equal(vq.straight_through(1e6 * X, codes), codes)
    slopes = jax.grad(lambda x: (vq.straight_through(x, codes) * X).sum())(X)
    np.testing.assert_array_equal(slopes, X)
    gap = np.square(X - codes).mean()
    for legacy, (of_codes, of_x) in ((False, (1, 0.25)), (True, (0.25, 1))):
        value, slopes = jax.value_and_grad(functools.partial(vq.codebook_loss, legacy=legacy), (0, 1))(X, codes)
        np.testing.assert_allclose(value, 1.25 * gap, rtol=1e-6)
        np.testing.assert_allclose(slopes[0], 2 * of_x * (X - codes) / X.size, atol=1e-8)
        np.testing.assert_allclose(slopes[1], 2 * of_codes * (codes - X) / X.size, atol=1e-8)


def test_a_gradient_moves_the_codes_that_are_used():
    model = vq.VectorQuantizer(vq.Codebook(6, 4, codes_init=fixed_codes))
    variables = model.init(jax.random.key(0), X)
    assert jax.tree.map(jnp.shape, variables) == {"params": {"codebook": {"codes": (6, 4)}}}

    def loss(variables, x):
        found = model.apply(variables, x, train=True)
        return found.loss + found.latents.sum(), found

    (_, found), (of_codes, of_x) = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(variables, X)
    np.testing.assert_array_equal(found.latents, CODES[found.indices])
    np.testing.assert_array_equal(model.apply(variables, found.indices, method="embed"), found.latents)
    np.testing.assert_allclose(of_x, 1 + 2 * 0.25 * (X - found.latents) / X.size, rtol=1e-5)
    wanted = np.zeros_like(CODES)
    np.add.at(wanted, found.indices, 2 * (found.latents - X) / X.size)
    np.testing.assert_allclose(of_codes["params"]["codebook"]["codes"], wanted, atol=1e-7)


def averaged(restart_below=0.0, **kwargs):
    book = vq.Codebook(6, 4, decay=0.9, restart_below=restart_below, codes_init=fixed_codes, **kwargs)
    return vq.VectorQuantizer(book)


@functools.partial(jax.jit, static_argnums=0)
def _moved(model, variables, x, key):
    rngs = {"dropout": jax.random.key(key)}
    return model.apply(variables, x, train=True, mutable=[vq.COLLECTION], rngs=rngs)


def moved(model, variables, x, key=0):
    return jax.device_get(_moved(model, variables, x, key))


def test_moving_averages_with_laplace_smoothing():
    """Three steps by hand in float64; evaluation moves nothing."""
    model = averaged()
    state = model.init(jax.random.key(0), X)
    codes, counts, sums = np.float64(CODES), np.ones(6), np.float64(CODES)
    for step in range(3):
        x = X + step
        found, new = moved(model, state, x)
        rows, indices = np.float64(x.reshape(-1, 4)), by_hand(x.reshape(-1, 4), codes)
        np.testing.assert_array_equal(found.indices.reshape(-1), indices)
        np.testing.assert_allclose(found.latents, codes[found.indices], rtol=1e-5)
        np.testing.assert_allclose(found.loss, 0.25 * np.square(found.latents - x).mean(), rtol=1e-5)
        for k in range(6):
            counts[k] = 0.9 * counts[k] + 0.1 * np.sum(indices == k)
            sums[k] = 0.9 * sums[k] + 0.1 * rows[indices == k].sum(0)
        codes = sums / ((counts + 1e-5) / (counts.sum() + 6e-5) * counts.sum())[:, None]
        for name, wanted in (("codes", codes), ("counts", counts), ("sums", sums)):
            np.testing.assert_allclose(new[vq.COLLECTION]["codebook"][name], wanted, rtol=1e-4)
        still = model.apply(new, x, mutable=[vq.COLLECTION])[1]
        jax.tree.map(np.testing.assert_array_equal, still, new)
        state = new


def test_dead_codes_start_anew_at_different_latents():
    far = np.concatenate([CODES[:1], 100 + CODES[1:]])
    model = averaged(restart_below=0.95)
    state = model.init(jax.random.key(0), X)
    state[vq.COLLECTION]["codebook"] |= {"codes": jnp.asarray(far), "sums": jnp.asarray(far)}
    _, new = moved(model, state, X)
    codes, rows = new[vq.COLLECTION]["codebook"]["codes"], X.reshape(-1, 4)
    where = [np.flatnonzero((rows == code).all(1)) for code in codes[1:]]
    assert all(len(found) == 1 for found in where) and len({int(found[0]) for found in where}) == 5
    np.testing.assert_allclose(new[vq.COLLECTION]["codebook"]["counts"][1:], 0.95)
    assert len(np.unique(model.apply(new, X).indices)) == 6
    assert not np.array_equal(moved(model, state, X, key=1)[1][vq.COLLECTION]["codebook"]["codes"], codes)
    # Fewer latents than dead codes: none is drawn twice, and the rest waits.
    few = moved(model, state, X[:1, 0])[1][vq.COLLECTION]["codebook"]["codes"]
    assert sum(any((code == row).all() for row in X[0, 0]) for code in few[1:]) == 3
    # Without a restart the one live code stays alone.
    alone = averaged()
    state = moved(alone, state, X)[1]
    assert len(np.unique(alone.apply(state, X).indices)) == 1


@pytest.mark.parametrize("books", [1, 3])
def test_residual_codes(books):
    """By hand: each depth takes what those before it left; the gradient goes straight through once."""
    tables = [RNG.normal(size=(5, 4)).astype(np.float32) for _ in range(books)]
    model = vq.ResidualQuantizer(tuple(vq.Codebook(5, 4) for _ in range(books)), depth=3)
    variables = {"params": {f"codebooks_{i}": {"codes": table} for i, table in enumerate(tables)}}
    assert jax.tree.map(jnp.shape, model.init(jax.random.key(0), X)) == jax.tree.map(jnp.shape, variables)
    found = model.apply(variables, X)
    left, loss = np.float64(X.reshape(-1, 4)), 0
    for depth in range(3):
        codes = tables[min(depth, books - 1)]
        indices = by_hand(left, codes)
        np.testing.assert_array_equal(found.indices[..., depth].reshape(-1), indices)
        left = left - codes[indices]
        loss += 1.25 * np.square(left).mean()
        coarse = model.apply(variables, found.indices[..., : depth + 1], method="embed")
        np.testing.assert_allclose(coarse.reshape(-1, 4), X.reshape(-1, 4) - left, atol=1e-5)
    np.testing.assert_allclose(found.latents, coarse, atol=1e-6)
    np.testing.assert_allclose(found.loss, loss, rtol=1e-5)
    slopes = jax.grad(lambda x: (model.apply(variables, x).latents * X).sum())(X)
    np.testing.assert_array_equal(slopes, X)


def test_one_codebook_of_several_depths_learns_from_all_of_them():
    model = vq.ResidualQuantizer((vq.Codebook(6, 4, decay=0.9, codes_init=fixed_codes),), depth=2)
    found, new = moved(model, model.init(jax.random.key(0), X), X)
    counts = np.bincount(found.indices.reshape(-1), minlength=6)
    np.testing.assert_allclose(new[vq.COLLECTION]["codebooks_0"]["counts"], 0.9 + 0.1 * counts, rtol=1e-6)


@pytest.mark.long
def test_gumbel_draws():
    """Near a temperature of 0 they are draws of the softmax; one code alone in evaluation, and its divergence."""
    logits = jnp.log(jnp.array([0.1, 0.2, 0.7]))
    drawn = vq.gumbel_softmax(jax.random.key(0), jnp.broadcast_to(logits, (4000, 3)), 0.01)
    np.testing.assert_allclose(drawn.mean(0), [0.1, 0.2, 0.7], atol=0.03)

    @functools.partial(jax.jit, static_argnums=1)
    def draw(logits, hard):
        return jax.value_and_grad(lambda x: vq.gumbel_softmax(jax.random.key(1), x, 1.0, hard)[0])(logits)

    (hard, slopes), (soft, soft_slopes) = draw(logits, True), draw(logits, False)
    assert float(hard) in (0, 1) and 0 < float(soft) < 1
    np.testing.assert_allclose(slopes, soft_slopes, rtol=1e-6)
    np.testing.assert_allclose(vq.divergence_from_uniform(logits), sum(p * np.log(3 * p) for p in (0.1, 0.2, 0.7)))
    model = vq.GumbelQuantizer(5, 4)
    variables = jax.jit(model.init)(jax.random.key(0), X)
    found = jax.jit(model.apply)(variables, X)
    np.testing.assert_array_equal(found.latents, model.apply(variables, found.indices, method="embed"))
    train = jax.jit(functools.partial(model.apply, tau=0.5, train=True))
    trained = train(variables, X, rngs={"dropout": jax.random.key(0)})
    assert not np.allclose(trained.latents, found.latents)
    # As the authors train it: each latent is one code, and no mixture.
    gaps = np.abs(trained.latents[..., None, :] - variables["params"]["codes"]).max(-1).min(-1)
    np.testing.assert_allclose(gaps, 0, atol=1e-6)
    np.testing.assert_array_equal(trained.loss, found.loss)


@pytest.mark.long
def test_entropy_loss():
    """0 less the logarithm of K where latents are sure and all codes used alike; 0 where all take one code."""
    alike = jnp.tile(10 * jnp.eye(4), (3, 1))
    np.testing.assert_allclose(vq.entropy_loss(alike), -np.log(4), atol=1e-4)
    np.testing.assert_allclose(vq.entropy_loss(alike[:1]), 0, atol=1e-4)
    affinity = RNG.normal(size=(7, 4)) / 100
    shares = np.exp(affinity / 0.01) / np.exp(affinity / 0.01).sum(1, keepdims=True)
    wanted = -(shares * np.log(shares)).sum(1).mean() + (shares.mean(0) * np.log(shares.mean(0))).sum()
    np.testing.assert_allclose(vq.entropy_loss(jnp.asarray(affinity)), wanted, atol=1e-4)


def test_the_unit_sphere():
    model = vq.VectorQuantizer(vq.Codebook(6, 4, cosine=True, decay=0.9))
    variables = model.init(jax.random.key(0), X)
    found, new = moved(model, variables, X)
    np.testing.assert_allclose(np.linalg.norm(found.latents, axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(new[vq.COLLECTION]["codebook"]["codes"], axis=-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(model.apply(variables, 7 * X).indices, found.indices)


def test_use_of_codes():
    maps = [jnp.array([[0, 0], [1, 1]]), jnp.array([[2], [2]])]
    values = {name: float(total / weight) for name, (total, weight) in usage(maps, 8).items()}
    assert values["codes_used"] == 3 and values["codes_used/0"] == 2 and values["codes_used/1"] == 1
    np.testing.assert_allclose(values["perplexity"], 3, rtol=1e-6)
    np.testing.assert_allclose([values["perplexity/0"], values["perplexity/1"]], [2, 1], rtol=1e-6)
    assert usage_remarks(values, 8) == {}
    alone = {name: float(total) for name, (total, _) in usage(maps[1], 8).items()}
    (text,) = usage_remarks(alone, 8).values()
    assert "one code of 8 is in use (12 %)" in text
    assert usage_remarks({"codes_used": 1.0}, 1) == {}  # there is no more


def test_eight_devices_count_and_learn_as_one():
    """The counts to the bit; what is a sum of floats to its rounding."""
    model = averaged(restart_below=0.95)
    state = model.init(jax.random.key(0), X)

    def step(x):
        found, new = moved(model, state, x)
        return found, new, code_counts(found.indices, 6), perplexity(code_counts(found.indices, 6))

    results = []
    for count in (1, 8):
        mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])
        rows = NamedSharding(mesh, PartitionSpec("data"))
        results.append(jax.device_get(jax.jit(step)(jax.device_put(X, rows))))
    np.testing.assert_array_equal(results[0][2], results[1][2])
    assert results[0][3] == results[1][3]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *results)


def test_bad_numbers():
    for model, words in (
        (vq.VectorQuantizer(vq.Codebook(0, 4)), "0 codes"),
        (vq.VectorQuantizer(vq.Codebook(6, 4, restart_below=1.0)), "start anew"),
        (vq.VectorQuantizer(vq.Codebook(6, 5)), "width 4"),
        (vq.ResidualQuantizer((vq.Codebook(6, 4),), depth=9), "1 to 8"),
        (vq.ResidualQuantizer((vq.Codebook(6, 4), vq.Codebook(6, 4)), depth=3), "depth of 3"),
        (vq.ResidualQuantizer((vq.Codebook(6, 4, cosine=True),), depth=3), "length 1"),
    ):
        with pytest.raises(UserError, match=words):
            model.init(jax.random.key(0), X)
