"""The multi-head attention layer: projections around `attention`, and a cache for decoding."""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, DTypeLike, Float, Int, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.nn import mask as masks
from vit_jax.nn.attention import attention, chosen
from vit_jax.nn.fused_attention import fused_self_attention, grouped
from vit_jax.nn.mask import Band, Mask
from vit_jax.nn.norm import NORMS, unit
from vit_jax.nn.products import product
from vit_jax.nn.recomputed_attention import OUTPUT, STATISTICS, recomputed_self_attention
from vit_jax.nn.rotary import rotate
from vit_jax.nn.style import BlockStyle, Execution

# Under these names a rematerialisation policy finds what a layer's backward pass reads.
_INPUTS = "attention_inputs"
SAVED = (_INPUTS, OUTPUT, STATISTICS)


class Cache(NamedTuple):
    """Keys and values of the tokens so far, with room for those to come. For a stack, layers come first.

    Args:
        keys: [B, S, H, D].
        values: [B, S, H, D].
    """

    keys: Float[Array, "*l b s h d"]
    values: Float[Array, "*l b s h d"]


class Filled(NamedTuple):
    """Keys and values of a whole memory, which every later token attends to.

    Args:
        keys: [B, M, H, D].
        values: [B, M, H, D].
    """

    keys: Float[Array, "*l b m h d"]
    values: Float[Array, "*l b m h d"]


class CrossCache(NamedTuple):
    """The cache of a block that attends to a memory too.

    Args:
        tokens: of the block's self-attention.
        memory: of its attention to the memory: filled by a call with the memory, and read by calls without.
    """

    tokens: Cache
    memory: Filled


def empty_cache(
    layers: int, batch: int, length: int, heads: int, head_dim: int, dtype: DTypeLike = jnp.float32
) -> Cache:
    """A cache of zeros for a stack of so many layers."""
    shape = (layers, batch, length, heads, head_dim)
    return Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def empty_cross_cache(
    layers: int, batch: int, length: int, memory: int, heads: int, head_dim: int, dtype: DTypeLike = jnp.float32
) -> CrossCache:
    """The same of blocks that attend to a memory of so many tokens, which the first call has to give."""
    filled = empty_cache(layers, batch, memory, heads, head_dim, dtype)
    return CrossCache(empty_cache(layers, batch, length, heads, head_dim, dtype), Filled(*filled))


