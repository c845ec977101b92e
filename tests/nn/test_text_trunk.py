"""The trunk of texts: what a token sees, where it learns its place, and how the trunk is run."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.errors import UserError
from vit_jax.nn.normal_init import normal_redrawn
from vit_jax.nn.style import BlockStyle, Execution
from vit_jax.nn.text_trunk import TextTrunk, documents_mask

STYLE = BlockStyle(num_heads=2, mlp_dim=24, norm_epsilon=1e-5)
GPT = TextTrunk(vocab_size=11, max_length=8, width=12, depth=2, style=STYLE, mask="causal", final_norm=True)
BERT = TextTrunk(
    vocab_size=11, max_length=8, width=12, depth=2, style=dataclasses.replace(STYLE, norm="post"), num_segments=2,
    embedding_norm=True,
)  # fmt: skip
IDS = np.array([[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 0, 1]], np.int32)


@functools.cache
def params_of(trunk):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: trunk.init(jax.random.key(0), IDS))["params"]
    return jax.tree.map(lambda leaf: rng.normal(0, 0.4, leaf.shape).astype(np.float32), shapes)


@functools.partial(jax.jit, static_argnums=0)
def jitted(trunk, params, ids, kwargs):
    return trunk.apply({"params": params}, ids, **kwargs)


def run(trunk, ids=IDS, params=None, **kwargs):
    return np.asarray(jitted(trunk, params_of(trunk) if params is None else params, ids, kwargs)[0])


def changed(trunk, place, **kwargs):
    """Which tokens of the first text differ when the one at `place` is another."""
    other = IDS.copy()
    other[0, place] = 9
    return np.abs(run(trunk, **kwargs) - run(trunk, other, **kwargs)).max(-1)[0] > 1e-6


def test_a_causal_trunk_sees_what_came_before_and_another_sees_all():
    np.testing.assert_array_equal(changed(GPT, 3), [False] * 3 + [True] * 3)
    assert changed(BERT, 3).all()


@pytest.mark.parametrize("trunk", [GPT, BERT])
def test_nobody_sees_padding(trunk):
    token_mask = np.ones((2, 6), np.int32)
    token_mask[0, 2] = 0
    seen = changed(trunk, 2, token_mask=token_mask)
    np.testing.assert_array_equal(seen, [False, False, True, False, False, False])
    # Not because nothing is seen: without the mask others change.
    assert changed(trunk, 2).sum() > 1


def test_padding_after_the_text_changes_nothing_of_it():
    token_mask = np.ones((2, 6), np.int32)
    token_mask[:, 4:] = 0
    np.testing.assert_allclose(run(BERT, token_mask=token_mask)[:, :4], run(BERT, IDS[:, :4]), atol=2e-6)


@pytest.mark.parametrize("trunk", [GPT, BERT])
def test_vectors_in_place_of_ids(trunk):
    """What the tokens' own vectors give is what their ids give; other vectors give something else, causally."""
    vectors = params_of(trunk)["embedding"][IDS]
    np.testing.assert_allclose(run(trunk, None, embedded=vectors), run(trunk), atol=2e-6)
    other = vectors.copy()
    other[0, 3, 0] += 1
    differs = np.abs(run(trunk, None, embedded=other) - run(trunk))[0].max(-1) > 1e-5
    np.testing.assert_array_equal(differs, changed(trunk, 3))


@pytest.mark.parametrize(("ids", "more"), [(None, {}), (IDS, {"embedded": np.zeros((2, 6, 12), np.float32)})])
def test_a_text_is_given_once(ids, more):
    with pytest.raises(UserError, match="as ids or as vectors"):
        GPT.apply({"params": params_of(GPT)}, ids, **more)


def test_documents_of_a_window_do_not_see_one_another():
    documents = np.array([[0, 0, 0, 1, 1, 1], [0] * 6], np.int32)
    positions = np.array([[0, 1, 2, 0, 1, 2], range(6)], np.int32)
    packed = run(GPT, mask=documents_mask(documents), positions=positions)
    np.testing.assert_allclose(packed[0, 3:], run(GPT, IDS[:1, 3:])[0], atol=2e-6)
    assert np.abs(packed[0, 3:] - run(GPT)[0, 3:]).max() > 0.1


def test_places_and_segments_are_learned():
    positions = np.tile(np.arange(1, 7, dtype=np.int32), (2, 1))
    np.testing.assert_allclose(run(GPT, positions=np.tile(np.arange(6), (2, 1))), run(GPT), atol=1e-6)
    moved = {**params_of(GPT), "pos_embedding": np.roll(params_of(GPT)["pos_embedding"], -1, axis=0)}
    np.testing.assert_allclose(run(GPT, positions=positions), run(GPT, params=moved), atol=1e-6)

    np.testing.assert_allclose(run(BERT, segments=np.zeros_like(IDS)), run(BERT), atol=1e-6)
    swapped = {**params_of(BERT), "segment_embedding": params_of(BERT)["segment_embedding"][::-1]}
    np.testing.assert_allclose(run(BERT, segments=np.ones_like(IDS)), run(BERT, params=swapped), atol=1e-6)


