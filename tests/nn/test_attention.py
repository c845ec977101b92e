"""The attention implementations against NumPy and each other, and the multi-head layer against Flax's own."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Var

from vit_jax.errors import UserError
from vit_jax.nn import attention as module
from vit_jax.nn import cudnn_attention
from vit_jax.nn import mask as masks
from vit_jax.nn.attention import attention, chosen
from vit_jax.nn.batch_axis import batch_split_like
from vit_jax.nn.cudnn_attention import _direct_works, cudnn_works
from vit_jax.nn.mask import Band, dense
from vit_jax.nn.multi_head import Filled, MultiHeadAttention
from vit_jax.nn.platform import computing_on, row_major
from vit_jax.nn.recomputed_attention import OUTPUT, STATISTICS
from vit_jax.nn.style import BlockStyle, Execution
from vit_jax.training.sharding import batch_sharding, make_mesh

# This generator compiles several times faster than the default one.
KEY = jax.random.key(0, impl="rbg")


def make(dtype=jnp.float32, implementation="auto", num_heads=3, **style):
    return MultiHeadAttention(BlockStyle(num_heads, 1, **style), Execution(dtype, implementation))


def inputs(dtype=np.float32, t=5, s=7, h=3, d=8):
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(2, n, h, d)).astype(dtype) for n in (t, s, s))
    bias = rng.normal(size=(1, h, t, s)).astype(np.float32)
    mask = rng.random((2, 1, t, s)) < 0.7
    mask[..., 0] = True
    return q, k, v, bias, mask


def reference(q, k, v, bias=None, mask=None):
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    logits = np.einsum("bthd,bshd->bhts", q, k) / np.sqrt(q.shape[-1])
    logits = logits if bias is None else logits + bias
    logits = logits if mask is None else np.where(mask, logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhts,bshd->bthd", weights, v), weights


@pytest.mark.parametrize("implementation", ["explicit", "xla"])
@pytest.mark.parametrize(("biased", "masked"), [(False, False), (True, False), (False, True), (True, True)])
def test_paths_equal_numpy(implementation, biased, masked):
    q, k, v, bias, mask = inputs()
    extras = {"bias": bias if biased else None, "mask": mask if masked else None}
    out = jax.jit(lambda q, k, v: attention(q, k, v, **extras, implementation=implementation))(q, k, v)
    np.testing.assert_allclose(out, reference(q, k, v, **extras)[0], atol=1e-5)


@pytest.mark.parametrize("implementation", ["explicit", "xla"])
@pytest.mark.parametrize("masked", [False, True])
def test_rows_take_turns_with_several_biases(implementation, masked):
    """Of windows of one image after those of another, each has its bias, and each image the same ones."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(6, 4, 2, 8)).astype(np.float32) for _ in range(3))
    bias = rng.normal(size=(3, 2, 4, 4)).astype(np.float32)
    mask = (rng.random((6, 1, 4, 4)) < 0.7) | np.eye(4, dtype=bool) if masked else None
    run = jax.jit(lambda b: attention(q, k, v, bias=b, mask=mask, implementation=implementation))
    expected = reference(q, k, v, np.tile(bias, (2, 1, 1, 1)), mask)
    np.testing.assert_allclose(run(bias), expected[0], atol=1e-5)
    gradient = jax.jit(jax.grad(lambda b: jnp.sin(run(b)).sum()))
    whole = gradient(np.tile(bias, (2, 1, 1, 1)))
    np.testing.assert_allclose(gradient(bias), whole[:3] + whole[3:], atol=1e-5)
    if implementation == "explicit":
        out, weights = attention(q, k, v, bias=bias, mask=mask, return_weights=True)
        np.testing.assert_allclose(weights, expected[1], atol=1e-6)
        np.testing.assert_array_equal(out, attention(q, k, v, bias=bias, mask=mask))
    with pytest.raises(UserError, match="the first may also divide the batch"):
        attention(q, k, v, bias=np.zeros((4, 2, 4, 4), np.float32))


