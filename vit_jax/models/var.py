"""VAR: images scale by scale (Tian et al., "Visual autoregressive modeling", arXiv:2404.02905, section 3.2).

An image is maps of tokens from coarse to fine. All tokens of a map are predicted at once, of the class and of all maps
before: where a token will be, the model reads what those maps sum up to there. A token sees its own map and those
before it. The class modulates every norm and is the start of the first map. Blocks differ from DiT's by queries and
keys of length one.
"""

import itertools
import math
import zlib
from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from vit_jax.errors import UserError
from vit_jax.naming import check_keys
from vit_jax.nn.block import PARTS
from vit_jax.nn.flops import block_flops, product_flops
from vit_jax.nn.image_tokenizer import Grid
from vit_jax.nn.modulation import ModulatedNorm, Modulation
from vit_jax.nn.multi_head import Cache, empty_cache
from vit_jax.nn.normal_init import normal_redrawn
from vit_jax.nn.products import product
from vit_jax.nn.stack import BlockStack, block_layers
from vit_jax.nn.style import EXECUTION_KEYS, STYLE_KEYS, BlockStyle, Execution, block_style, execution_of
from vit_jax.nn.trunk import Layers
from vit_jax.ranges import Count, Decay, NonNegative

_HEAD_WIDTH = 64  # of one of a block's, which has as many as the model has blocks


