"""BERT: parameter counts of the published sizes, what padding, segments and places do, the heads by hand, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from vit_jax import UserError
from vit_jax.models.bert import build
from vit_jax.nn.init_shapes import init_shapes

TINY = {"vocab_size": 40, "width": 16, "depth": 2, "num_heads": 2, "max_length": 12}
IDS = np.random.default_rng(0).integers(5, 40, (3, 10)).astype(np.int32)
THERE = np.arange(10) < np.array([[10], [7], [4]])
SEGMENTS = (np.arange(10) > 3).astype(np.int32)[None].repeat(3, 0)
PLACES = np.array([[1, 8], [2, 3], [1, 0]])


def drawn(model, seed=0):
    """Parameters that are all different from their initial values."""
    shapes = init_shapes(model.init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32), shapes)


@pytest.fixture(scope="module")
def outputs():
    """A model with both heads, its parameters, and a compiled function of inputs to its outputs."""
    model = build(masked_language=True, next_sentence=True, **TINY)

    def of(ids=IDS, token_mask=THERE, segments=SEGMENTS, places=PLACES):
        return model.apply(variables, ids, token_mask=token_mask, segments=segments, places=places)

    variables = drawn(model)
    return variables["params"], jax.jit(of)


@pytest.mark.parametrize(
    "variant, heads, count",
    [
        ("base", True, 110_106_428),
        ("base", False, 109_482_240),
        ("large", True, 336_226_108),
        ("large", False, 335_141_888),
    ],
)
def test_parameter_counts(variant, heads, count):
    model = build(variant, vocab_size=30_522, masked_language=heads, next_sentence=heads)
    shapes = init_shapes(model.init, jax.random.key(0), jnp.zeros((1, 8), jnp.int32))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


@pytest.mark.long
def test_padding_is_seen_by_nobody(outputs):
    _, of = outputs
    other = np.where(THERE, IDS, 7)
    first, second = of(), of(ids=other)
    for name in ("features", "masked_logits", "next_logits"):
        np.testing.assert_allclose(first[name], second[name], atol=1e-5)
    np.testing.assert_allclose(first["tokens"][THERE], second["tokens"][THERE], atol=1e-5)
    assert np.abs(of(token_mask=np.ones_like(THERE))["features"][1:] - first["features"][1:]).max() > 1e-2
    assert np.abs(of(segments=0 * SEGMENTS)["features"] - first["features"]).max() > 1e-2
    assert np.abs(of(ids=IDS[:, ::-1].copy())["features"] - first["features"]).max() > 1e-2


def test_heads_by_hand(outputs):
    params, of = outputs
    found = jax.tree.map(lambda x: np.asarray(x, np.float64), of())
    pooler, nsp, mlm = (jax.tree.map(np.asarray, params[name]) for name in ("pooler", "nsp", "mlm"))
    pooled = np.tanh(found["tokens"][:, 0] @ pooler["kernel"] + pooler["bias"])
    np.testing.assert_allclose(found["features"], pooled, atol=1e-5)
    np.testing.assert_allclose(found["next_logits"], pooled @ nsp["kernel"] + nsp["bias"], atol=1e-5)
    x = np.take_along_axis(found["tokens"], PLACES[..., None], axis=1) @ mlm["dense"]["kernel"] + mlm["dense"]["bias"]
    x = x * (1 + erf(x / np.sqrt(2))) / 2
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    x = x * mlm["norm"]["scale"] + mlm["norm"]["bias"]
    expected = x @ np.asarray(params["text"]["embedding"]).T + mlm["bias"]
    np.testing.assert_allclose(found["masked_logits"], expected, atol=2e-5)


def test_without_heads_and_with_the_mean_of_the_tokens():
    model = build(pooling="mean", pooler=False, **TINY)
    variables = drawn(model)
    assert set(variables["params"]) == {"text"}
    found = jax.jit(lambda: model.apply(variables, IDS, token_mask=THERE))()
    assert set(found) == {"tokens", "features"}
    rows = [row[there].mean(0) for row, there in zip(np.asarray(found["tokens"]), THERE, strict=True)]
    np.testing.assert_allclose(found["features"], np.stack(rows), atol=1e-5)


def test_with_norms_before_the_branches_one_comes_after_the_last_block():
    """Whose sum would go unnormed into the heads. Without one, as published, the last block's own norms are the end."""

    def names(**style):
        return set(drawn(build(**TINY, **style))["params"]["text"])

    assert names(norm="pre") - names() == {"norm"}
    model = build(**TINY, norm="pre", pooling="mean")
    variables = drawn(model)
    tokens = np.asarray(jax.jit(model.apply)(variables, IDS)["tokens"])
    scale, bias = (np.asarray(variables["params"]["text"]["norm"][name]) for name in ("scale", "bias"))
    normed = (tokens - bias) / scale
    np.testing.assert_allclose(normed.mean(-1), 0, atol=1e-4)
    np.testing.assert_allclose(normed.std(-1), 1, atol=1e-3)


@pytest.mark.long
def test_initial_values_are_cut_at_two_deviations():
    model = build(masked_language=True, next_sentence=True, **TINY)
    params = jax.jit(model.redrawn)(drawn(model)["params"], jax.random.key(1))
    wider = jax.jit(build(**TINY, init_stddev=0.09).redrawn)(params, jax.random.key(1))
    embedding = np.asarray(params["text"]["embedding"])
    assert 0.038 < np.abs(embedding).max() <= 0.04 and 0.016 < embedding.std() < 0.019
    np.testing.assert_allclose(wider["text"]["embedding"], embedding * 4.5, rtol=1e-5)
    assert not np.asarray(params["nsp"]["bias"]).any() and np.abs(params["nsp"]["kernel"]).max() > 0


@pytest.mark.parametrize(
    "kwargs, said",
    [
        ({"variant": "huge"}, "There is no BERT 'huge'"),
        ({"pooling": "map"}, "Unknown pooling 'map'"),
        ({"pooler": False, "next_sentence": True}, "reads the pooler"),
        ({"segments": 3}, "num_segments"),
    ],
)
def test_refusals(kwargs, said):
    with pytest.raises(UserError, match=said):
        build(**TINY | kwargs)