def largest_of_bias_alone(jaxpr, alone, mixed, found=0):
    """Elements of the largest value that a program makes of the inputs `alone` and of nothing else but constants."""
    alone, mixed = set(alone), set(mixed)
    for eqn in jaxpr.eqns:
        read = {v for v in eqn.invars if isinstance(v, Var)}
        inner = next((p for p in eqn.params.values() if hasattr(p, "jaxpr") or hasattr(p, "eqns")), None)
        if inner is not None:
            inner = getattr(inner, "jaxpr", inner)
            pairs = list(zip(eqn.invars, inner.invars, strict=True))
            inputs = ([b for a, b in pairs if isinstance(a, Var) and a in some] for some in (alone, mixed))
            found = largest_of_bias_alone(inner, *inputs, found)
        if read & mixed:
            mixed.update(eqn.outvars)
        elif read & alone:
            alone.update(eqn.outvars)
            found = max(found, *(v.aval.size for v in eqn.outvars))
    return found


@pytest.mark.parametrize("implementation", ["explicit", "xla"])
@pytest.mark.parametrize("count", [1, 16])
def test_no_row_has_a_bias_of_its_own_that_shares_it(implementation, count):
    """Before XLA leaves out what it can, as it does on a CPU: the largest array made of the bias is the bias."""
    q = jax.ShapeDtypeStruct((64, 9, 3, 8), np.float32)
    bias = jax.ShapeDtypeStruct((count, 3, 9, 9), np.float32)

    def attended(q, b):
        return attention(q, q, q, bias=b, implementation=implementation)

    for program in (attended, jax.grad(lambda q, b: jnp.square(attended(q, b)).sum(), (0, 1))):
        traced = jax.make_jaxpr(program)(q, bias)
        assert largest_of_bias_alone(traced.jaxpr, traced.jaxpr.invars[1:], traced.jaxpr.invars[:1]) <= bias.size
    tiled = jax.make_jaxpr(lambda q, b: attention(q, q, q, bias=jnp.tile(b, (64 // count, 1, 1, 1))))(q, bias)
    assert largest_of_bias_alone(tiled.jaxpr, tiled.jaxpr.invars[1:], tiled.jaxpr.invars[:1]) > bias.size


BANDS = [("causal", Band(after=0)), (Band(2, 0), Band(2, 0)), (Band(3, 1), Band(3, 1)), (Band(None, 2), Band(None, 2))]


@pytest.mark.parametrize(("mask", "band"), BANDS, ids=str)
def test_bands_are_the_masks_that_they_stand_for(mask, band):
    q, k, v, *_ = inputs(t=7)
    seen = np.array([[(band.before is None or i - j <= band.before) and (band.after is None or j - i <= band.after)
                      for j in range(7)] for i in range(7)])[None, None]  # fmt: skip
    np.testing.assert_array_equal(dense(band, 7, 7), seen)
    expected = reference(q, k, v, mask=seen)[0]
    loss = lambda q, k, v, mask, how: jnp.sin(attention(q, k, v, mask=mask, implementation=how)).sum()  # noqa: E731
    gradient = lambda mask, how: jax.jit(jax.grad(lambda *x: loss(*x, mask, how), argnums=(0, 1, 2)))(q, k, v)  # noqa: E731
    plain = gradient(seen, "explicit")
    for how in ("explicit", "recomputed", "xla"):
        out = jax.jit(functools.partial(attention, mask=mask, implementation=how))(q, k, v)
        np.testing.assert_allclose(out, expected, atol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradient(mask, how), plain)


def test_a_window_that_leaves_queries_without_keys_is_refused():
    q, k, v, *_ = inputs(t=9, s=4)
    with pytest.raises(UserError, match="leaves the last of 9 queries none of 4 keys"):
        attention(q, k, v, mask=Band(2, 0))


def test_weights_are_returned_in_float32():
    q, k, v, bias, mask = inputs()
    out, weights = attention(*(jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)), bias=bias, return_weights=True)
    assert (out.dtype, weights.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-5)
    expected = attention(q, k, v, bias=bias, mask=mask, return_weights=True)[1]
    np.testing.assert_allclose(expected, reference(q, k, v, bias, mask)[1], atol=1e-6)
    assert not np.asarray(expected)[~np.broadcast_to(mask, expected.shape)].any()


def test_a_query_that_sees_nothing_is_not_nan():
    q, k, v, _, mask = inputs()
    mask[0, 0, 2] = False
    for implementation in ("explicit", "xla"):
        out = attention(q, k, v, mask=mask, implementation=implementation)
        np.testing.assert_allclose(out[0, 2], v[0].mean(0), atol=1e-5)
        nothing = np.array(attention(q, k, v, mask=mask, implementation=implementation, empty="zero"))
        assert not nothing[0, 2].any()
        nothing[0, 2] = out[0, 2]
        np.testing.assert_array_equal(nothing, out)
    out, weights = attention(q, k, v, mask=mask, empty="zero", return_weights=True)
    assert not np.asarray(weights)[0, :, 2].any()
    with pytest.raises(UserError, match="Unknown empty 'nil'"):
        attention(q, k, v, empty="nil")


def test_dropout_drops_single_weights_and_rescales_the_rest():
    t = 64
    q = k = np.zeros((4, t, 2, t), np.float32)
    v = np.broadcast_to(np.eye(t, dtype=np.float32)[None, :, None], q.shape)  # the output rows are the weights
    out = np.asarray(attention(q, k, v, dropout_rate=0.25, dropout_rng=KEY))
    kept = out != 0
    assert abs(kept.mean() - 0.75) < 0.01
    np.testing.assert_allclose(out[kept], 1 / t / 0.75, rtol=1e-5)
    assert np.unique(kept.reshape(-1, t), axis=0).shape[0] > 500, "queries, heads and samples share no mask"


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"implementation": "flash"}, "flash"),
        ({"implementation": "cudnn"}, "cudnn"),
        ({"implementation": "recomputed", "dropout_rate": 0.1}, "drop"),
        ({"implementation": "recomputed", "bias": jnp.zeros((1, 1, 5, 7))}, "no bias"),
        ({"implementation": "recomputed", "mask": jnp.ones((1, 1, 5, 7), bool)}, "no mask but"),
        ({"implementation": "xla", "return_weights": True}, "weights"),
        ({"implementation": "xla", "dropout_rate": 0.1}, "drop"),
        ({"implementation": "cudnn", "dropout_rate": 0.1}, "drop"),
    ],
)
def test_impossible_wishes_are_user_errors(options, what):
    q, k, v, *_ = inputs()
    with pytest.raises(UserError, match=what):
        attention(q, k, v, **options)


