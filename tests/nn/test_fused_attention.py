"""The kernel for TPUs, interpreted here, against attention written out; what it needs; and that it is tried before use."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vit_jax import UserError
from vit_jax.nn import fused_attention, multi_head
from vit_jax.nn.attention import attention, chosen
from vit_jax.nn.batch_axis import batch_split_like
from vit_jax.nn.fused_attention import fused_self_attention, grouped
from vit_jax.nn.mask import CAUSAL, Band
from vit_jax.nn.multi_head import MultiHeadAttention
from vit_jax.nn.platform import computing_on
from vit_jax.nn.style import BlockStyle, Execution
from vit_jax.training.sharding import make_mesh


def four(batch, tokens, heads, width):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(batch, tokens, heads, width)) * 3, jnp.float32) for _ in range(4)]


def value_and_gradients(function, q, k, v, weight):
    def loss(q, k, v):
        out = function(q, k, v)
        return (out * weight).sum(), out

    return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(q, k, v)


def kernel(q, k, v, band=None):
    """With the first token's part of queries, keys and values given as a bias."""
    heads = q.shape[2]
    first = [x[0, 0] for x in (q, k, v)]
    qkv = grouped(*((x - part).reshape(*x.shape[:2], -1) for x, part in zip((q, k, v), first, strict=True)), heads)
    bias = grouped(*(part.reshape(-1) for part in first), heads)
    return fused_self_attention(qkv, heads, q.shape[-1] ** -0.5, band, bias, True).reshape(q.shape)


@pytest.mark.parametrize(
    ("heads", "width", "band"),
    [(4, 64, None), (2, 64, CAUSAL), pytest.param(8, 80, Band(3, 1), marks=pytest.mark.long)],
)
def test_equals_attention_written_out(heads, width, band):
    """Logits are so large that a softmax without its maximum would overflow; 21 tokens fill no tile."""
    arguments = four(2, 21, heads, width)
    ours = value_and_gradients(functools.partial(kernel, band=band), *arguments)
    plain = functools.partial(attention, mask=band, implementation="explicit")
    theirs = value_and_gradients(plain, *arguments)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), ours, theirs)


@pytest.mark.long
def test_each_device_has_its_own_examples_and_heads():
    arguments = four(4, 5, 4, 64)
    expected = value_and_gradients(kernel, *arguments)
    mesh = make_mesh({"data": 4, "tensor": 2}, jax.devices())
    with batch_split_like(NamedSharding(mesh, PartitionSpec(("data", "fsdp")))):
        found = value_and_gradients(kernel, *arguments)
        assert fused_attention.fits(5, 4, 64) and not fused_attention.fits(5, 2, 64), "two heads of 64 fill the lanes"
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


@pytest.mark.long
def test_a_layer_gives_the_same_with_it(monkeypatch):
    style = BlockStyle(num_heads=2, head_dim=64, mlp_dim=8)
    make = lambda how: MultiHeadAttention(style, Execution(jnp.bfloat16, attention_implementation=how))  # noqa: E731
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 96)), jnp.bfloat16)
    initial = params = make("explicit").init(jax.random.key(0), x, train=False)["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.1, leaf.dtype), params)
    interpreted = functools.partial(fused_self_attention, interpret=True)
    monkeypatch.setattr(multi_head, "fused_self_attention", lambda *arguments: interpreted(*arguments))
    results = {}
    for how, platform in (("explicit", "cpu"), ("fused", "tpu")):
        with computing_on(platform):
            layer = make(how)
            made = layer.init(jax.random.key(0), x, train=False)["params"]
            jax.tree.map(np.testing.assert_array_equal, made, initial)
            loss = lambda p, x: jnp.square(layer.apply({"params": p}, x, train=False)[0]).mean()  # noqa: B023, E731
            results[how] = jax.tree.map(lambda x: np.asarray(x, np.float32), jax.jit(jax.grad(loss, (0, 1)))(params, x))
    # The key's bias moves all logits of a query alike: its gradient is zero, and what is found there is rounding.
    results = {how: ({**p, "key": p["key"]["kernel"]}, x) for how, (p, x) in results.items()}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=0.04 * np.abs(b).max()),
        results["fused"],
        results["explicit"],
    )


@pytest.mark.parametrize(
    ("itself", "options", "expected"),
    [
        ((197, 12), {}, "fused"),
        ((197, 12), {"mask": "causal"}, "fused"),
        ((641, 12), {}, "recomputed"),
        ((197, 3), {}, "recomputed"),
        (None, {}, "recomputed"),
        ((197, 12), {"biased": True}, "xla"),
        ((197, 12), {"needs_weights": True}, "explicit"),
    ],
)
def test_auto_takes_it_where_it_fits(itself, options, expected):
    with computing_on("tpu"):
        assert chosen("auto", jnp.bfloat16, 64, itself=itself, **options) == expected


@pytest.mark.parametrize("itself", [(641, 12), (197, 3), None])
def test_a_wish_that_it_cannot_fulfil_is_one_sentence(itself):
    with computing_on("tpu"), pytest.raises(UserError, match="It needs a TPU, half precision, at most 640 tokens"):
        chosen("fused", jnp.bfloat16, 64, itself=itself)
    with computing_on("cpu"), pytest.raises(UserError, match="cannot run this on cpu"):
        chosen("fused", jnp.bfloat16, 64, itself=(197, 12))


@pytest.mark.parametrize(
    ("replacement", "said"),
    [
        (functools.partial(fused_self_attention, interpret=True), None),
        (lambda qkv, *_: 1.1 * qkv[..., : qkv.shape[-1] // 3], "other numbers"),
        (None, "does not run here"),
    ],
)
def test_it_is_tried_on_the_tpu_before_it_is_used(monkeypatch, capsys, replacement, said):
    """There is none here: interpreted it passes, a wrong one is found, and what does not compile is not used."""
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    if replacement:
        monkeypatch.setattr(fused_attention, "fused_self_attention", replacement)
    worked = fused_attention.works.__wrapped__(5, 64, "bfloat16", CAUSAL)
    message = capsys.readouterr().err
    assert worked == (said is None) and (said or "") in message
