"""Every style of a block against an independent one in float64 NumPy, with all parameters random."""

import ast
import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from vit_jax.errors import UserError
from vit_jax.nn import activation
from vit_jax.nn.block import Block
from vit_jax.nn.mask import CAUSAL, Band, dense
from vit_jax.nn.modulation import ModulatedNorm, Modulation
from vit_jax.nn.multi_head import empty_cache, empty_cross_cache
from vit_jax.nn.rotary import rotary_angles, rotary_angles_2d
from vit_jax.nn.stack import BlockStack
from vit_jax.nn.style import BlockStyle, Execution, block_style

KEY = jax.random.key(0, impl="rbg")
B, T, W, H, M = 2, 6, 16, 2, 3
rng = np.random.default_rng(0)
X = rng.normal(size=(B, T, W)).astype(np.float32)
MEMORY = rng.normal(size=(B, M, 12)).astype(np.float32)
CONDITION = rng.normal(size=(B, 10)).astype(np.float32)
SIX = rng.normal(size=(B, 6, W)).astype(np.float32)
BIAS = rng.normal(size=(1, H, T, T)).astype(np.float32)
SEEN = rng.random((B, 1, T, T)) < 0.6
SEEN[..., 0] = True
MEMORY_SEEN = np.array([[True, True, False], [True, False, True]])[:, None, None]
ANGLES = rotary_angles(np.arange(T), W // H)
ANGLES_2D = rotary_angles_2d(np.stack([np.arange(T) // 3, np.arange(T) % 3], -1), W // H)

ACTIVATIONS = {
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "gelu_exact": lambda x: 0.5 * x * (1 + scipy.special.erf(x / np.sqrt(2))),
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
    "relu": lambda x: np.maximum(x, 0),
    "hard_swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "silu": lambda x: x / (1 + np.exp(-x)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_what_their_names_say(name):
    x = np.linspace(-5, 5, 101)
    np.testing.assert_allclose(activation.ACTIVATIONS[name](x.astype(np.float32)), ACTIVATIONS[name](x), atol=2e-6)


def random_params(module, *args, seed=1, **kwargs):
    """Parameters of which every leaf is random, so that none hides behind its initial zero or one."""
    draw = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: module.init(KEY, *args, **kwargs))["params"]
    return jax.tree.map(lambda leaf: draw.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)


def normed(x, kind, epsilon, p=None):
    if kind == "layer":
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
    else:
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)
    return x if p is None else x * p["scale"] + p.get("bias", 0)


def rotated(x, angles, pairing):
    """As complex numbers, which is what the paper turns."""
    turn = np.exp(1j * np.asarray(angles, np.float64))[:, None]
    half = x.shape[-1] // 2
    first, second = (x[..., :half], x[..., half:]) if pairing == "halves" else (x[..., 0::2], x[..., 1::2])
    turned = (first + 1j * second) * turn
    if pairing == "halves":
        return np.concatenate([turned.real, turned.imag], -1)
    return np.stack([turned.real, turned.imag], -1).reshape(x.shape)


def attended(p, style, x, memory=None, mask=None, bias=None, angles=None):
    source = x if memory is None else memory
    q, k, v = (
        np.einsum("btw,whd->bthd", y, p[n]["kernel"]) + p[n].get("bias", 0)
        for n, y in (("query", x), ("key", source), ("value", source))
    )
    scale = style.logit_scale or q.shape[-1] ** -0.5
    if style.qk_norm == "l2":
        q, k = (y / np.linalg.norm(y, axis=-1, keepdims=True) for y in (q, k))
        scale = np.exp(np.minimum(p["norm_scale"], np.log(100)))[None, :, None, None]
    elif style.qk_norm != "none":
        q, k = (normed(y, style.qk_norm, style.norm_epsilon, p[f"norm_{n}"]) for n, y in (("query", q), ("key", k)))
    if angles is not None:
        q, k = (rotated(y, angles, style.rotary) for y in (q, k))
    logits = np.einsum("bthd,bshd->bhts", q, k) * scale
    logits = logits if bias is None else logits + bias
    logits = logits if mask is None else np.where(mask, logits, -np.inf)
    weights = scipy.special.softmax(logits, axis=-1)
    return np.einsum("bhts,bshd,hdw->btw", weights, v, p["out"]["kernel"]) + p["out"].get("bias", 0)


def mixed(p, style, x):
    hidden = x @ p["fc1"]["kernel"] + p["fc1"].get("bias", 0)
    activate = ACTIVATIONS[style.activation]
    gate = x @ p["gate"]["kernel"] + p["gate"].get("bias", 0) if style.gated else hidden
    hidden = activate(gate) * hidden if style.gated else activate(hidden)
    return hidden @ p["fc2"]["kernel"] + p["fc2"].get("bias", 0)


def reference(p, style, x, memory=None, memory_mask=None, condition=None, **self_attention):
    """One block in float64."""
    p, x = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), p), np.asarray(x, np.float64)
    shift_scale_gate = [None] * 6
    if style.norm == "adaptive":
        parts = np.asarray(condition, np.float64)
        if style.modulation == "own":
            silu = ACTIVATIONS["silu"](parts)
            parts = np.einsum("...c,cpw->...pw", silu, p["modulation"]["kernel"]) + p["modulation"]["bias"]
        parts = parts + p.get("modulation_table", 0)
        shift_scale_gate = [parts[..., i, :][:, None] if parts.ndim == 3 else parts[..., i, :] for i in range(6)]

    def added(x, branch, name, scale=None, parts=(None, None, None), gate=None):
        def norm(y):
            own = None if style.norm == "adaptive" and name in ("norm1", "norm2") else p[name]
            return normed(y, style.norm_kind, style.norm_epsilon, own)

        y = x if "post" in style.norm else norm(x)
        if parts[0] is not None:
            y = y * (1 + parts[1]) + parts[0]
        y = norm(branch(y)) if style.norm == "residual_post" else branch(y)
        y = y * p[scale] if scale in p else y
        y = y if parts[2] is None else y * parts[2]
        y = y if gate is None else y * np.tanh(p[gate])
        return norm(x + y) if style.norm == "post" else x + y

    def cross(y):
        known = np.asarray(memory, np.float64)
        if style.norm_memory:
            known = normed(known, style.norm_kind, style.norm_epsilon, p["norm_memory"])
        return attended(p["cross"], style, y, known, memory_mask)

    if style.cross == "gated":
        x = added(x, cross, "norm_cross", gate="gate_cross")
        x = added(x, lambda y: mixed(p["cross_mlp"], style, y), "norm_cross_mlp", gate="gate_cross_mlp")
    attend = lambda y: attended(p["attention"], style, y, **self_attention)  # noqa: E731
    x = added(x, attend, "norm1", "layer_scale1", shift_scale_gate[:3])
    if style.cross == "plain":
        x = added(x, cross, "norm_cross")
    return added(x, lambda y: mixed(p["mlp"], style, y), "norm2", "layer_scale2", shift_scale_gate[3:])


CAUSAL_ARRAY = np.tril(np.ones((1, 1, T, T), bool))
# (style, arguments of the call, arguments of the reference where they are others)
STYLES = {
    "vit": ({}, {}, {}),
    "clip text": ({"activation": "quick_gelu", "norm_epsilon": 1e-5}, {"mask": "causal"}, {"mask": CAUSAL_ARRAY}),
    "bert": ({"norm": "post", "activation": "gelu_exact", "norm_epsilon": 1e-12}, {"mask": SEEN}, {}),
    "2017 decoder": (
        {"norm": "post", "activation": "relu", "cross": "plain"},
        {"mask": "causal", "memory": MEMORY, "memory_mask": MEMORY_SEEN},
        {"mask": CAUSAL_ARRAY},
    ),
    "window": ({"layer_scale_init": 0.1}, {"mask": Band(2, 1)}, {"mask": np.asarray(dense(Band(2, 1), T, T))}),
    "swin": ({"norm_epsilon": 1e-5, "activation": "gelu_exact"}, {"bias": BIAS, "mask": SEEN}, {}),
    "swin v2": (
        {
            "norm": "residual_post",
            "norm_epsilon": 1e-5,
            "qk_norm": "l2",
            "biases": ("query", "value", "out", "fc1", "fc2"),
        },
        {"bias": BIAS, "mask": SEEN},
        {},
    ),
    "flamingo": (
        {"cross": "gated", "norm_memory": True, "biases": ()},
        {"mask": "causal", "memory": MEMORY, "memory_mask": MEMORY_SEEN},
        {"mask": CAUSAL_ARRAY},
    ),
    "dit": ({"norm": "adaptive"}, {"condition": CONDITION}, {}),
    "var": (
        {"norm": "adaptive", "qk_norm": "l2", "biases": ("query", "value", "out", "fc1", "fc2")},
        {"condition": rng.normal(size=(B, T, 10)).astype(np.float32)},
        {},
    ),
    "var, no norm of queries and keys": (
        {"norm": "adaptive", "logit_scale": 0.25 * (W // H) ** -0.5, "biases": ("query", "value", "out", "fc1", "fc2")},
        {"condition": CONDITION, "mask": SEEN},
        {},
    ),
    "var at 512 pixels, pixart": ({"norm": "adaptive", "modulation": "table"}, {"condition": SIX}, {}),
    "one modulation for all": (
        {"norm": "adaptive", "modulation": "shared", "norm_kind": "rms", "qk_norm": "rms", "logit_scale": 0.1},
        {"condition": rng.normal(size=(B, T, 6, W)).astype(np.float32)},
        {},
    ),
    "llama": (
        {"norm_kind": "rms", "activation": "silu", "gated": True, "biases": (), "rotary": "halves"},
        {"mask": "causal", "angles": ANGLES},
        {"mask": CAUSAL_ARRAY},
    ),
    "2-D rotary, q/k layer norm": ({"rotary": "pairs", "qk_norm": "layer"}, {"angles": ANGLES_2D}, {}),
    "q/k rms norm, narrow heads": (
        {"qk_norm": "rms", "head_dim": 4, "cross": "plain", "cross_head_dim": 2},
        {"memory": MEMORY},
        {},
    ),
}


@pytest.mark.parametrize("name", STYLES)
def test_a_block_equals_an_independent_one_in_float64(name):
    values, call, other = STYLES[name]
    style = BlockStyle(H, 20, **values)
    block = Block(style)
    params = random_params(block, X, **call)
    out, cache = jax.jit(lambda params: block.apply({"params": params}, X, **call))(params)
    assert cache is None
    np.testing.assert_allclose(out, reference(params, style, X, **{**call, **other}), atol=2e-5)


def test_the_norm_before_a_head_equals_float64():
    norm = ModulatedNorm()
    params = random_params(norm, X, CONDITION)
    parts = np.einsum("bc,cpw->bpw", ACTIVATIONS["silu"](CONDITION.astype(np.float64)), params["modulation"]["kernel"])
    shift, scale = np.moveaxis(parts + params["modulation"]["bias"], 1, 0)[:, :, None]
    expected = normed(X.astype(np.float64), "layer", 1e-6) * (1 + scale) + shift
    np.testing.assert_allclose(norm.apply({"params": params}, X, CONDITION), expected, atol=1e-5)


@pytest.mark.long
def test_one_layer_makes_what_all_blocks_share():
    """A block's own modulation and one that is made outside are the same function."""
    own = Block(BlockStyle(H, 20, norm="adaptive"))
    params = random_params(own, X, condition=CONDITION)
    rest = {name: p for name, p in params.items() if name != "modulation"}
    six = Modulation(6, W).apply({"params": params["modulation"]}, CONDITION)
    shared = Block(BlockStyle(H, 20, norm="adaptive", modulation="shared"))
    np.testing.assert_array_equal(
        shared.apply({"params": rest}, X, condition=six)[0], own.apply({"params": params}, X, condition=CONDITION)[0]
    )


def test_biases_one_by_one():
    for name in ("query", "key", "value", "out", "fc1", "fc2"):
        kept = tuple(n for n in ("query", "key", "value", "out", "fc1", "fc2") if n != name)
        shapes = jax.eval_shape(Block(BlockStyle(H, 20, biases=kept, gated=True)).init, KEY, X)["params"]
        lacking = {n for part in ("attention", "mlp") for n, leaf in shapes[part].items() if "bias" not in leaf}
        assert lacking == ({"fc1", "gate"} if name == "fc1" else {name})


def stack(styles, depth, **execution):
    return BlockStack(tuple(styles), depth, execution=Execution(**execution))


WITH_MEMORY = (BlockStyle(H, 20, cross="plain", layer_scale_init=0.5),)


@pytest.fixture(scope="module")
def with_memory():
    loop = BlockStack(WITH_MEMORY, 3)
    params = random_params(loop, X, memory=MEMORY)
    call = {"memory": MEMORY, "mask": "causal"}

    def outputs(**execution):
        model = stack(WITH_MEMORY, 3, **execution)
        loss = lambda p: (jnp.sin(model.apply({"params": p}, X, **call)[0])).sum()  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(params)

    return outputs, outputs()


@pytest.mark.parametrize(
    "execution",
    [
        {"scan": True, "remat": "full"},
        *(pytest.param(e, marks=pytest.mark.long) for e in ({"scan": True}, {"remat": "dots"})),
    ],
    ids=lambda e: "+".join(map(str, e)),
)
def test_scan_and_remat_equal_the_loop_with_memory_and_mask(with_memory, execution):
    outputs, (value, gradient) = with_memory
    ours = outputs(**execution)
    np.testing.assert_allclose(ours[0], value, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4 * np.abs(b).max() + 1e-6), ours[1], gradient)


@pytest.mark.long
def test_a_shared_condition_has_the_same_gradient_in_loop_and_scan():
    style = BlockStyle(H, 20, norm="adaptive", modulation="table")
    params = random_params(stack((style,), 2), X, condition=SIX)

    def gradients(**execution):
        model = stack((style,), 2, **execution)
        run = lambda p, six: jnp.sin(model.apply({"params": p}, X, condition=six)[0]).sum()  # noqa: E731
        return jax.jit(jax.grad(run, (0, 1)))(params, SIX)

    loop, scan = gradients(), gradients(scan=True, remat="elementwise")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4 * np.abs(b).max() + 2e-5), scan, loop)