def test_embeddings_are_added_before_the_blocks():
    """Without blocks and norms the trunk is its embeddings."""
    trunk = TextTrunk(vocab_size=11, max_length=8, width=12, depth=0, style=STYLE, num_segments=2)
    params = params_of(trunk)
    want = params["embedding"][IDS] + params["pos_embedding"][:6] + params["segment_embedding"][1]
    np.testing.assert_allclose(run(trunk, segments=np.ones_like(IDS)), want, atol=1e-6)


def test_logits_are_products_with_the_embedding_in_float32():
    for dtype, near in ((jnp.float32, 1e-5), (jnp.bfloat16, 0.2)):
        trunk = GPT.clone(execution=Execution(dtype=dtype))
        tokens = jitted(trunk, params_of(GPT), IDS, {})[0]
        logits = trunk.apply({"params": params_of(GPT)}, tokens, method="attend")
        assert tokens.dtype == dtype and logits.dtype == jnp.float32
        want = np.asarray(tokens, np.float64) @ params_of(GPT)["embedding"].astype(np.float64).T
        np.testing.assert_allclose(logits, want, atol=near)


@pytest.mark.parametrize("trunk", [GPT, BERT])
def test_a_scan_gives_what_the_loop_gives(trunk):
    token_mask = np.array([[1] * 6, [1, 1, 1, 1, 0, 0]], np.int32)
    scanned = trunk.clone(execution=Execution(scan=True, remat="full"))
    for kwargs in ({}, {"token_mask": token_mask}):
        np.testing.assert_allclose(run(scanned, params=params_of(trunk), **kwargs), run(trunk, **kwargs), atol=2e-6)


def test_parameters_are_float32_and_named():
    shapes = jax.eval_shape(lambda: BERT.clone(execution=Execution(dtype=jnp.bfloat16)).init(jax.random.key(0), IDS))
    assert set(shapes["params"]) == {
        "embedding", "pos_embedding", "segment_embedding", "norm_embedding", "block_00", "block_01",
    }  # fmt: skip
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))
    assert set(params_of(GPT)) == {"embedding", "pos_embedding", "block_00", "block_01", "norm"}
    named = {name for layer in BERT.layers() for name in layer}
    assert named >= set(shapes["params"])


def test_step_by_step_with_a_cache_is_the_whole_text():
    whole = run(GPT)
    tokens, cache = jitted(GPT, params_of(GPT), IDS[:, :3], {"cache": GPT.new_cache(2, 8), "at": 0})
    got = [tokens]
    for i in range(3, 6):
        tokens, cache = jitted(GPT, params_of(GPT), IDS[:, i : i + 1], {"cache": cache, "at": i})
        got.append(tokens)
    np.testing.assert_allclose(np.concatenate(got, axis=1), whole, atol=1e-5)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: GPT.apply({"params": params_of(GPT)}, np.zeros((1, 9), np.int32)), "9 tokens.*8 positions"),
        (lambda: GPT.new_cache(1, 9), "9 tokens.*8 positions"),
        (lambda: run(GPT, segments=IDS * 0), "no segments"),
        (lambda: run(BERT, at=0), "cannot decode"),
        (lambda: run(GPT, at=0, cache=GPT.new_cache(2, 8), token_mask=IDS), "not by a mask"),
        (lambda: GPT.clone(mask="both"), "Unknown mask"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()


@pytest.mark.long
def test_initial_values_are_those_of_the_papers():
    trunk = TextTrunk(vocab_size=300, max_length=64, width=64, depth=2, style=STYLE, mask="causal", final_norm=True)
    fresh = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 7.0), params_of(trunk))
    gpt2 = normal_redrawn(fresh, jax.random.key(1), residual_depth=2)
    block = gpt2["block_01"]
    for leaf, stddev in (
        (gpt2["embedding"], 0.02),
        (gpt2["pos_embedding"], 0.02),
        (block["attention"]["query"]["kernel"], 0.02),
        (block["mlp"]["fc1"]["kernel"], 0.02),
        (block["attention"]["out"]["kernel"], 0.01),
        (block["mlp"]["fc2"]["kernel"], 0.01),
    ):
        assert float(leaf.std()) == pytest.approx(stddev, rel=0.05) and abs(float(leaf.mean())) < stddev / 10
    assert not block["mlp"]["fc1"]["bias"].any() and (block["norm1"]["scale"] == 7).all()

    bert = normal_redrawn(fresh, jax.random.key(1), truncated=True)["embedding"]
    assert float(jnp.abs(bert).max()) <= 0.04 and float(bert.std()) == pytest.approx(0.0176, rel=0.05)
    again = normal_redrawn({"embedding": fresh["embedding"]}, jax.random.key(1), truncated=True)
    np.testing.assert_array_equal(again["embedding"], bert)
