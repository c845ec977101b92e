"""HART: Tang et al., "HART: efficient visual generation with hybrid autoregressive transformer" (arXiv:2410.10812).

Tokens of a text, or a class, stand before those of an image, which come scale by scale as VAR's do. All of a scale are
predicted at once, of the text and of all scales before. What the codes leave of the latents is drawn by a small
diffusion model from what the Transformer says of the last scale and from the codes that were drawn there (section 3.2).

The last token of the text predicts the first scale, one token. In training half of the last scale is left out at random
(section 3.4): it is as long as all others together.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from vit_jax.errors import UserError
from vit_jax.naming import check_keys
from vit_jax.nn.diffusion_head import DiffusionHead
from vit_jax.nn.flops import block_flops, product_flops
from vit_jax.nn.image_tokenizer import Grid
from vit_jax.nn.modulation import Modulation
from vit_jax.nn.multi_head import Cache, empty_cache
from vit_jax.nn.norm import RMSNorm
from vit_jax.nn.normal_init import normal_redrawn
from vit_jax.nn.rotary import rotary_angles
from vit_jax.nn.stack import BlockStack, block_layers
from vit_jax.nn.style import EXECUTION_KEYS, STYLE_KEYS, BlockStyle, Execution, block_style, execution_of
from vit_jax.nn.tied_norm_block import TiedNormBlock
from vit_jax.nn.time_embedding import TimeEmbedding
from vit_jax.nn.trunk import Layers
from vit_jax.ranges import Count, Decay, Natural

_HEAD_WIDTH = 64


@dataclasses.dataclass(frozen=True)
class Asked:
    """What images are generated of: `num_classes` classes, or texts of `text_length` vectors of `text_width` numbers.

    Args:
        text_norm: vectors of texts are normalised first.
    """

    num_classes: int = 0
    text_width: int = 0
    text_length: int = 0
    text_norm: bool = False

    @property
    def length(self) -> int:
        """Tokens before the image's."""
        return self.text_length or 1