@pytest.mark.parametrize(
    ("backend", "dtype", "width", "options", "expected"),
    [
        ("gpu", jnp.bfloat16, 64, {}, "cudnn"),
        ("gpu", jnp.float16, 72, {}, "cudnn"),
        ("gpu", jnp.float32, 64, {}, "xla"),
        ("gpu", jnp.bfloat16, 12, {}, "xla"),
        ("gpu", jnp.bfloat16, 136, {}, "xla"),
        ("gpu", jnp.bfloat16, 64, {"bias": jnp.zeros((1, 1, 5, 7))}, "xla"),
        ("gpu", jnp.bfloat16, 64, {"mask": jnp.ones((1, 1, 5, 7), bool)}, "xla"),
        ("gpu", jnp.bfloat16, 64, {"mask": "causal"}, "cudnn"),
        ("gpu", jnp.bfloat16, 64, {"mask": Band(3, 0)}, "cudnn"),
        ("gpu", jnp.bfloat16, 64, {"mask": Band(3, 1)}, "xla"),
        ("tpu", jnp.bfloat16, 64, {"mask": "causal"}, "recomputed"),
        ("tpu", jnp.bfloat16, 64, {"mask": jnp.ones((1, 1, 5, 7), bool)}, "xla"),
        ("gpu", jnp.bfloat16, 64, {"return_weights": True}, None),
        ("tpu", jnp.bfloat16, 64, {"bias": jnp.zeros((1, 1, 5, 7))}, "xla"),
        ("tpu", jnp.bfloat16, 64, {}, "recomputed"),
        ("cpu", jnp.bfloat16, 64, {}, None),
    ],
)
def test_auto_chooses_by_machine(monkeypatch, backend, dtype, width, options, expected):
    chosen = []
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(module, "cudnn_works", lambda dtype, width, here: True)
    monkeypatch.setattr(cudnn_attention, "_direct_works", lambda dtype, width, here: False)
    monkeypatch.setattr(module, "recomputed_attention", lambda *_: chosen.append("recomputed"))
    monkeypatch.setattr(
        jax.nn, "dot_product_attention", lambda q, *_, implementation, **__: chosen.append(implementation) or q
    )
    q, k, v, *_ = inputs(d=width)
    attention(*(jnp.asarray(x, dtype) for x in (q, k, v)), **options)
    assert chosen == ([expected] if expected else [])


