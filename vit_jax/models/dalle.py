"""DALL-E's transformer: Ramesh et al., "Zero-shot text-to-image generation" (arXiv:2102.12092), section 2.2.

One stream of a start, the tokens of a text and the tokens of an image, each predicted of those before it. Each place of
the text has a padding of its own, which is a token like the others; the places of the image have an embedding of their
row and one of their column. Of every four blocks the second sees columns and the others rows, and the last one of all a
square; see `vit_jax.nn.sparse_stream`. The authors' model of 12 billion parameters was not published.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Shaped

from vit_jax.errors import UserError
from vit_jax.naming import check_keys
from vit_jax.nn.flops import block_flops, product_flops
from vit_jax.nn.multi_head import Cache, empty_cache
from vit_jax.nn.norm import NORMS
from vit_jax.nn.normal_init import normal_redrawn
from vit_jax.nn.products import product
from vit_jax.nn.sparse_stream import Pattern, StreamBlock, StreamStyle
from vit_jax.nn.stack import BlockStack, block_layers
from vit_jax.nn.style import EXECUTION_KEYS, STYLE_KEYS, Execution, block_style, execution_of
from vit_jax.nn.trunk import Layers
from vit_jax.ranges import Count, Positive

_NORMAL = nn.initializers.normal(0.02)
_PERIOD: tuple[Pattern, ...] = ("row", "column", "row", "row")


def pattern_of(number: int, depth: int) -> Pattern:
    """What the places of an image see of each other in a block, which are counted from 0."""
    return "conv" if number == depth - 1 else _PERIOD[number % len(_PERIOD)]


def parts_of(depth: int) -> list[tuple[int, int, tuple[Pattern, ...]]]:
    """The blocks as stacks whose patterns repeat, as a scan needs: the last few, of which one is another, are a part of
    their own. Of each the first block, how many there are, and the patterns as `BlockStack` picks them by number."""
    found, body = [], 4 * ((depth - 1) // 4)
    for first, end in ((0, body), (body, depth)):
        if first < end:
            count = min(end - first, 4)
            numbers = {number % count: number for number in range(first, first + count)}
            found.append((first, end - first, tuple(pattern_of(numbers[i], depth) for i in range(count))))
    return found


class Dalle(nn.Module):
    """A model of texts and images in one stream.

    Parameters, float32: `embedding` [Vi + Vt + L + 1, D] of the tokens of images, those of texts, a padding for each
    place of a text, and the start; `pos_embedding` [L + 1, D] of the start and the text; `row_embedding` [H, D] and
    `column_embedding` [W, D]; `block_00`, `block_01`, ..., `norm`; `text_head` with kernel [D, Vt + L] and `image_head`
    with kernel [D, Vi].

    Attributes:
        image_vocab: Vi.
        text_vocab: Vt.
        text_length: L.
        grid: H rows and W columns of an image.
        width: D.
        depth: number of blocks.
        style: of the blocks; patterns aside.
        execution: how they are run.
        sparse: whether blocks have the paper's patterns; all see everything before them otherwise.
        init_stddev: of kernels and embeddings at first.
    """

    image_vocab: int
    text_vocab: int
    text_length: int
    grid: tuple[int, int]
    width: int
    depth: int
    style: StreamStyle
    execution: Execution = Execution()
    sparse: bool = True
    init_stddev: float = 0.02

    def setup(self):
        def head(features: int) -> nn.Dense:
            dtype = self.execution.dtype
            return nn.Dense(features, use_bias=False, dtype=dtype, kernel_init=_NORMAL, dot_general=product)

        rows = self.image_vocab + self.text_vocab + self.text_length + 1
        self.embedding = self.param("embedding", _NORMAL, (rows, self.width))
        self.pos_embedding = self.param("pos_embedding", _NORMAL, (self.text_length + 1, self.width))
        self.row_embedding = self.param("row_embedding", _NORMAL, (self.grid[0], self.width))
        self.column_embedding = self.param("column_embedding", _NORMAL, (self.grid[1], self.width))
        self.dropout = nn.Dropout(self.style.dropout_rate)
        parts = parts_of(self.depth) if self.sparse else [(0, self.depth, ("full",))]
        self.parts = [self._part(*part) for part in parts]
        for part in self.parts:
            nn.share_scope(self, part)
        self.norm = NORMS[self.style.norm_kind](self.style.norm_epsilon, self.execution.dtype)
        self.text_head, self.image_head = head(self.text_vocab + self.text_length), head(self.image_vocab)

    def __call__(
        self,
        text: Int[Array, "b l"],
        text_mask: Shaped[Array, "b l"],
        tokens: Int[Array, "b t"],
        *,
        train: bool = False,
    ) -> dict[str, Array]:
        """Predicts every token from those before it.

        Args:
            text: from 0 to below Vt.
            text_mask: 1 where there is a token, 0 where padding stands for none.
            tokens: of images, as one reads; the last one is not read.

        Returns:
            "tokens" [B, L + T, D] in the dtype of the computation; "text_logits" [B, L, Vt + L] of the tokens of
            `padded`, and "image_logits" [B, T, Vi] of those of images, float32.
        """
        ids = jnp.concatenate([self.beginning(text, text_mask), tokens[:, :-1]], axis=1)
        found, _ = self.further(ids, None, None, train=train)
        length = self.text_length
        texts = self.text_head(found[:, :length]).astype(jnp.float32)
        return {"tokens": found, "text_logits": texts, "image_logits": self.logits(found[:, length:])}

    def padded(self, text: Int[Array, "b l"], text_mask: Shaped[Array, "b l"]) -> Int[Array, "b l"]:
        """Texts with the paddings of their places, from 0 to below Vt + L."""
        return jnp.where(text_mask.astype(bool), text, self.text_vocab + jnp.arange(self.text_length))

    def beginning(self, text: Int[Array, "b l"], text_mask: Shaped[Array, "b l"]) -> Int[Array, "b l_1"]:
        """The start and a text, as rows of the embedding."""
        start = jnp.full((len(text), 1), self.text_vocab + self.text_length)
        return self.image_vocab + jnp.concatenate([start, self.padded(text, text_mask)], axis=1)

    def further(
        self,
        ids: Int[Array, "b t"],
        cache: Cache | None,
        at: Int[Array, " b"] | Int[Array, ""] | int | None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "b t width"], Cache | None]:
        """Tokens, as rows of the embedding, that go on after what a cache holds, and the cache with them.

        Args:
            at: how many came before; None without a cache.
        """
        places = (self.row_embedding[:, None] + self.column_embedding).reshape(-1, self.width)
        positions = jnp.concatenate([self.pos_embedding, places])
        first = jnp.asarray(0 if at is None else at)[..., None]
        x = (self.embedding[ids] + positions[first + jnp.arange(ids.shape[1])]).astype(self.execution.dtype)
        x = self.dropout(x, deterministic=not train)
        new = []
        for part in self.parts:
            own = jax.tree.map(lambda leaf, part=part: leaf[part.first : part.first + part.depth], cache)
            x, own = part(x, own, train=train, at=at)
            new.append(own)
        cache = None if cache is None else jax.tree.map(lambda *layers: jnp.concatenate(layers), *new)
        return self.norm(x), cache

    def logits(self, tokens: Float[Array, "*b width"]) -> Float[Array, "*b vocab"]:
        """Of the tokens of an image that come next, float32."""
        return self.image_head(tokens).astype(jnp.float32)

    def new_cache(self, batch: int) -> Cache:
        """An empty cache for so many streams."""
        heads, length = self.style.num_heads, self.text_length + self.grid[0] * self.grid[1]
        width = self.style.head_dim or self.width // heads
        return empty_cache(self.depth, batch, length, heads, width, self.execution.dtype)

    def example_inputs(self, image_size: Sequence[int] | None) -> tuple[Array, ...]:
        """See `vit_jax.nn.example_inputs`."""
        del image_size
        text = jnp.zeros((1, self.text_length), jnp.int32)
        return text, text, jnp.zeros((1, self.grid[0] * self.grid[1]), jnp.int32)

    def redrawn(self, params: PyTree[jax.Array], rng: PRNGKeyArray) -> PyTree[jax.Array]:
        """Parameters with initial values as GPT-2 draws them."""
        return normal_redrawn(params, rng, stddev=self.init_stddev, residual_depth=self.depth)

    def layers(self) -> Layers:
        """See `vit_jax.nn.trunk.Trunk.layers`."""
        first = ("embedding", "pos_embedding", "row_embedding", "column_embedding")
        return (first, *block_layers(self.depth))

    def token_flops(self) -> float:
        """Floating point operations of one stream forward; masked products count as the others."""
        length, image = self.text_length + self.grid[0] * self.grid[1], self.grid[0] * self.grid[1]
        blocks = self.depth * block_flops(length, self.width, self.style.mlp_dim, 3 if self.style.gated else 2)
        text = product_flops(self.text_length, self.width, self.text_vocab + self.text_length)
        return blocks + text + product_flops(image, self.width, self.image_vocab)

    def _part(self, first: int, depth: int, patterns: tuple[Pattern, ...]) -> BlockStack:
        styles = tuple(dataclasses.replace(self.style, pattern=pattern) for pattern in patterns)
        # The few at the end are one round of their patterns: nothing repeats.
        execution = dataclasses.replace(self.execution, scan=self.execution.scan and first == 0)
        return BlockStack(styles, depth, 0.0, execution, StreamBlock, first)


def build(
    *,
    image_vocab: Count,
    text_vocab: Count,
    text_length: Count,
    grid: Sequence[int],
    width: Count = 3968,
    depth: Count = 64,
    num_heads: Count = 62,
    mlp_dim: Count | None = None,
    sparse: bool = True,
    reach: Count = 5,
    init_stddev: Positive = 0.02,
    dtype: Literal["float32", "bfloat16"] = "float32",
    **block: Any,
) -> Dalle:
    """A DALL-E from values that JSON can hold, by default of the paper's size.

    Args:
        image_vocab: like `text_vocab`, `text_length` and `grid` the task's to say, see `Dalle`.
        width: like `depth` and `num_heads` of the blocks.
        mlp_dim: of the MLPs; None for four times the width.
        sparse: see `Dalle`.
        reach: see `StreamStyle`.
        init_stddev: see `Dalle`; a narrow model learns sooner with more, such as 1 / sqrt(width).
        dtype: compute dtype by name; parameters are always float32.
        block: other arguments of `Execution` and `BlockStyle`, see `block_style`; without dropout by default.

    Raises:
        UserError: for an unknown value or argument.
    """
    check_keys(block, _BLOCK_KEYS, "config.model", siblings=_NAMED_KEYS)
    if len(grid) != 2:
        raise UserError(f"An image of {len(grid)} sides is none", "Give rows and columns")
    own = {name: value for name, value in block.items() if name in _STYLE_KEYS}
    plain = block_style(
        {"hidden_dropout": False, "norm_epsilon": 1e-5, **own}, num_heads=num_heads, mlp_dim=mlp_dim or 4 * width
    )
    style = StreamStyle(**dataclasses.asdict(plain), before=text_length + 1, columns=grid[1], reach=reach)
    execution = execution_of(block, dtype)
    sizes = (image_vocab, text_vocab, text_length, tuple(grid), width, depth)
    return Dalle(*sizes, style, execution, sparse, init_stddev)


_STYLE_KEYS = tuple(name for name in STYLE_KEYS if name not in ("num_heads", "mlp_dim", "norm"))
_BLOCK_KEYS = (*_STYLE_KEYS, *EXECUTION_KEYS)
_NAMED_KEYS = tuple(name for name in build.__annotations__ if name not in ("block", "return"))
KEYS = (*_NAMED_KEYS, *_BLOCK_KEYS)  # all that `build` takes