class HART(nn.Module):
    """How likely every code of a scale is, after a text or a class and the scales before; and what the codes leave.

    Parameters, float32: `classes` [K + 1, D], the last for none, and `start` [D]; or `context_norm` and `context` with
    kernel [E, D]. `word` with kernel [C, D]; `steps`, see `TimeEmbedding`, or `step_embedding` [S, D]; `block_00`, ...;
    `norm`, `norm_modulation` with kernel [D, 2, D] (shift, scale), `head` with kernel [D, V]; `residual_norm` and
    `residual`, see `DiffusionHead`.

    Attributes:
        grids: rows and columns of the maps of tokens; the first is one place.
        vocab_size: V, number of codes.
        latent_width: C, numbers of a code.
        asked: see `Asked`.
        width: D.
        depth: number of blocks.
        style: of a `TiedNormBlock`.
        residual: of what codes leave.
        step_features: scales are told by sines and cosines of their number, of which there can be more than in
            training; otherwise by a table.
        execution: how blocks are run.
        drop_path_rate: stochastic depth of the last block (rng collection "drop_path").
    """

    grids: tuple[Grid, ...]
    vocab_size: int
    latent_width: int
    asked: Asked
    width: int
    depth: int
    style: BlockStyle
    residual: DiffusionHead
    step_features: bool = True
    execution: Execution = Execution()
    drop_path_rate: float = 0.0

    def setup(self) -> None:
        normal, dtype, epsilon = nn.initializers.normal(self._stddev), self.execution.dtype, self.style.norm_epsilon
        if self.asked.num_classes:
            self.classes = self.param("classes", normal, (self.asked.num_classes + 1, self.width))
            self.start = self.param("start", normal, (self.width,))
        else:
            self.context = nn.Dense(self.width, dtype=dtype)
            if self.asked.text_norm:
                self.context_norm = RMSNorm(epsilon, dtype)
        self.word = nn.Dense(self.width, dtype=dtype)
        if self.step_features:
            self.steps = TimeEmbedding(self.width, dtype=dtype)
        else:
            self.step_embedding = self.param("step_embedding", normal, (len(self.grids), self.width))
        self.blocks = BlockStack((self.style,), self.depth, self.drop_path_rate, self.execution, TiedNormBlock)
        nn.share_scope(self, self.blocks)
        self.norm = RMSNorm(epsilon)
        self.norm_modulation = Modulation(2, self.width)
        self.head = nn.Dense(self.vocab_size)
        self.residual_norm = RMSNorm(epsilon)

    def __call__(
        self, what: Int[Array, " b"] | Float[Array, "b l e"], positions: Int[Array, "b l"] | None,
        inputs: Float[Array, "b t c"], kept: Int[Array, "b n"], *, train: bool = False,
    ) -> tuple[Float[Array, "b s v"], Float[Array, "b n d"]]:  # fmt: skip
        """Logits of the tokens of all scales, float32, and what the Transformer says of those of the last scale.

        Args:
            what: classes, K for none; or vectors of texts, zeros for none.
            positions: of the texts' tokens.
            inputs: what the scales before sum up to, for the tokens of all scales but the first, see
                `vit_jax.nn.multiscale_vq.MultiScaleQuantizer.inputs`.
            kept: places of the last scale that are looked at, of which the logits come last.
        """
        asked, count = self.embed(what), self._sizes[-1]
        inputs = self._scaled(inputs, self._levels)
        x = jnp.concatenate([self._first(asked), inputs[:, :-count], _at(inputs[:, -count:], kept)], axis=1)
        angles = jnp.concatenate([self._angles(positions, k, len(x)) for k in range(len(self.grids))], axis=1)
        angles = jnp.concatenate([angles[:, :-count], _at(angles[:, -count:], kept)], axis=1)
        mask = self.mask(kept.shape[1])
        x, _ = self.blocks(x, train=train, mask=mask, angles=angles, **self._modulating(asked))
        first = self.asked.length - 1
        hidden = x[:, -kept.shape[1] :]
        if self.is_initializing():
            codes = jnp.zeros((*hidden.shape[:2], self.latent_width))
            z = self.conditions(hidden, codes)[:, 0]
            self.residual(codes[:, 0], jnp.zeros(len(z), jnp.int32), z)
        return self.logits(x[:, first:], asked), hidden

    def embed(self, what: Int[Array, " b"] | Float[Array, "b l e"]) -> Float[Array, "b l d"]:
        """Tokens of what is asked for."""
        if self.asked.num_classes:
            return self.classes[what][:, None].astype(self.execution.dtype)
        return self.context(self.context_norm(what) if self.asked.text_norm else what)

    def further(
        self, asked: Float[Array, "b l d"], positions: Int[Array, "b l"] | None, inputs: Float[Array, "b t c"] | None,
        places: Int[Array, "b t"] | None, scale: int, at: int, cache: Cache,
    ) -> tuple[Float[Array, "b t v"], Float[Array, "b t d"], Cache]:  # fmt: skip
        """Logits of some tokens after those that a cache holds, what the Transformer says of them, and the cache.

        Args:
            asked: see `embed`.
            inputs: of the tokens; None for the first scale.
            places: of their scale, where these are not all in order.
            scale: its number.
            at: how many tokens came before.
            cache: see `new_cache`.
        """
        angles = self._angles(positions, scale, len(asked))
        x = self._first(asked) if scale == 0 else self._scaled(inputs, np.array([scale]))
        if places is not None:
            angles = _at(angles, places)
        end = at + x.shape[1]
        # No more of the cache is read than there can be: each scale is a program of its own anyway.
        some = jax.tree.map(lambda c: c[:, :, :end], cache)
        x, some = self.blocks(x, some, angles=angles, at=at, **self._modulating(asked))
        cache = jax.tree.map(lambda all_, new: all_.at[:, :, at:end].set(new[:, :, at:]), cache, some)
        x = x[:, -1:] if scale == 0 else x
        return self.logits(x, asked), x, cache

    def logits(self, tokens: Float[Array, "b t d"], asked: Float[Array, "b l d"]) -> Float[Array, "b t v"]:
        """Of the code of each token, float32."""
        parts = self.norm_modulation(self._pooled(asked))[:, None]
        return self.head(self.norm(tokens) * (1 + parts[..., 1, :]) + parts[..., 0, :]).astype(jnp.float32)

    def conditions(self, hidden: Float[Array, "b n d"], codes: Float[Array, "b n c"]) -> Float[Array, "b n d"]:
        """What the head draws remainders from: of the last scale's tokens and of the codes that were drawn there."""
        return self.residual_norm(hidden + self.word(codes))

    def mask(self, kept: int) -> Bool[np.ndarray, "1 1 s s"]:
        """True where a token sees another: of what is asked for, of its own scale, and of those before.

        Args:
            kept: tokens of the last scale.
        """
        levels = np.repeat(np.arange(len(self.grids)), [self.asked.length, *self._sizes[1:-1], kept])
        return (levels[:, None] >= levels)[None, None]

    def new_cache(self, batch: int) -> Cache:
        """An empty cache for so many images."""
        heads = self.style.num_heads
        width = self.style.head_dim or self.width // heads
        length = self.asked.length + sum(self._sizes[1:])
        return empty_cache(self.depth, batch, length, heads, width, self.execution.dtype)

    def example_inputs(self, image_size: Grid | None) -> tuple[Array | None, ...]:
        """See `vit_jax.nn.example_inputs`."""
        del image_size
        inputs, kept = jnp.zeros((1, sum(self._sizes[1:]), self.latent_width)), jnp.zeros((1, 1), jnp.int32)
        if self.asked.num_classes:
            return jnp.zeros(1, jnp.int32), None, inputs, kept
        length = self.asked.text_length
        return jnp.zeros((1, length, self.asked.text_width)), jnp.zeros((1, length), jnp.int32), inputs, kept

    def redrawn(self, params: PyTree[jax.Array], rng: PRNGKeyArray) -> PyTree[jax.Array]:
        """Parameters with the initial values of the authors' code: normal with the deviation .02, biases 0; the head's
        times .02, what ends a residual branch over sqrt(2 depth), modulation times .5 and gates times 1e-5. Those of
        the diffusion model stay."""
        params = dict(params)
        residual = params.pop("residual")
        params = normal_redrawn(params, rng, stddev=0.02, residual_depth=self.depth)
        shift_scale_gate = jnp.array([0.5, 0.5, 1e-5] * 2)[:, None]

        def scaled(path: tuple[jax.tree_util.DictKey, ...], leaf: jax.Array) -> jax.Array:
            name = "/".join(part.key for part in path)
            if name == "head/kernel":
                return 0.02 * leaf
            if name == "norm_modulation/kernel":
                return 0.5 * leaf
            return leaf * shift_scale_gate if name.endswith("modulation/kernel") else leaf

        return {**jax.tree.map_with_path(scaled, params), "residual": residual}

    def layers(self) -> Layers:
        """See `vit_jax.nn.trunk.Trunk.layers`."""
        first = ("classes", "start", "context", "context_norm", "word", "steps", "step_embedding")
        return (first, *block_layers(self.depth))

    def flops(self, kept: int, residuals: int) -> float:
        """Of one image's tokens forward, of which so many are of the last scale, and so many evaluations of the head of
        what codes leave; masked products count."""
        tokens, width = self.asked.length + sum(self._sizes[1:-1]) + kept, self.width
        blocks = self.depth * block_flops(tokens, width, self.style.mlp_dim, 3 if self.style.gated else 2)
        if self.style.norm == "adaptive":
            blocks += self.depth * product_flops(1, width, 6 * width)
        ends = product_flops(tokens, self.latent_width, width) + product_flops(tokens, width, self.vocab_size)
        return blocks + ends + residuals * self.residual.flops()

    def _first(self, asked: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        """The tokens of what is asked for, as the first step."""
        x = asked + self._step(np.array([0]))
        return x + self.start.astype(x.dtype) if self.asked.num_classes else x

    def _scaled(self, inputs: Float[Array, "b t c"], levels: Int[np.ndarray, "#t"]) -> Float[Array, "b t d"]:
        return self.word(inputs) + self._step(levels)

    def _step(self, levels: Int[np.ndarray, " t"]) -> Float[Array, "t d"]:
        """What tells the number of a scale."""
        if self.step_features:
            return self.steps(np.arange(len(self.grids)))[levels]
        return self.step_embedding[levels].astype(self.execution.dtype)

    def _pooled(self, asked: Float[Array, "b l d"]) -> Float[Array, "b d"]:
        return asked.max(axis=1)

    def _modulating(self, asked: Float[Array, "b l d"]) -> dict[str, Array]:
        return {"condition": self._pooled(asked)} if self.style.norm == "adaptive" else {}

    def _angles(self, positions: Int[Array, "b l"] | None, scale: int, batch: int) -> Float[Array, "b t w"]:
        """Of rotary positions of one scale's tokens, of each feature; those of what is asked for as the first.

        Texts turn by their position. Places of an image lie on a plane in units of the largest map, which begins behind
        the text, and of the two features of a pair one turns by the row and the other by the column: not a turn of the
        pair, but what the authors' code does.
        """
        width = self.style.head_dim or self.width // self.style.num_heads
        if positions is None:
            positions = jnp.zeros((batch, 1), jnp.int32)
        if scale == 0:
            angles = rotary_angles(positions, width)
            return jnp.concatenate([angles, angles], axis=-1)
        (rows, columns), last = self.grids[scale], self.grids[-1]
        row = np.repeat(np.arange(rows) / rows * last[0], columns)
        column = np.tile(np.arange(columns) / columns * last[1], rows)
        of_row, of_column = (rotary_angles(positions[:, -1:] + x.astype(np.float32), width // 2) for x in (row, column))
        return jnp.concatenate([of_row, of_row, of_column, of_column], axis=-1)

    @property
    def _sizes(self) -> tuple[int, ...]:
        return tuple(math.prod(grid) for grid in self.grids)

    @property
    def _levels(self) -> Int[np.ndarray, " t"]:
        """The number of each token's scale, but for the first."""
        return np.repeat(np.arange(1, len(self.grids)), self._sizes[1:])

    @property
    def _stddev(self) -> float:
        return (3 * self.width) ** -0.5


def _at(x: Float[Array, "b n d"], places: Int[Array, "b k"]) -> Float[Array, "b k d"]:
    return jnp.take_along_axis(x, places[..., None], axis=1)


_BLOCK_KEYS = (*STYLE_KEYS, *EXECUTION_KEYS)
KEYS = _BLOCK_KEYS


def build(
    *,
    grids: Sequence[Sequence[Count]],
    vocab_size: Count,
    latent_width: Count,
    num_classes: Natural = 0,
    text_width: Natural = 0,
    text_length: Natural = 0,
    text_norm: bool = True,
    width: Count = 1536,
    depth: Natural = 24,
    num_heads: Count | None = None,
    mlp_dim: Count | None = None,
    adaptive: bool = False,
    step_features: bool = True,
    normalized_attention: bool = True,
    head_width: Count = 1024,
    head_depth: Natural = 6,
    drop_path_rate: Decay = 0.0,
    dtype: Literal["float32", "bfloat16"] = "float32",
    **block: Any,
) -> HART:
    """The model, from values that JSON can hold; the defaults are those of the published one of 0.7B.

    Args:
        grids: rows and columns of the maps of tokens; like `vocab_size`, `latent_width`, `num_classes`, `text_width`
            and `text_length` the task's to say.
        text_norm: see `Asked`.
        width: D.
        depth: number of blocks.
        num_heads: None for heads of 64.
        mlp_dim: None for what LLaMA has, 8/3 of the width rounded down to a multiple of 256, and with `adaptive` for
            four times the width.
        adaptive: blocks are modulated by what is asked for and have plain MLPs with biases; otherwise their MLPs are
            LLaMA's.
        step_features: see `HART`, like `drop_path_rate`.
        normalized_attention: queries and keys have length one, and heads a learned scale; otherwise a quarter of the
            usual scale.
        head_width: of the head of what codes leave, like `head_depth`.
        dtype: compute dtype by name; parameters are always float32.
        block: other arguments of `Execution` and `BlockStyle`.

    Raises:
        UserError: for an unknown argument, a width that heads do not divide, or scales that begin with several places.
    """
    check_keys(block, _BLOCK_KEYS, "config.model")
    grids = tuple(tuple(grid) for grid in grids)
    if len(grids) < 2 or grids[0] != (1, 1):
        raise UserError(
            "HART's first scale is one token, which a text's last one predicts", "Let the scales begin at 1"
        )
    if not (num_classes or (text_width and text_length)):
        raise UserError("HART generates images of classes or of texts", "Give it either")
    num_heads = num_heads or max(width // _HEAD_WIDTH, 1)
    # Of a head one half turns by the row, one by the column, and each half of pairs.
    if width % (4 * num_heads):
        raise UserError(f"A width of {width} has no {num_heads} heads whose width 4 divides", "Change one of the two")
    style: dict[str, Any] = {
        "num_heads": num_heads, "norm_kind": "rms", "norm_epsilon": 1e-6, "rotary": "halves", "hidden_dropout": False,
    }  # fmt: skip
    style |= {"qk_norm": "l2"} if normalized_attention else {"logit_scale": 0.25 * (width // num_heads) ** -0.5}
    if adaptive:
        biases = ("query", "value", "out", "fc1", "fc2")
        style |= {"norm": "adaptive", "activation": "gelu_tanh", "biases": biases, "mlp_dim": mlp_dim or 4 * width}
    else:
        hidden = mlp_dim or max(width * 8 // 3 + 255, 256) // 256 * 256
        style |= {"gated": True, "activation": "silu", "biases": ("query", "value", "out"), "mlp_dim": hidden}
    execution = execution_of(block, dtype)
    style |= {name: value for name, value in block.items() if name not in EXECUTION_KEYS}
    asked = Asked(num_classes, 0, 0) if num_classes else Asked(0, text_width, text_length, text_norm)
    residual = DiffusionHead(latent_width, head_width, head_depth, 0.6, True, execution.dtype, parent=None)
    return HART(
        grids, vocab_size, latent_width, asked, width, depth, block_style(style), residual, step_features, execution,
        drop_path_rate,
    )  # fmt: skip