def test_auto_follows_the_platform_that_is_traced_for():
    with computing_on("tpu"):
        assert chosen("auto", jnp.bfloat16, 64) == "recomputed"
    assert chosen("auto", jnp.bfloat16, 64) == "explicit"


def test_where_cudnn_fails_its_probe_it_is_said_once(capsys, monkeypatch):
    probes = (cudnn_works, _direct_works)
    for probe in probes:
        probe.cache_clear()
    with computing_on("gpu"):
        assert chosen("auto", jnp.bfloat16, 64) == "cudnn", "for another machine's GPU"
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # this machine does not have one
        assert [chosen("auto", jnp.bfloat16, 64) for _ in range(2)] == ["xla", "xla"]
    err = capsys.readouterr().err
    assert err.count("cuDNN's attention does not run here") == 1
    for probe in probes:
        probe.cache_clear()


def test_a_plan_for_a_gpu_asks_only_whether_it_can_be_traced(capsys):
    """And an odd number of tokens can: in training jax refuses it, whatever cuDNN can do. None is padded."""
    for probe in (cudnn_works, _direct_works):
        probe.cache_clear()
    x = jax.ShapeDtypeStruct((2, 7, 2, 64), jnp.bfloat16)

    def lowered():
        gradient = jax.grad(lambda q: attention(q, q, q).astype(jnp.float32).sum())
        with computing_on("gpu"):
            return jax.jit(gradient).trace(x).lower(lowering_platforms=("cuda",)).as_text()

    text = lowered()
    assert text.count("custom_call @__cudnn$fmhaSoftmax") == 2 and "stablehlo.pad" not in text
    assert not capsys.readouterr().err
    for probe in (cudnn_works, _direct_works):
        probe.cache_clear()


def test_rematerialisation_keeps_what_cudnn_made():
    """With the names saved the backward pass runs no second forward pass; full rematerialisation does."""

    def calls(policy):
        def loss(q):
            return jnp.square(jax.checkpoint(lambda q: attention(q, q, q), policy=policy)(q).astype(jnp.float32)).sum()

        with computing_on("gpu"):
            traced = jax.jit(jax.grad(loss)).trace(jax.ShapeDtypeStruct((2, 7, 2, 64), jnp.bfloat16))
        return traced.lower(lowering_platforms=("cuda",)).as_text().count("custom_call @__cudnn$fmhaSoftmax(")

    _direct_works.cache_clear()
    kept = jax.checkpoint_policies.save_only_these_names(OUTPUT, STATISTICS)
    assert (calls(kept), calls(None)) == (1, 2)


def test_activations_lie_as_their_axes_come_on_gpus():
    x = jnp.ones((2, 3, 4))
    text = {}
    for name in ("gpu", "tpu"):
        with computing_on(name):
            text[name] = str(jax.make_jaxpr(jax.grad(lambda x: row_major(x).sum()))(x))
    assert text["gpu"].count("layout_constraint") == 2 and "layout_constraint" not in text["tpu"]


def test_no_device_gathers_the_others_examples_to_lay_out_its_own():
    mesh = make_mesh({}, jax.devices())

    def loss(x):
        with computing_on("gpu"), batch_split_like(batch_sharding(mesh)):
            return jnp.square(row_major(x)).sum()

    x = jax.ShapeDtypeStruct((16, 3, 4), jnp.float32, sharding=batch_sharding(mesh))
    text = jax.jit(jax.grad(loss)).lower(x).compile().as_text()
    assert "f32[2,3,4]" in text and "all-gather" not in text and "f32[16,3,4]" not in text