@pytest.mark.long
def test_styles_repeat_over_depth_in_loop_and_scan():
    """Of two styles one has LayerScale: the names of the parameters tell whose turn it was."""
    styles = (BlockStyle(H, 20, activation="relu"), BlockStyle(H, 12, norm="post", layer_scale_init=0.5))
    loop, scan = stack(styles, 4), stack(styles, 4, scan=True)
    params = random_params(loop, X)
    assert [("layer_scale1" in params[f"block_{i:02d}"]) for i in range(4)] == [False, True, False, True]
    expected = X.astype(np.float64)
    for i in range(4):
        expected = reference(params[f"block_{i:02d}"], styles[i % 2], expected)
    for model in (loop, scan):
        np.testing.assert_allclose(jax.jit(model.apply)({"params": params}, X)[0], expected, atol=2e-5)


@pytest.mark.long
@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("chunk", [1, 4])
def test_decoding_with_a_cache_equals_the_full_forward(scan, chunk):
    style = BlockStyle(H, 20, rotary="halves", qk_norm="rms")
    model = stack((style, dataclasses.replace(style, activation="relu")), 2, scan=scan)
    params = random_params(model, X, mask="causal", angles=ANGLES)
    full = jax.jit(lambda p: model.apply({"params": p}, X, mask="causal", angles=ANGLES)[0])(params)

    @jax.jit
    def step(x, cache, angles, at):
        return model.apply({"params": params}, x, cache, mask="causal", angles=angles, at=at)

    cache, parts = empty_cache(2, B, T + 2, H, W // H), []
    for at in range(0, T, chunk):
        y, cache = step(X[:, at : at + chunk], cache, ANGLES[at : at + chunk], at)
        parts.append(y)
    np.testing.assert_allclose(np.concatenate(parts, 1), full, atol=1e-5)


PARTS_OF = {
    # Raster: one token after the other. Scales: of each its tokens see all of it and all before (VAR). Prefix: its
    # tokens see each other, those behind it what came before (PaliGemma's, HART's text).
    "raster": ("causal", (1,) * T),
    "scales": (np.repeat(np.arange(3), (1, 2, 3))[:, None] >= np.repeat(np.arange(3), (1, 2, 3)), (1, 2, 3)),
    "prefix": (np.tri(T, dtype=bool) | (np.arange(T) < 3), (3, 1, 1, 1)),
}


@pytest.mark.long
@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("order", PARTS_OF)
def test_a_cache_gives_what_the_mask_gives_in_any_order(order, scan):
    """With a condition and positions: what is filled so far is all that a part may see."""
    mask, sizes = PARTS_OF[order]
    mask = mask if isinstance(mask, str) else mask[None, None]
    styles = tuple(
        BlockStyle(H, 20, norm="adaptive", modulation=m, qk_norm="l2", rotary="pairs") for m in ("table", "shared")
    )
    model = stack(styles, 2, scan=scan)
    params = random_params(model, X, condition=SIX, angles=ANGLES)
    full = jax.jit(lambda p: model.apply({"params": p}, X, mask=mask, condition=SIX, angles=ANGLES)[0])(params)

    @jax.jit
    def step(x, cache, angles, at):
        return model.apply({"params": params}, x, cache, condition=SIX, angles=angles, at=at)

    cache, parts, at = empty_cache(2, B, T, H, W // H), [], 0
    for size in sizes:
        y, cache = step(X[:, at : at + size], cache, ANGLES[at : at + size], at)
        parts.append(y)
        at += size
    np.testing.assert_allclose(np.concatenate(parts, 1), full, atol=1e-5)


def test_what_a_cache_does_not_hold_yet_is_not_seen_without_a_mask():
    style = BlockStyle(H, 20)
    block = Block(style)
    params = random_params(block, X)
    stale = jax.tree.map(lambda c: c[0] + 7.0, empty_cache(1, B, T + 5, H, W // H))
    out, _ = jax.jit(lambda p: block.apply({"params": p}, X, stale, at=0))(params)
    np.testing.assert_allclose(out, reference(params, style, X), atol=2e-5)


@pytest.mark.long
def test_rows_of_different_lengths_share_a_cache():
    """Row 0 has two tokens where row 1 has four: each goes on from its own end, over what padding left there."""
    model = stack((BlockStyle(H, 20, qk_norm="rms"),), 2)
    params = random_params(model, X, mask="causal")
    full = jax.jit(lambda p: model.apply({"params": p}, X, mask="causal")[0])(params)

    @jax.jit
    def step(x, cache, at):
        return model.apply({"params": params}, x, cache, mask="causal", at=at)

    first, lengths = 4, np.array([2, 4])
    _, cache = step(X[:, :first], empty_cache(2, B, T, H, W // H), np.zeros(B, np.int32))
    for ahead in range(2):
        at = lengths + ahead
        y, cache = step(X[np.arange(B), at][:, None], cache, at)
        np.testing.assert_allclose(y[:, 0], full[np.arange(B), at], atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("scan", [False, True])
def test_a_cache_holds_the_memory_that_the_first_call_gave(scan):
    styles = (BlockStyle(H, 20, cross="gated", norm_memory=True, qk_norm="l2"), BlockStyle(H, 20, cross="plain"))
    model = stack(styles, 2, scan=scan)
    params, call = random_params(model, X, memory=MEMORY), {"mask": "causal", "memory_mask": MEMORY_SEEN}
    full = jax.jit(lambda p: model.apply({"params": p}, X, memory=MEMORY, **call)[0])(params)

    @jax.jit
    def step(x, cache, memory, at):
        return model.apply({"params": params}, x, cache, memory=memory, at=at, **call)

    cache, parts = empty_cross_cache(2, B, T, M, H, W // H), []
    for at in range(3):
        y, cache = step(X[:, at : at + 1], cache, MEMORY if at == 0 else None, at)
        parts.append(y)
    np.testing.assert_allclose(np.concatenate(parts, 1), full[:, :3], atol=1e-5)


def test_norms_stay_in_float32_when_parameters_are_stacked():
    style = BlockStyle(H, 20, qk_norm="layer")
    scan, loop = (stack((style,), 2, scan=s, dtype=jnp.bfloat16) for s in (True, False))
    params = random_params(loop, X)
    stacked = jax.eval_shape(lambda p: scan.bind({"params": p})._stacked_parameters(0), params)
    kinds = {jax.tree_util.keystr(path): leaf.dtype for path, leaf in jax.tree_util.tree_leaves_with_path(stacked)}
    assert {dtype for name, dtype in kinds.items() if "norm" in name} == {jnp.dtype("float32")}
    assert {dtype for name, dtype in kinds.items() if "norm" not in name} == {jnp.dtype("bfloat16")}
    out = [jax.jit(model.apply)({"params": params}, X)[0].astype(np.float32) for model in (scan, loop)]
    np.testing.assert_allclose(*out, atol=0.15)


@pytest.mark.parametrize(
    ("style", "call", "what"),
    [
        ({"cross": "plain"}, {}, "needs a memory"),
        ({}, {"memory": MEMORY}, "cannot use a memory"),
        ({"norm": "adaptive"}, {}, "needs a condition"),
        ({}, {"condition": CONDITION}, "cannot use a condition"),
        ({"norm": "adaptive", "modulation": "table"}, {"condition": CONDITION}, r"\(2, 10\) does not hold 6 vectors"),
        ({"rotary": "pairs"}, {}, "need angles"),
        ({"rotary": "pairs"}, {"angles": ANGLES[:, :2]}, r"do not fit 6 tokens with heads of 8"),
        ({}, {"mask": np.ones((B, 1, T, T + 1), bool)}, r"mask of shape \(2, 1, 6, 7\)"),
        ({}, {"mask": np.ones((T, T), bool)}, r"mask of shape \(6, 6\)"),
        ({}, {"bias": np.ones((1, 3, T, T))}, r"bias of shape \(1, 3, 6, 6\)"),
        ({}, {"mask": "causl"}, "Unknown mask 'causl'"),
        ({}, {"at": 0}, "cache needs the position"),
        ({"num_heads": 3}, {}, "16 does not divide into 3 heads"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(style, call, what):
    with pytest.raises(UserError, match=what):
        jax.eval_shape(lambda: Block(BlockStyle(**{"num_heads": H, "mlp_dim": 8, **style})).init(KEY, X, **call))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: stack((BlockStyle(H, 8),) * 2, 3, scan=True), "3 blocks do not divide into groups of 2"),
        (lambda: stack((), 3), "no style"),
        (lambda: BlockStyle(H, 8, norm="pree"), "Unknown norm 'pree'. Did you mean 'pre'"),
        (lambda: BlockStyle(H, 8, biases=("q",)), "Unknown bias 'q'"),
        (lambda: BlockStyle(H, 8, qk_norm="l2", logit_scale=1.0), "have a learned factor"),
        (lambda: BlockStyle(H, 8, modulation="table"), "Only adaptive norms"),
        (lambda: BlockStyle(H, 8, activation="gelu"), "Unknown activation 'gelu'"),
        (lambda: Execution(remat="dot"), "Unknown remat 'dot'. Did you mean 'dots'"),
        (lambda: block_style({"gelu": "exact", "activation": "relu"}, num_heads=1, mlp_dim=1), "'activation' twice"),
        (lambda: Band(-1, 0), "at least 0"),
    ],
)
def test_wrong_values_are_user_errors(make, what):
    with pytest.raises(UserError, match=what):
        make()


def test_the_older_names_of_keys_mean_what_they_meant():
    old = block_style(
        {"gelu": "exact", "layer_norm_epsilon": 1e-5, "qkv_bias": False, "dropout_rate": 0.1}, num_heads=2, mlp_dim=8
    )
    assert old == BlockStyle(
        2, 8, activation="gelu_exact", norm_epsilon=1e-5, biases=("out", "fc1", "fc2"), dropout_rate=0.1
    )
    assert block_style({"mlp": "swiglu"}, num_heads=2, mlp_dim=8) == BlockStyle(2, 8, gated=True, activation="silu")
    assert Band(after=0) == CAUSAL


def test_every_style_of_the_table_of_systems_exists():
    text = (Path(__file__).parents[2] / "docs/blocks.md").read_text()
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")][1:]
    said = {system.strip(): re.findall(r"BlockStyle\(.*?\)(?=`)", style) for system, style, _ in rows}
    assert len(rows) == 19 and {name for name, calls in said.items() if not calls} == {
        "SAM, image encoder", "SAM, mask decoder", "U-Net residual block, VAE", "EfficientViT"
    }  # fmt: skip
    for call in re.findall(r"`(BlockStyle\(.*?\))`", text):
        node = ast.parse(call, mode="eval").body
        values = {k.arg: ast.literal_eval(k.value) for k in node.keywords}
        BlockStyle(*(ast.literal_eval(a) for a in node.args), **values)