class VAR(nn.Module):
    """How likely every token of a map is, after the class and the maps before it.

    Parameters, float32: `class_embedding` [K + 1, D], the last for no class; `start_embedding` [T1, D] of the first
    map's tokens; `word_embedding` with kernel [C, D]; `pos_embedding` [T, D]; `level_embedding` [S, D], one for each
    map; `block_00`, ...; `modulation`, where blocks share one; `norm/modulation`; `head` with kernel [D, V].

    Attributes:
        grids: rows and columns of the maps.
        num_classes: K.
        vocab_size: V, number of codes.
        latent_width: C, numbers of a place of the latents.
        width: D.
        depth: number of blocks.
        style: what a block computes; its norms are adaptive.
        execution: how the blocks are run.
        drop_path_rate: stochastic depth of the last block (rng collection "drop_path").
        gate_init: factor of the weights that make gates, at first.
    """

    grids: tuple[Grid, ...]
    num_classes: int
    vocab_size: int
    latent_width: int
    width: int
    depth: int
    style: BlockStyle
    execution: Execution = Execution()
    drop_path_rate: float = 0.0
    gate_init: float = 1e-5

    def setup(self) -> None:
        normal, sizes = nn.initializers.normal(self._stddev), [math.prod(grid) for grid in self.grids]
        self.class_embedding = self.param("class_embedding", normal, (self.num_classes + 1, self.width))
        self.start_embedding = self.param("start_embedding", normal, (sizes[0], self.width))
        self.pos_embedding = self.param("pos_embedding", normal, (sum(sizes), self.width))
        self.level_embedding = self.param("level_embedding", normal, (len(sizes), self.width))
        dtype = self.execution.dtype
        self.word_embedding = nn.Dense(self.width, dtype=dtype, dot_general=product)
        if self.style.modulation != "own":
            self.modulation = Modulation(PARTS, self.width, dtype)
        self.blocks = BlockStack((self.style,), self.depth, self.drop_path_rate, self.execution)
        nn.share_scope(self, self.blocks)
        self.norm = ModulatedNorm(self.style.norm_epsilon)
        self.head = nn.Dense(self.vocab_size, dot_general=product)

    def __call__(
        self, labels: Int[Array, " b"], inputs: Float[Array, "b t c"], *, train: bool = False
    ) -> Float[Array, "b T vocab"]:
        """Logits, float32, of the tokens of all maps, or of as many of the first maps as there are inputs for.

        Args:
            labels: classes; K for none.
            inputs: what the maps before sum up to, for all tokens but those of the first map, see
                `vit_jax.nn.multiscale_vq.MultiScaleQuantizer.inputs`.

        Raises:
            UserError: for inputs that end within a map.
        """
        ends = self._ends
        tokens = ends[0] + inputs.shape[1]
        if tokens not in ends:
            maps = ", ".join(f"{rows}x{columns}" for rows, columns in self.grids[1:])
            raise UserError(
                f"{inputs.shape[1]} inputs are not those of the maps {maps}",
                "Make them with the tokenizer that the model is for",
            )
        found, _ = self._read(labels, inputs, 0, tokens, train=train, mask=self.mask(tokens))
        return self._logits(found, labels)

    def further(
        self, labels: Int[Array, " b"], inputs: Float[Array, "b t c"] | None, scale: int, cache: Cache
    ) -> tuple[Float[Array, "b t vocab"], Cache]:
        """Logits of one map after those that a cache holds, and the cache with it.

        Args:
            inputs: of its tokens; None for the first map.
            scale: its number.
            cache: see `new_cache`.
        """
        first, end = (0, *self._ends)[scale], self._ends[scale]
        # No more of the cache is read than there can be: each map is a program of its own anyway.
        some = jax.tree.map(lambda x: x[:, :, :end], cache)
        found, some = self._read(labels, inputs, first, end, cache=some, at=first)
        cache = jax.tree.map(lambda all_, new: all_.at[:, :, first:end].set(new[:, :, first:]), cache, some)
        return self._logits(found, labels), cache

    def new_cache(self, batch: int) -> Cache:
        """An empty cache for so many images."""
        heads = self.style.num_heads
        width = self.style.head_dim or self.width // heads
        return empty_cache(self.depth, batch, self._ends[-1], heads, width, self.execution.dtype)

    def mask(self, tokens: int) -> Bool[np.ndarray, "1 1 tokens tokens"]:
        """True where a token sees another: in its own map, and in those before."""
        level = self._levels[:tokens]
        return (level[:, None] >= level)[None, None]

    def example_inputs(self, image_size: Sequence[int] | None) -> tuple[Array, Array]:
        """See `vit_jax.nn.example_inputs`."""
        del image_size
        return jnp.zeros(1, jnp.int32), jnp.zeros((1, self._ends[-1] - self._ends[0], self.latent_width))

    def redrawn(self, params: PyTree[jax.Array], rng: PRNGKeyArray) -> PyTree[jax.Array]:
        """Parameters with the initial values of the authors' code: normal with the deviation 1 / sqrt(3 D), biases 0;
        the head times .02, what ends a residual branch over sqrt(2 depth), modulation times .5 and gates times
        `gate_init`, whose layer, where blocks share one, is left as it is drawn."""
        params = normal_redrawn(params, rng, stddev=self._stddev, residual_depth=self.depth)
        shift_scale_gate = jnp.array([0.5, 0.5, self.gate_init] * 2)[:, None]

        def scaled(path: tuple[jax.tree_util.DictKey, ...], leaf: jax.Array) -> jax.Array:
            name = "/".join(part.key for part in path)
            if name == "head/kernel":
                return 0.02 * leaf
            if name == "norm/modulation/kernel":
                return 0.5 * leaf
            if name.endswith("modulation_table"):
                key = jax.random.fold_in(rng, zlib.crc32(name.encode()) & 0x7FFFFFFF)
                return jax.random.normal(key, leaf.shape) * self.width**-0.5 * shift_scale_gate
            return leaf * shift_scale_gate if name.startswith("block_") and "modulation" in name else leaf

        return jax.tree.map_with_path(scaled, params)

    def layers(self) -> Layers:
        """See `vit_jax.nn.trunk.Trunk.layers`."""
        first = ("class", "start", "word", "pos", "level")
        return ((*(f"{name}_embedding" for name in first), "modulation"), *block_layers(self.depth))

    def flops(self, image_size: Grid | None = None) -> float:
        """Floating point operations of one image's tokens forward, all logits included; masked products count."""
        del image_size
        tokens, width = self._ends[-1], self.width
        modulation = product_flops(1, width, PARTS * width)
        blocks = self.depth * block_flops(tokens, width, self.style.mlp_dim, 3 if self.style.gated else 2)
        blocks += modulation * (self.depth if self.style.modulation == "own" else 1)
        ends = product_flops(tokens, self.latent_width, width) + product_flops(tokens, width, self.vocab_size)
        return blocks + ends + product_flops(1, width, 2 * width)

    def _read(
        self, labels: Int[Array, " b"], inputs: Array | None, first: int, end: int, **how: Any
    ) -> tuple[Float[Array, "b t width"], Cache | None]:
        """What the blocks make of the tokens from `first` up to `end`."""
        condition, parts = self.class_embedding[labels], []
        if first == 0:
            parts.append(condition[:, None] + self.start_embedding)
        if inputs is not None and inputs.shape[1]:
            parts.append(self.word_embedding(inputs))
        x = jnp.concatenate(parts, axis=1) + self.level_embedding[self._levels[first:end]]
        x = (x + self.pos_embedding[first:end]).astype(self.execution.dtype)
        if self.style.modulation != "own":
            condition = self.modulation(condition)
        return self.blocks(x, condition=condition, **how)

    def _logits(self, tokens: Float[Array, "b t width"], labels: Int[Array, " b"]) -> Float[Array, "b t vocab"]:
        return self.head(self.norm(tokens, self.class_embedding[labels]))

    @property
    def _ends(self) -> tuple[int, ...]:
        """How many tokens there are up to each map, with it."""
        return tuple(itertools.accumulate(math.prod(grid) for grid in self.grids))

    @property
    def _levels(self) -> Int[np.ndarray, " T"]:
        """The number of each token's map."""
        return np.repeat(np.arange(len(self.grids)), [math.prod(grid) for grid in self.grids])

    @property
    def _stddev(self) -> float:
        return (3 * self.width) ** -0.5