@pytest.mark.parametrize(("band", "keys"), [(None, 4), pytest.param(Band(2, 0), 7, marks=pytest.mark.long)])
def test_odd_lengths_get_a_token_that_nobody_sees(monkeypatch, band, keys):
    """cuDNN itself is not here: the arguments that it would get go to XLA's implementation of the same function."""
    library, lengths = jax.nn.dot_product_attention, []

    def as_xla(q, k, v, *, implementation, **options):
        assert implementation == "cudnn" and q.shape[1] % 2 == k.shape[1] % 2 == 0
        lengths.append(options.get("key_value_seq_lengths"))
        return library(q, k, v, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", as_xla)
    rng = np.random.default_rng(0)
    q, k, v, weight = (jnp.asarray(rng.normal(size=(2, t, 2, 8)), jnp.float32) for t in (7, keys, keys, 7))
    mask = masks.as_mask(band)

    def of(function):
        def loss(*qkv):
            out = function(*qkv)
            return jnp.sum(out * weight), out

        return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(q, k, v)

    padded = of(lambda q, k, v: cudnn_attention._padded(q, k, v, 8**-0.5, mask))
    plain = of(lambda q, k, v: attention(q, k, v, mask=band, implementation="explicit"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), padded, plain)
    assert (lengths[0] is None) == (band is not None)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("cross", "qkv_bias"), [(False, True), (True, False)])
def test_recomputing_gives_the_same_outputs_and_gradients(dtype, cross, qkv_bias):
    """In float32 with large logits, so that a softmax without its maximum would overflow."""
    rng = np.random.default_rng(0)
    x_q = jnp.asarray(rng.normal(size=(2, 5, 24)), jnp.float32)
    x_kv = jnp.asarray(rng.normal(size=(2, 7, 24)), jnp.float32) if cross else None
    layers = {
        name: make(dtype, name, biases=("query", "key", "value", "out") if qkv_bias else ("out",))
        for name in ("explicit", "recomputed")
    }
    init = functools.partial(layers["explicit"].init, train=False)
    shapes = jax.eval_shape(init, KEY, x_q, x_kv)
    scale = 0.2 if dtype == jnp.bfloat16 else 1.5
    variables = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, scale, x.shape), jnp.float32), shapes)

    def loss(name, variables, x_q):
        out = layers[name].apply(variables, x_q, x_kv if cross else None, train=True)[0].astype(jnp.float32)
        return jnp.sin(out).sum(), out

    results = [
        jax.jit(jax.value_and_grad(functools.partial(loss, name), argnums=(0, 1), has_aux=True))(variables, x_q)
        for name in layers
    ]
    # Beside the largest of all gradients: that of a key's bias is zero but for rounding.
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(results[0]))
    tolerance = (2e-2 if dtype == jnp.bfloat16 else 3e-4) * largest
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance), results[1], results[0])


def test_what_a_filled_cache_holds_is_attended_to_on_a_tpu_too():
    """There it was taken for tokens that attend to each other, and what they attend to was left out."""
    rng = np.random.default_rng(0)
    x, memory = (jnp.asarray(rng.normal(size=(2, t, 24)), jnp.float32) for t in (5, 7))
    layer, empty = make(), jax.ShapeDtypeStruct((), jnp.float32)
    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), x, memory, train=False))
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes)

    @jax.jit
    def both(variables):
        wanted, filled = layer.apply(variables, x, memory, Filled(empty, empty), train=False)
        with computing_on("tpu"):
            return wanted, layer.apply(variables, x, None, filled, train=False)[0]

    wanted, found = both(variables)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_recomputing_saves_no_weights():
    x = jnp.zeros((2, 50, 24))
    layers = {name: make(implementation=name) for name in ("explicit", "recomputed")}
    sizes = {}
    for name, layer in layers.items():
        variables = jax.eval_shape(functools.partial(layer.init, train=False), KEY, x)
        _, back = jax.eval_shape(
            lambda v, x, layer=layer: jax.vjp(lambda v, x: layer.apply(v, x, train=True), v, x), variables, x
        )
        sizes[name] = max(np.prod(leaf.shape) for leaf in jax.tree.leaves(back))
    assert sizes == {"explicit": 2 * 3 * 50 * 50, "recomputed": 2 * 50 * 3 * 24}


