"""Attention of short sequences as one kernel for TPUs: weights stay on the chip, forward and backward."""

import functools
import math
import sys
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.nn.batch_axis import feature_splits, on_each_device, on_one_device
from vit_jax.nn.mask import Band, dense, within

# A core holds some float32 arrays of [T, T] in its 16 MiB of vector memory; longer sequences need blocks of keys.
MAX_TOKENS = 640
_LANES = 128


def fits(tokens: int, heads: int, width: int) -> bool:
    """Whether the kernel can run so many tokens and heads of this width, on each device that has some of the heads."""
    return tokens <= MAX_TOKENS and heads % (_together(width) * feature_splits()) == 0


def _together(width: int) -> int:
    """Heads of this width whose features fill whole lanes side by side."""
    return math.lcm(width, _LANES) // width


def fused_self_attention(
    qkv: Float[Array, "b t three_widths"],
    heads: int,
    scale: float,
    band: Band | None = None,
    bias: Float[Array, " three_widths"] | None = None,
    interpret: bool = False,
) -> Float[Array, "b t width"]:
    """softmax(scale q k^T) v with the softmax in float32, heads side by side in the last axis.

    No array leaves the chip but queries, keys, values and the result, and their gradients; nor are heads transposed.
    The backward pass computes the weights again from queries and keys, as in FlashAttention (arXiv:2205.14135, section
    3.1), but a whole row at once, so that the softmax needs no statistics.

    Args:
        qkv: queries, keys and values of what `fits`, in the order of `grouped`: a kernel reads neighbours.
        band: which keys a query sees; each sees at least one.
        bias: float32, in the same order, added to `qkv`: its gradient is summed where that of `qkv` is on the chip.
        interpret: run it as plain operations, on whatever device.
    """
    examples, features = qkv.shape[0], qkv.shape[-1]
    bias = jnp.zeros(features) if bias is None else bias
    return _attend(qkv, jnp.broadcast_to(bias, (examples, 1, features)), heads, scale, band, interpret)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _attend(
    qkv: Float[Array, "b t three_widths"],
    bias: Float[Array, "b 1 three_widths"],
    heads: int,
    scale: float,
    band: Band | None,
    interpret: bool,
) -> Float[Array, "b t width"]:
    return _forward(qkv, bias, heads, scale, band, interpret)[0]


def grouped(q: Array, k: Array, v: Array, heads: int) -> Float[Array, "*b three_widths"]:
    """One array of three whose last axis is the features of all heads: q, k and v of some heads, then of the next."""
    groups = heads // _together(q.shape[-1] // heads)
    parts = [x.reshape(*x.shape[:-1], groups, -1) for x in (q, k, v)]
    return jnp.stack(parts, axis=-2).reshape(*q.shape[:-1], 3 * q.shape[-1])