def build(
    *,
    grids: Sequence[Sequence[Count]],
    num_classes: int,
    vocab_size: Count,
    latent_width: Count,
    depth: Count = 16,
    width: Count | None = None,
    num_heads: Count | None = None,
    mlp_dim: Count | None = None,
    shared_modulation: bool = False,
    normalized_attention: bool = True,
    drop_path_rate: Decay | None = None,
    gate_init: NonNegative = 1e-5,
    dtype: Literal["float32", "bfloat16"] = "float32",
    **block: Any,
) -> VAR:
    """VAR of a depth, from values that JSON can hold; VAR-d16 is the one with 16 blocks.

    Args:
        grids: rows and columns of the maps of tokens, like `num_classes`, `vocab_size` and `latent_width` the task's to
            say.
        depth: number of blocks.
        width: None for 64 times the depth.
        num_heads: None for heads of 64, as many as there are blocks.
        mlp_dim: of the MLPs; None for four times the width.
        shared_modulation: blocks share one layer that makes shift, scale and gate, and have tables of their own, as
            d36-s for 512 pixels does.
        normalized_attention: queries and keys have length one, and heads a learned scale; otherwise a quarter of the
            usual scale.
        drop_path_rate: see `VAR`; None for the paper's, .1 times the depth over 24.
        gate_init: see `VAR`: 1e-3 for d16 and d20, 1e-4 for d24, 1e-5 for d30, 5e-6 for d36-s.
        dtype: compute dtype by name; parameters are always float32, and norm and head at the end are too.
        block: other arguments of `Execution` and `BlockStyle`.

    Raises:
        UserError: for an unknown value or argument, or a width that heads do not divide.
    """
    check_keys(block, _BLOCK_KEYS, "config.model", siblings=_NAMED_KEYS)
    width = width or _HEAD_WIDTH * depth
    num_heads = num_heads or max(width // _HEAD_WIDTH, 1)
    style = {
        "norm": "adaptive",
        "modulation": "table" if shared_modulation else "own",
        "biases": ("query", "value", "out", "fc1", "fc2"),
        "hidden_dropout": False,
        **({"qk_norm": "l2"} if normalized_attention else {"logit_scale": 0.25 * (width // num_heads) ** -0.5}),
    }
    style |= {name: value for name, value in block.items() if name in _STYLE_KEYS}
    return VAR(
        grids=tuple((int(rows), int(columns)) for rows, columns in grids),
        num_classes=num_classes,
        vocab_size=vocab_size,
        latent_width=latent_width,
        width=width,
        depth=depth,
        style=block_style(style, num_heads=num_heads, mlp_dim=mlp_dim or 4 * width),
        execution=execution_of(block, dtype),
        drop_path_rate=0.1 * depth / 24 if drop_path_rate is None else drop_path_rate,
        gate_init=gate_init,
    )


_OURS = ("num_heads", "mlp_dim", "norm", "modulation", "qk_norm", "logit_scale")
_STYLE_KEYS = tuple(name for name in STYLE_KEYS if name not in _OURS)
_BLOCK_KEYS = (*_STYLE_KEYS, *EXECUTION_KEYS)
_NAMED_KEYS = tuple(name for name in build.__annotations__ if name not in ("block", "return"))
KEYS = (*_NAMED_KEYS, *_BLOCK_KEYS)  # all that `build` takes
