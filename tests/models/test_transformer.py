"""The Transformer of 2017 against NumPy in float64, its sizes, and decoding with what a cache holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.errors import UserError
from vit_jax.models.transformer import build
from vit_jax.nn.decode import beam_search
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.sinusoids import sinusoids

B, S, T, V, D, H = 2, 5, 4, 11, 16, 2
TINY = dict(width=D, encoder_depth=2, decoder_depth=2, mlp_dim=24, num_heads=H, vocab_size=V, max_length=16)
rng = np.random.default_rng(0)
SOURCE, TARGET = rng.integers(0, V, (B, S)), rng.integers(0, V, (B, T))
SOURCE_MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)


def random_params(model):
    shapes = init_shapes(lambda: model.init(jax.random.key(0), SOURCE, TARGET, SOURCE_MASK)["params"])
    draw = np.random.default_rng(1)
    return jax.tree.map(lambda x: (draw.normal(size=x.shape) * 0.3).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def tiny():
    model = build(**TINY)
    return model, jax.tree.map(jnp.asarray, random_params(model))


def encoded(model, params):
    return jax.jit(lambda p: model.apply({"params": p}, SOURCE, SOURCE_MASK, method="encode"))(params)


def norm(p, x):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def attend(p, x, memory, seen):
    q, k, v = (np.einsum("btw,whd->bhtd", y, p[n]["kernel"]) + p[n]["bias"][:, None] for n, y in
               (("query", x), ("key", memory), ("value", memory)))  # fmt: skip
    logits = np.where(seen, q @ k.swapaxes(-1, -2) / np.sqrt(D // H), -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    out = weights / weights.sum(-1, keepdims=True) @ v
    return np.einsum("bhtd,hdw->btw", out, p["out"]["kernel"]) + p["out"]["bias"]


def block(p, x, seen, memory=None, memory_seen=None):
    x = norm(p["norm1"], x + attend(p["attention"], x, x, seen))
    if memory is not None:
        x = norm(p["norm_cross"], x + attend(p["cross"], x, memory, memory_seen))
    hidden = np.maximum(x @ p["mlp"]["fc1"]["kernel"] + p["mlp"]["fc1"]["bias"], 0)
    return norm(p["norm2"], x + hidden @ p["mlp"]["fc2"]["kernel"] + p["mlp"]["fc2"]["bias"])


def reference(p, source, target, mask):
    """Equation by equation, section 3; float64."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), p["text"])
    table = np.zeros((16, D))
    for place in range(16):
        for i in range(D // 2):
            table[place, 2 * i : 2 * i + 2] = np.sin(place / 1e4 ** (2 * i / D)), np.cos(place / 1e4 ** (2 * i / D))
    x = p["embedding"][source] * np.sqrt(D) + table[: source.shape[1]]
    for i in range(2):
        x = block(p["encoder"][f"block_{i:02d}"], x, mask[:, None, None])
    y = p["embedding"][target] * np.sqrt(D) + table[: target.shape[1]]
    for i in range(2):
        y = block(p["decoder"][f"block_{i:02d}"], y, np.tri(target.shape[1], dtype=bool), x, mask[:, None, None])
    return y @ p["embedding"].T


def test_it_computes_what_the_paper_says(tiny):
    model, params = tiny
    logits = jax.jit(lambda p: model.apply({"params": p}, SOURCE, TARGET, SOURCE_MASK)["logits"])(params)
    expected = reference(params, SOURCE, TARGET, SOURCE_MASK)
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.long
def test_decoding_with_a_cache_equals_the_full_forward(tiny):
    model, params = tiny
    full = jax.jit(lambda p: model.apply({"params": p}, SOURCE, TARGET, SOURCE_MASK)["logits"])(params)
    variables = {"params": params}
    memory = encoded(model, params)
    cache = model.text.new_cache(B, T, S)

    @jax.jit
    def step(ids, memory, cache, at):
        return model.apply(variables, ids, memory, SOURCE_MASK, cache, at, method="step")

    for at in range(T):
        logits, cache = step(TARGET[:, at : at + 1], memory if at == 0 else None, cache, np.full(B, at))
        np.testing.assert_allclose(logits[:, 0], full[:, at], atol=1e-5 * np.abs(full).max())


@pytest.mark.long
def test_beams_over_the_cache_equal_a_search_without_one(tiny):
    model, params = tiny
    beams, length, end = 3, 3, 1
    memory = encoded(model, params)
    memory, mask = (jnp.repeat(x, beams, axis=0) for x in (memory, SOURCE_MASK))

    def with_cache(ids, at, cache):
        seen = jnp.repeat(SOURCE_MASK, ids.shape[0] // B, axis=0)
        logits, cache = model.apply({"params": params}, ids[:, None], None, seen, cache, at, method="step")
        return logits[:, 0], cache

    def without(ids, at, seen):
        """The cache is the ids so far."""
        seen = jax.vmap(lambda row, i, place: row.at[place].set(i))(seen[0], ids, at)
        both = {"params": params}, memory, seen, mask
        tokens, _ = model.apply(both[0], both[2], both[1], both[3], method=lambda m, *a: m.text.decode(*a))
        logits = model.apply(both[0], tokens, method="logits")
        return jnp.take_along_axis(logits, at[:, None, None], axis=1)[:, 0], seen[None]

    first, at = jnp.zeros(B, jnp.int32), jnp.zeros(B, jnp.int32)
    cache = model.text.new_cache(B, length, S)

    @jax.jit
    def filled(memory, cache):
        return model.apply({"params": params}, first[:, None], memory, SOURCE_MASK, cache, 0, method="step")[1]

    cache = filled(memory[::beams], cache)
    search = {"length": length, "beams": beams, "alpha": 0.6, "eos_id": end}
    ours = jax.jit(lambda c: beam_search(with_cache, c, first, at, **search))(cache)
    expected = jax.jit(lambda c: beam_search(without, c, first, at, **search))(jnp.zeros((1, B, length), jnp.int32))
    np.testing.assert_array_equal(ours[0], expected[0])
    np.testing.assert_allclose(ours[1], expected[1], rtol=1e-5)


def test_the_published_sizes():
    """Table 3 has 65 and 213 million. With its 37,000 tokens base has 63.1: 3 % less, whatever counts as a parameter
    of the architecture; big is within 1 %."""

    def count(variant):
        model = build(variant, vocab_size=37_000)
        shapes = init_shapes(lambda: model.init(jax.random.key(0), SOURCE, TARGET)["params"])
        return sum(x.size for x in jax.tree.leaves(shapes))

    assert count("base") == 63_082_496
    assert count("big") == 214_245_376


def test_both_layouts_of_positions_hold_the_same_waves():
    pairs, halves = sinusoids(7, 6), sinusoids(7, 6, "halves")
    np.testing.assert_array_equal(pairs[:, ::2], halves[:, :3])
    np.testing.assert_array_equal(pairs[:, 1::2], halves[:, 3:])
    np.testing.assert_allclose(pairs[5, 2:4], [np.sin(5 / 1e4 ** (1 / 3)), np.cos(5 / 1e4 ** (1 / 3))], rtol=1e-6)


def test_wrong_arguments():
    for values, what in (({"variant": "huge"}, "no Transformer 'huge'"), ({"cross": "gated"}, "cross")):
        with pytest.raises(UserError, match=what):
            build(**{**TINY, **values})
    with pytest.raises(UserError, match="a width of 5"):
        sinusoids(3, 5)
    model = build(**{**TINY, "max_length": 4})
    with pytest.raises(UserError, match="5 tokens is longer than the 4 positions"):
        init_shapes(lambda: model.init(jax.random.key(0), SOURCE, TARGET))