@pytest.mark.parametrize("cross", [False, True])
def test_layer_equals_flax(cross):
    rng = np.random.default_rng(0)
    x_q = rng.normal(size=(2, 5, 24)).astype(np.float32)
    x_kv = rng.normal(size=(2, 7, 24)).astype(np.float32) if cross else x_q
    ours = make()
    shapes = jax.eval_shape(lambda: ours.init(KEY, x_q, x_kv, train=False))
    variables = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)
    expected = nn.MultiHeadDotProductAttention(num_heads=3).apply(variables, x_q, x_kv)
    out = ours.apply(variables, x_q, x_kv if cross else None, train=False)[0]
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_layer_initial_kernels_are_xavier_uniform_over_the_flattened_matrix():
    width, heads = 48, 4
    params = jax.jit(make(num_heads=heads).init, static_argnames="train")(KEY, jnp.zeros((1, 2, width)), train=False)[
        "params"
    ]
    assert set(params) == {"query", "key", "value", "out"}
    bound = np.sqrt(6 / (2 * width))
    for name, projection in params.items():
        shape = (heads, width // heads, width) if name == "out" else (width, heads, width // heads)
        assert projection["kernel"].shape == shape
        assert 0.97 * bound < np.abs(projection["kernel"]).max() <= bound
        assert not projection["bias"].any()


def test_layer_sows_weights_and_drops_only_in_training():
    x = np.random.default_rng(0).normal(size=(2, 5, 24)).astype(np.float32)
    layer = MultiHeadAttention(BlockStyle(3, 1, attention_dropout_rate=0.5), Execution(sow_attention=True))
    variables = {"params": layer.init(KEY, x, train=False)["params"]}
    (out, _), sown = layer.apply(variables, x, train=False, mutable="intermediates")
    (weights,) = sown["intermediates"]["attention_weights"]
    assert weights.shape == (2, 3, 5, 5)
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-5)
    rngs = [{"dropout": jax.random.fold_in(KEY, i)} for i in (0, 0, 1)]
    runs = [layer.apply(variables, x, train=True, rngs=rng)[0] for rng in rngs]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert np.abs(runs[0] - runs[2]).max() > 1e-3
    assert np.abs(runs[0] - out).max() > 1e-3


def test_layer_refuses_a_width_that_the_heads_do_not_divide():
    with pytest.raises(UserError, match=r"width of 24 .* 5 heads"):
        make(num_heads=5).init(KEY, jnp.zeros((1, 2, 24)), train=False)


def test_the_worked_example_of_scaled_dot_products():
    """Two keys of width 64 whose products with a query are 112 and 96: divided by 8 they are 14 and 12, and the softmax
    of these is 0.88 and 0.12."""
    q, k = np.zeros((1, 1, 1, 64), np.float32), np.zeros((1, 2, 1, 64), np.float32)
    q[..., :16], k[0, 0, 0, :16], k[0, 1, 0, :16] = 2, 3.5, 3
    np.testing.assert_array_equal(np.einsum("bthd,bshd->bts", q, k)[0, 0], [112, 96])
    v = np.array([14.0, 12.0], np.float32).reshape(1, 2, 1, 1).repeat(64, -1)
    out, weights = attention(q, k, v, return_weights=True)
    np.testing.assert_allclose(np.log(weights[0, 0, 0]) - np.log(weights[0, 0, 0, 0]), [0, 12 - 14], atol=1e-5)
    np.testing.assert_allclose(weights[0, 0, 0], [0.88, 0.12], atol=0.005)
    np.testing.assert_allclose(out[0, 0, 0], 0.8808 * 14 + 0.1192 * 12, atol=1e-3)