class MultiHeadAttention(nn.Module):
    """Self- or cross-attention.

    Parameters, float32: `query`, `key`, `value` with kernel [D, H, d] and bias [H, d]; `out` with kernel [H, d, D] and
    bias [D]; `norm_query` and `norm_key`, or `norm_scale` [H] in logarithms, where queries and keys are normalised.

    Attributes:
        style: heads, their width, biases, normalising of queries and keys, rotary positions; see `BlockStyle`.
        execution: see `Execution`.
    """

    # Tensor parallelism splits heads: each device has some of them whole, and the last product is summed over devices.
    TENSOR: ClassVar[dict[str, int]] = {
        **{f"{name}/kernel": 1 for name in ("query", "key", "value")},
        **{f"{name}/bias": 0 for name in ("query", "key", "value")},
        "out/kernel": 0,
    }
    # Whether `attend` adds to the logits what it computes of the queries.
    ADDS_TO_LOGITS: ClassVar[bool] = False

    style: BlockStyle
    execution: Execution = Execution()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t width"],
        memory: Float[Array, "b s memory_width"] | None = None,
        cache: Cache | Filled | None = None,
        *,
        train: bool,
        values: Float[Array, "b s memory_width"] | None = None,
        mask: Mask | None = None,
        bias: Float[Array, "w #h #t #s"] | None = None,
        angles: Float[Array, "*b t half"] | None = None,
        at: Int[Array, ""] | Int[Array, " b"] | int | None = None,
    ) -> tuple[Float[Array, "b t width"], Cache | Filled | None]:
        """Attends from `x` to itself, to `memory`, or to what a cache holds and itself.

        Args:
            cache: of the tokens before; or a `Filled`, which a call with `memory` returns filled, and to which a call
                without one attends.
            values: what values are made of, where keys are made of something else: positions that are added to queries
                and keys alone (DETR, SAM).
            mask: which keys a query sees; with a cache the positions are those of the cache, and without a mask all
                tokens so far are seen.
            bias: added to the logits, see `vit_jax.nn.attention.attention`.
            angles: of rotary positions, see `vit_jax.nn.rotary`; those of the tokens of `x`.
            at: position of the first token of `x` in the cache, of all rows or of each.

        Raises:
            UserError: when the width does not divide into the heads, or arguments contradict each other.
        """
        style, execution, width = self.style, self.execution, x.shape[-1]
        if style.head_dim is None and width % style.num_heads:
            raise UserError(f"A width of {width} does not divide into {style.num_heads} heads", "Change one of the two")
        self._check(memory, cache, angles, at)
        heads = (style.num_heads, style.head_dim or width // style.num_heads)

        def dense(name: str, features: int | tuple[int, int], axis: int | tuple[int, int] = -1) -> nn.DenseGeneral:
            return nn.DenseGeneral(
                features,
                axis=axis,
                use_bias=style.has_bias(name),
                dtype=execution.dtype,
                kernel_init=nn.initializers.xavier_uniform(),
                dot_general=product,
                name=name,
            )

        dropout_rate = style.attention_dropout_rate if train else 0.0
        needs_weights = dropout_rate > 0 or execution.sow_attention
        mask = masks.as_mask(mask)
        # What a cache holds so far is a mask that is not known while compiling.
        grows = isinstance(cache, Cache)
        wanted = "auto" if grows else execution.attention_implementation
        masked = () if grows else mask
        implementation = chosen(
            wanted, execution.dtype, heads[1], biased=bias is not None or self.ADDS_TO_LOGITS, mask=masked,
            needs_weights=needs_weights,
            itself=None if memory is not None or cache is not None else (x.shape[1], heads[0]),
        )  # fmt: skip
        alike = len({style.has_bias(name) for name in ("query", "key", "value")}) == 1
        itself = memory is None and cache is None and values is None
        plain = itself and style.qk_norm == "none" and style.rotary == "none" and alike
        plain_scale = heads[1] ** -0.5 if style.logit_scale is None else style.logit_scale
        if implementation == "fused" and plain:
            qkv, bias = self._grouped_projections(x, heads)
            out = fused_self_attention(checkpoint_name(qkv, _INPUTS), heads[0], plain_scale, mask, bias)
            return self._output(checkpoint_name(out, OUTPUT), heads, width), None
        if implementation == "recomputed" and plain:
            qkv = checkpoint_name(self._projections(x, heads), _INPUTS)
            return dense("out", width, (-2, -1))(recomputed_self_attention(qkv, plain_scale, mask)), None

        q = dense("query", heads)(x)
        if isinstance(cache, Filled) and memory is None:
            # What is normalised, is so already.
            q, _, scale = self._normalised(q, None)
            k, v = (y.astype(q.dtype) for y in cache)
        else:
            source = x if memory is None else memory
            k, v = dense("key", heads)(source), dense("value", heads)(source if values is None else values)
            q, k, scale = self._normalised(q, k)
        if style.rotary != "none":
            q, k = (rotate(y, angles, style.rotary) for y in (q, k))
        q, k, v = (checkpoint_name(y, _INPUTS) for y in (q, k, v))
        if grows:
            cache = Cache(*(_written(old, new, at) for old, new in zip(cache, (k, v), strict=True)))
            k, v = (y.astype(q.dtype) for y in cache)
            mask = _in_cache(mask, x.shape[1], k.shape[1], at)
        elif cache is not None and memory is not None:
            cache = Filled(*(new.astype(old.dtype) for old, new in zip(cache, (k, v), strict=True)))
        out = self.attend(
            q,
            k,
            v,
            bias=bias,
            mask=mask,
            scale=scale,
            dropout_rate=dropout_rate,
            dropout_rng=self.make_rng("dropout") if dropout_rate > 0 else None,
            implementation=implementation,
            return_weights=execution.sow_attention,
            empty=style.empty,
        )
        if execution.sow_attention:
            out, weights = out
            self.sow("intermediates", "attention_weights", weights)
        return dense("out", width, (-2, -1))(checkpoint_name(out, OUTPUT)), cache

    def attend(
        self, q: Float[Array, "b t h d"], k: Float[Array, "b s h d"], v: Float[Array, "b s h d"], **how: Any
    ) -> Float[Array, "b t h d"] | tuple[Float[Array, "b t h d"], Float[Array, "b h t s"]]:
        """What the queries gather, see `attention`; layers that add to the logits have another."""
        return attention(q, k, v, **how)

    def _check(
        self, memory: Array | None, cache: Cache | Filled | None, angles: Array | None, at: Array | int | None
    ) -> None:
        if isinstance(cache, Cache) and memory is not None:
            raise UserError("The cache of a memory is a Filled", "Give a Filled with the memory, or no memory")
        if isinstance(cache, Cache) != (at is not None):
            raise UserError("A cache needs the position of the first token, and a position a cache", "Give both")
        if (self.style.rotary == "none") != (angles is None):
            raise UserError("Rotary positions need angles, and angles a style with rotary positions", "Give both")

    def _normalised(self, q: Array, k: Array | None) -> tuple[Array, Array | None, float | None]:
        """Queries and keys after their norm, and the scale of the logits; no keys where a cache has them."""
        style, dtype = self.style, self.execution.dtype
        if style.qk_norm == "none":
            return q, k, style.logit_scale
        if style.qk_norm == "l2":
            # Starts at 4 and is held below 100 (VAR).
            factor = self.param("norm_scale", nn.initializers.constant(math.log(4)), (style.num_heads,))
            factor = jnp.exp(jnp.minimum(factor, math.log(100)))[:, None]
            q = (unit(q) * factor).astype(dtype)
            return q, None if k is None else unit(k).astype(dtype), 1.0
        norm = NORMS[style.qk_norm]
        q = norm(style.norm_epsilon, dtype, name="norm_query")(q)
        return q, None if k is None else norm(style.norm_epsilon, dtype, name="norm_key")(k), style.logit_scale

    def _projections(self, x: Float[Array, "b t width"], heads: tuple[int, int]) -> Float[Array, "b t 3 h d"]:
        """Queries, keys and values by one product, which reads `x` once instead of three times."""
        three = jax.tree.map(lambda leaf: leaf.astype(self.execution.dtype), self._three(x.shape[-1], heads))
        qkv = jnp.einsum("btw,wchd->btchd", x.astype(self.execution.dtype), jnp.stack([k for k, _ in three], axis=1))
        return qkv + jnp.stack([bias for _, bias in three]) if self.style.has_bias("query") else qkv

    def _grouped_projections(
        self, x: Float[Array, "b t width"], heads: tuple[int, int]
    ) -> tuple[Float[Array, "b t three_widths"], Float[Array, " three_widths"] | None]:
        """The same as matrices, in the order in which the fused attention reads them, and the bias to add to it."""
        dtype, three = self.execution.dtype, self._three(x.shape[-1], heads)
        kernel = grouped(*(kernel.astype(dtype).reshape(x.shape[-1], -1) for kernel, _ in three), heads[0])
        has_bias = self.style.has_bias("query")
        return x.astype(dtype) @ kernel, grouped(*(b.reshape(-1) for _, b in three), heads[0]) if has_bias else None

    def _three(self, width: int, heads: tuple[int, int]) -> list[tuple[Array, Array | None]]:
        """Kernel [W, H, d] and bias [H, d] of queries, keys and values."""
        has_bias = self.style.has_bias("query")
        return [_Dense((width,), heads, has_bias, name=name)() for name in ("query", "key", "value")]

    def _output(self, x: Float[Array, "b t features"], heads: tuple[int, int], width: int) -> Float[Array, "b t width"]:
        """The last product as one of matrices: heads as axes of their own would be transposed for it."""
        dtype = self.execution.dtype
        kernel, bias = _Dense(heads, (width,), self.style.has_bias("out"), name="out")()
        out = x @ kernel.astype(dtype).reshape(-1, width)
        return out if bias is None else out + bias.astype(dtype)


def _written(
    old: Float[Array, "b s h d"], new: Float[Array, "b t h d"], at: Int[Array, ""] | Int[Array, " b"] | int
) -> Float[Array, "b s h d"]:
    """A cache with the keys or values of new tokens from position `at` on."""
    new = new.astype(old.dtype)
    if jnp.ndim(at) == 0:
        return jax.lax.dynamic_update_slice_in_dim(old, new, at, 1)
    return jax.vmap(lambda o, n, first: jax.lax.dynamic_update_slice_in_dim(o, n, first, 0))(old, new, at)


def _in_cache(mask: Band | Array | None, queries: int, keys: int, at: Array | int) -> Bool[Array, "#b #h t s"]:
    """The mask over a cache, of which only the tokens so far may be seen."""
    filled = masks.dense(Band(after=queries - 1), 1, keys, at)
    if isinstance(mask, Band):
        return masks.dense(mask, queries, keys, at) & filled
    return filled if mask is None else mask & filled


class _Dense(nn.Module):
    """The parameters of a dense layer from axes to axes, as `nn.DenseGeneral` makes them."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    use_bias: bool

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "..."], Float[Array, "..."] | None]:
        def flat_init(rng: PRNGKeyArray) -> Float[Array, "..."]:
            matrix = nn.initializers.xavier_uniform()(rng, (math.prod(self.inputs), math.prod(self.outputs)))
            return matrix.reshape(*self.inputs, *self.outputs)

        # The kernel comes first: its key depends on how many parameters were made before.
        kernel = self.param("kernel", flat_init)
        return kernel, self.param("bias", nn.initializers.zeros, self.outputs) if self.use_bias else None


def cross_style(style: BlockStyle) -> BlockStyle:
    """The style of a block's attention to its memory: no positions turn there, its heads may be narrower, and the scale
    of the logits is the usual one."""
    return dataclasses.replace(style, rotary="none", logit_scale=None, head_dim=style.cross_head_dim or style.head_dim)