def _forward(
    qkv: Array, bias: Array, heads: int, scale: float, band: Band | None, interpret: bool
) -> tuple[Array, tuple[Array, Array]]:
    def run(qkv: Float[Array, "b t three_widths"], bias: Float[Array, "b 1 three_widths"]) -> Float[Array, "b t width"]:
        out = jax.ShapeDtypeStruct((*qkv.shape[:2], qkv.shape[2] // 3), qkv.dtype)
        return _call(_forward_kernel, 2, (qkv, bias), (out,), width, scale, band, interpret)[0]

    width = qkv.shape[-1] // 3 // heads
    return on_each_device(run, 2)(qkv, bias), (qkv, bias)


def _backward(
    heads: int, scale: float, band: Band | None, interpret: bool, saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    def run(
        qkv: Float[Array, "b t three_widths"],
        bias: Float[Array, "b 1 three_widths"],
        gradient: Float[Array, "b t width"],
    ) -> tuple[Float[Array, "b t three_widths"], Float[Array, "b 1 three_widths"]]:
        return _call(_backward_kernel, 5, (qkv, bias, gradient), (qkv, bias), width, scale, band, interpret)

    width = saved[0].shape[-1] // 3 // heads
    return on_each_device(run, 3)(*saved, gradient)


_attend.defvjp(_forward, _backward)


def _call(
    kernel: Callable[..., None],
    products: int,
    arrays: tuple[Array, ...],
    out: tuple[jax.ShapeDtypeStruct | Array, ...],
    width: int,
    scale: float,
    band: Band | None,
    interpret: bool,
) -> tuple[Array, ...]:
    """A program for each example and as many heads as fill whole lanes, each of which sees all tokens."""
    from jax.experimental import pallas as pl  # it takes most of a second

    batch, tokens, features = arrays[0].shape
    groups = features // 3 // math.lcm(width, _LANES)
    weights = batch * tokens**2 * (features // 3 // width)
    whole = (*arrays, *out)
    blocks = [pl.BlockSpec((1, x.shape[1], x.shape[2] // groups), lambda b, h: (b, 0, h)) for x in whole]
    return tuple(
        pl.pallas_call(
            functools.partial(kernel, width=width, scale=scale, band=band),
            grid=(batch, groups),
            in_specs=blocks[: len(arrays)],
            out_specs=blocks[len(arrays) :],
            out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in out],
            # What the compiler is told of a kernel that it cannot look into.
            cost_estimate=pl.CostEstimate(
                flops=2 * products * weights * width,
                transcendentals=weights,
                bytes_accessed=sum(x.size * x.dtype.itemsize for x in whole),
            ),
            interpret=interpret,
            name=kernel.__name__.strip("_"),
        )(*arrays)
    )


@functools.cache
def works(tokens: int, width: int, dtype: str, band: Band | None) -> bool:
    """Whether the kernel gives here what plain operations give: tried once; where it does not, stderr says why.

    A step that is compiled for TPUs that are not there is compiled with it.
    """
    if jax.default_backend() != "tpu":
        return True
    heads = _together(width)
    qkv = np.random.default_rng(0).normal(size=(1, tokens, 3 * heads * width)).astype(dtype)

    bias = np.linspace(-1, 1, qkv.shape[-1], dtype=np.float32)

    def plain(qkv: Array, bias: Array) -> Array:
        qkv = qkv + bias.astype(qkv.dtype)
        q, k, v = jnp.moveaxis(qkv.reshape(1, tokens, 3, heads, width).astype(jnp.float32), 2, 0)
        logits = jnp.einsum("bthd,bshd->bhts", q, k, precision="highest") * width**-0.5
        if band is not None:
            logits = jnp.where(dense(band, tokens, tokens), logits, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(logits)
        return jnp.einsum("bhts,bshd->bthd", weights, v, precision="highest").reshape(1, tokens, -1)

    def both(qkv: Array, bias: Array) -> tuple[tuple[Array, ...], ...]:
        results = []
        for function in (lambda x, bias: fused_self_attention(x, heads, width**-0.5, band, bias), plain):
            out, pull = jax.vjp(function, qkv, bias)
            results.append((out, *pull(jnp.cos(out.astype(jnp.float32)).astype(out.dtype))))
        return tuple(results)

    try:
        with on_one_device():
            # Compiled ahead, because this may be asked for while something else is traced.
            shapes = (jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (qkv, bias))
            found = jax.jit(both).lower(*shapes).compile()(qkv, bias)
        ours, theirs = jax.tree.map(lambda x: np.asarray(x, np.float32), found)
        tolerance = 0.03  # of the largest: bfloat16 rounds by 0.004, and the gradient goes through three products
        if all(np.abs(a - b).max() <= tolerance * np.abs(b).max() for a, b in zip(ours, theirs, strict=True)):
            return True
        reason = "it gives other numbers than plain operations"
    except Exception as error:  # whatever this TPU's compiler says
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    print(f"The fused attention does not run here ({reason}); using another, which is slower.", file=sys.stderr)
    return False


_product = functools.partial(jax.lax.dot_general, preferred_element_type=jnp.float32)
# Which axes of two matrices are summed over: a b, a b^T, a^T b.
_PLAIN, _RIGHT, _LEFT = ((((1,), (0,)), ((), ())), (((1,), (1,)), ((), ())), (((0,), (0,)), ((), ())))


def _weights(q: Array, k: Array, scale: float, band: Band | None) -> tuple[Array, Array]:
    """Exponentials [T, T] and their sums [T, 1], float32."""
    logits = _product(q, k, _RIGHT) * scale
    if band is not None:
        ahead = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1) - jax.lax.broadcasted_iota(
            jnp.int32, logits.shape, 0
        )
        logits = jnp.where(within(band, ahead), logits, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights, weights.sum(axis=-1, keepdims=True)


def _heads(ref, bias_ref, width: int) -> Iterator[tuple[Array, Array, Array, slice, tuple[slice, ...]]]:
    """Of each head q, k and v, the columns of its result, and those of its q, k and v."""
    columns = ref.shape[-1] // 3
    for first in range(0, columns, width):
        three = tuple(slice(i * columns + first, i * columns + first + width) for i in range(3))
        q, k, v = (ref[0, :, part] + bias_ref[0, :, part].astype(ref.dtype) for part in three)
        yield q, k, v, three[0], three


def _forward_kernel(qkv_ref, bias_ref, out_ref, *, width: int, scale: float, band: Band | None) -> None:
    for q, k, v, head, _ in _heads(qkv_ref, bias_ref, width):
        weights, total = _weights(q, k, scale, band)
        out = _product(weights.astype(v.dtype), v, _PLAIN) / total
        out_ref[0, :, head] = out.astype(out_ref.dtype)


def _backward_kernel(
    qkv_ref, bias_ref, gradient_ref, out_ref, of_bias_ref, *, width: int, scale: float, band: Band | None
) -> None:
    for q, k, v, head, three in _heads(qkv_ref, bias_ref, width):
        gradient = gradient_ref[0, :, head]
        weights, total = _weights(q, k, scale, band)
        weights = weights / total
        dv = _product(weights.astype(v.dtype), gradient, _LEFT)
        # The softmax's gradient subtracts from that of each weight its mean under the weights.
        of_weights = _product(gradient, v, _RIGHT)
        mean = (weights * of_weights).sum(axis=-1, keepdims=True)
        of_logits = (weights * (of_weights - mean) * scale).astype(q.dtype)
        dq, dk = _product(of_logits, k, _PLAIN), _product(of_logits, q, _LEFT)
        for part, of in zip(three, (dq, dk, dv), strict=True):
            out_ref[0, :, part] = of.astype(out_ref.dtype)
            of_bias_ref[0, :, part] = of.sum(axis=0, keepdims=True)
