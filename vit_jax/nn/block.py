"""The Transformer block of every paper, its MLP, and stochastic depth."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, DTypeLike, Float, Int, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.nn import multi_head
from vit_jax.nn.activation import ACTIVATIONS, check_activation, recomputed
from vit_jax.nn.mask import Mask
from vit_jax.nn.modulation import Modulation
from vit_jax.nn.multi_head import Cache, CrossCache, Filled, MultiHeadAttention, cross_style
from vit_jax.nn.norm import NORMS
from vit_jax.nn.products import product
from vit_jax.nn.style import BlockStyle, Execution

# Under these names a rematerialisation policy finds a block's results of products with weight matrices; what the block
# computes from them, norms, softmax, activations and dropout, costs little to compute again.
_RESIDUAL, _HIDDEN = "residual", "hidden"
SAVED = (_RESIDUAL, _HIDDEN, *multi_head.SAVED)

PARTS = 6  # shift, scale and gate of each of two branches


def drop_path(x: Float[Array, "b ..."], rate: float | Float[Array, ""], rng: PRNGKeyArray) -> Float[Array, "b ..."]:
    """Stochastic depth: zeroes whole samples with probability `rate` and divides the others by `1 - rate`.

    Args:
        x: the output of a residual branch, batch first.
        rate: in [0, 1); may be traced, so that one scanned block serves layers with different rates.
        rng: the key for dropping.
    """
    keep_rate = 1.0 - rate
    keep = jax.random.bernoulli(rng, keep_rate, x.shape[:1] + (1,) * (x.ndim - 1))
    return jnp.where(keep, x / keep_rate, 0.0).astype(x.dtype)


def drops(rate: float | Float[Array, ""], train: bool) -> bool:
    """Whether paths are dropped: a rate of 0 that is known while tracing costs nothing and asks for no rng."""
    return train and not (isinstance(rate, int | float) and rate == 0)


class MlpBlock(nn.Module):
    """Dense, activation, dropout, dense, dropout; with a gate, activation(gate(x)) * fc1(x) in the middle.

    Parameters, float32: `fc1` with kernel [D, mlp_dim], `fc2` with kernel [mlp_dim, D], and their biases; `gate` like
    `fc1` ("GLU variants improve Transformer", arXiv:2002.05202). DINOv2 takes for `mlp_dim` 2/3 of what it would be
    without the gate, rounded up to a multiple of 8.

    Attributes:
        mlp_dim: width of the hidden layer.
        dtype: dtype of the computation and of the result.
        dropout_rate: used in training (rng collection "dropout").
        hidden_dropout: whether the hidden layer is dropped too.
        activation: see `vit_jax.nn.activation.ACTIVATIONS`.
        gated: there is a gate.
        biases: whether `fc1` (and the gate) and `fc2` have one.
        kernel_init: of all kernels.
        bias_init: of all biases.

    Raises:
        UserError: for an unknown activation.
    """

    # Tensor parallelism splits the hidden layer.
    TENSOR: ClassVar[dict[str, int]] = {
        "fc1/kernel": 1,
        "fc1/bias": 0,
        "gate/kernel": 1,
        "gate/bias": 0,
        "fc2/kernel": 0,
    }

    mlp_dim: int
    dtype: DTypeLike = jnp.float32
    dropout_rate: float = 0.0
    hidden_dropout: bool = True
    activation: str = "gelu_tanh"
    gated: bool = False
    biases: tuple[bool, bool] = (True, True)
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
    bias_init: nn.initializers.Initializer = nn.initializers.normal(1e-6)

    def __post_init__(self):
        check_activation(self.activation)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Float[Array, "*b width"], *, train: bool) -> Float[Array, "*b width"]:
        """Applies the block to the last axis."""

        def dense(name: str, features: int, use_bias: bool) -> nn.Dense:
            return nn.Dense(
                features,
                use_bias=use_bias,
                dtype=self.dtype,
                kernel_init=self.kernel_init,
                bias_init=self.bias_init,
                dot_general=product,
                name=name,
            )

        width = x.shape[-1]
        activate = recomputed(ACTIVATIONS[self.activation])
        hidden = checkpoint_name(dense("fc1", self.mlp_dim, self.biases[0])(x), _HIDDEN)
        if self.gated:
            hidden = activate(checkpoint_name(dense("gate", self.mlp_dim, self.biases[0])(x), _HIDDEN)) * hidden
        else:
            hidden = activate(hidden)
        if self.hidden_dropout:
            hidden = nn.Dropout(self.dropout_rate)(hidden, deterministic=not train)
        return nn.Dropout(self.dropout_rate)(dense("fc2", width, self.biases[1])(hidden), deterministic=not train)


def mlp_of(style: BlockStyle, execution: Execution, name: str) -> MlpBlock:
    """The MLP of a style."""
    return MlpBlock(
        mlp_dim=style.mlp_dim,
        dtype=execution.dtype,
        dropout_rate=style.dropout_rate,
        hidden_dropout=style.hidden_dropout,
        activation=style.activation,
        gated=style.gated,
        biases=(style.has_bias("fc1"), style.has_bias("fc2")),
        name=name,
    )


def _norm(style: BlockStyle, execution: Execution, name: str) -> nn.Module:
    affine = style.norm != "adaptive" or name not in ("norm1", "norm2")
    epsilon = style.norm2_epsilon if name == "norm2" and style.norm2_epsilon is not None else style.norm_epsilon
    return NORMS[style.norm_kind](epsilon, execution.dtype, affine, name=name)


class Block(nn.Module):
    """Attention and an MLP, each on a residual branch; between them, or before them, attention to a memory.

    With the defaults x + DropPath(Dropout(Attention(LN(x)))), then x + DropPath(MLP(LN(x))) (ViT, equations 2 and 3).

    Parameters, float32: `norm1`, `attention`, `norm2`, `mlp`; `layer_scale1` and `layer_scale2` [D]; `norm_cross` and
    `cross`, `norm_memory`; with a gate also `gate_cross` [], `norm_cross_mlp`, `cross_mlp`, `gate_cross_mlp` [];
    `modulation` with kernel [C, 6, D] where the norm is adaptive, or `modulation_table` [6, D]. Every layer
    of a model is the same module: what differs between layers, the rate of stochastic depth, is an argument of the
    call.

    Attributes:
        style: what it computes.
        execution: how it runs.
    """

    style: BlockStyle
    execution: Execution = Execution()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t width"],
        cache: Cache | CrossCache | None = None,
        *,
        drop_path_rate: float | Float[Array, ""] = 0.0,
        train: bool = False,
        mask: Mask | None = None,
        bias: Float[Array, "w #h #t #s"] | None = None,
        angles: Float[Array, "*b t half"] | None = None,
        grid: tuple[int, int] | None = None,
        memory: Float[Array, "b m memory_width"] | None = None,
        memory_mask: Mask | None = None,
        condition: Float[Array, "b *t c"] | Float[Array, "b *t 6 width"] | None = None,
        at: Int[Array, ""] | Int[Array, " b"] | int | None = None,
    ) -> tuple[Float[Array, "b t width"], Cache | CrossCache | None]:
        """Applies the block.

        Args:
            cache: keys and values of the tokens before, for decoding; where there is a memory also those of it, which a
                call with `memory` fills in and a call without reads.
            drop_path_rate: of both branches, used in training (rng collection "drop_path"); may be traced.
            mask: which tokens a token sees.
            bias: added to the logits of the self-attention.
            angles: of rotary positions.
            grid: rows and columns of the tokens, where they are places of an image, for blocks that see them so.
            memory: what a style with cross-attention attends to; left out where the cache holds it.
            memory_mask: which tokens of the memory a token sees.
            condition: what adaptive norms are computed from, of an example or of each token; where blocks share that
                computation, its result, see `vit_jax.nn.modulation.Modulation`.
            at: position of the first token in the cache, of all rows or of each.

        Raises:
            UserError: where the style needs an argument that is not given, or cannot use one that is.
        """
        style, execution = self.style, self.execution
        cache, filled = cache if isinstance(cache, CrossCache) else (cache, None)
        self._check(memory, filled, condition)
        parts = self._modulation(condition, x.shape[-1]) if style.norm == "adaptive" else [None] * PARTS
        adds = functools.partial(self._added, drop_path_rate=drop_path_rate, train=train)

        def cross(y: Array) -> Array:
            nonlocal filled
            known = memory
            if style.norm_memory and memory is not None:
                known = _norm(style, execution, "norm_memory")(memory)
            layer = MultiHeadAttention(cross_style(style), execution, name="cross")
            y, filled = layer(y, known, filled, train=train, mask=memory_mask)
            return dropout(y)

        def dropout(y: Array) -> Array:
            return nn.Dropout(style.dropout_rate)(y, deterministic=not train)

        if style.cross == "gated":
            x = adds(x, cross, "norm_cross", gate=self._gate("gate_cross"))
            mlp = mlp_of(style, execution, "cross_mlp")
            x = adds(x, functools.partial(mlp, train=train), "norm_cross_mlp", gate=self._gate("gate_cross_mlp"))

        def attend(y: Array) -> Array:
            nonlocal cache
            y, cache = self.self_attention(y, cache, grid, train=train, mask=mask, bias=bias, angles=angles, at=at)
            return dropout(y)

        x = adds(x, attend, "norm1", layer_scale="layer_scale1", modulation=parts[:2], gate=parts[2])
        x = checkpoint_name(x, _RESIDUAL)
        if style.cross == "plain":
            x = adds(x, cross, "norm_cross")
        mlp = functools.partial(mlp_of(style, execution, "mlp"), train=train)
        x = adds(x, mlp, "norm2", layer_scale="layer_scale2", modulation=parts[3:5], gate=parts[5])
        return x, cache if filled is None else CrossCache(cache, filled)

    def self_attention(
        self, y: Float[Array, "b t width"], cache: Cache | None, grid: tuple[int, int] | None, **how: Any
    ) -> tuple[Float[Array, "b t width"], Cache | None]:
        """The layer `attention`, of all tokens among each other; blocks that attend in windows have another."""
        del grid
        return MultiHeadAttention(self.style, self.execution, name="attention")(y, None, cache, **how)

    def _added(
        self,
        x: Float[Array, "b t width"],
        branch: Callable[[Array], Array],
        norm: str,
        *,
        drop_path_rate: float | Float[Array, ""],
        train: bool,
        layer_scale: str | None = None,
        modulation: tuple[Array | None, Array | None] = (None, None),
        gate: Array | None = None,
    ) -> Float[Array, "b t width"]:
        """`x` and what a branch makes of it, with the norm where the style has it."""
        post = self.style.norm == "post"
        y = x if post or self.style.norm == "residual_post" else _norm(self.style, self.execution, norm)(x)
        shift, scale = modulation
        if shift is not None:
            y = y * (1 + scale) + shift
        y = branch(y)
        if self.style.norm == "residual_post":
            y = _norm(self.style, self.execution, norm)(y)
        if layer_scale and self.style.layer_scale_init is not None:
            init = nn.initializers.constant(self.style.layer_scale_init)
            y = y * self.param(layer_scale, init, y.shape[-1:]).astype(y.dtype)
        if gate is not None:
            y = y * gate.astype(y.dtype)
        x = x + (drop_path(y, drop_path_rate, self.make_rng("drop_path")) if drops(drop_path_rate, train) else y)
        return _norm(self.style, self.execution, norm)(x) if post else x

    def _gate(self, name: str) -> Float[Array, ""]:
        return jnp.tanh(self.param(name, nn.initializers.zeros, ()))

    def _modulation(self, condition: Array, width: int) -> list[Float[Array, "b t width"]]:
        """Shift, scale and gate of the attention, then of the MLP; those that are the block's own start at zero (DiT,
        section 3.2)."""
        if self.style.modulation == "own":
            parts = Modulation(PARTS, width, self.execution.dtype, name="modulation")(condition)
        else:
            parts = condition.astype(self.execution.dtype)
            if parts.shape[-2:] != (PARTS, width):
                raise UserError(
                    f"A condition of shape {tuple(parts.shape)} does not hold {PARTS} vectors of width {width}",
                    "Make it with vit_jax.nn.modulation.Modulation, once for all blocks",
                )
        if self.style.modulation == "table":
            # As PixArt draws it.
            normal = nn.initializers.normal(width**-0.5)
            parts = parts + self.param("modulation_table", normal, (PARTS, width)).astype(parts.dtype)
        parts = parts[:, None] if parts.ndim == 3 else parts
        return [parts[..., i, :] for i in range(PARTS)]

    def _check(self, memory: Array | None, filled: Filled | None, condition: Array | None) -> None:
        # A block without a memory hands on that of the stack's cache.
        crosses = self.style.cross != "none"
        for what, needed, given in (
            ("a memory", crosses, memory is not None or (crosses and filled is not None)),
            ("a condition", self.style.norm == "adaptive", condition is not None),
        ):
            if needed != given:
                verb = "needs" if needed else "cannot use"
                raise UserError(f"A block of this style {verb} {what}", "Change the style or the call")
