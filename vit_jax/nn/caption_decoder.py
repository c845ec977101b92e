"""From the tokens of an image to those of its caption: the textual head of VirTex, the subtree `params["text"]`."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vit_jax.errors import UserError
from vit_jax.nn.flops import block_flops, product_flops
from vit_jax.nn.multi_head import CrossCache, empty_cross_cache
from vit_jax.nn.norm import NORMS
from vit_jax.nn.products import product
from vit_jax.nn.stack import BlockStack, block_layers
from vit_jax.nn.style import BlockStyle, Execution
from vit_jax.nn.trunk import Layers, below, side_by_side

_NORMAL = nn.initializers.normal(0.02)


class CaptionDecoder(nn.Module):
    """Causal blocks that attend to an image, in one direction of the caption or in both.

    Parameters, float32: `memory_projection` [M, D], `embedding` [V, D], of what is given and what is said alike,
    `pos_embedding` [L, D], `norm_embedding`, `onward` and with both directions `backward` with `block_00`, ... in each,
    `norm_onward` and `norm_backward` where the blocks are pre-norm, and `logits_bias` [V].

    Attributes:
        vocab_size: V.
        max_length: L, the longest caption.
        width: D.
        depth: number of blocks of each direction.
        style: of the blocks, which attend to a memory besides.
        execution: how they are run.
        both_ways: whether there are blocks that read captions from their end.
    """

    vocab_size: int
    max_length: int
    width: int
    depth: int
    style: BlockStyle
    execution: Execution = Execution()
    both_ways: bool = True

    def setup(self):
        norm, style = NORMS[self.style.norm_kind], dataclasses.replace(self.style, cross="plain")
        self.memory_projection = nn.Dense(self.width, dtype=self.execution.dtype, kernel_init=_NORMAL)
        self.embedding = self.param("embedding", _NORMAL, (self.vocab_size, self.width))
        self.pos_embedding = self.param("pos_embedding", _NORMAL, (self.max_length, self.width))
        self.norm_embedding = norm(style.norm_epsilon, self.execution.dtype)
        self.dropout = nn.Dropout(style.dropout_rate)
        self.logits_bias = self.param("logits_bias", nn.initializers.zeros, (self.vocab_size,))
        self.onward = BlockStack((style,), self.depth, execution=self.execution)
        if self.both_ways:
            self.backward = BlockStack((style,), self.depth, execution=self.execution)
        if style.norm == "pre":
            self.norm_onward = norm(style.norm_epsilon, self.execution.dtype)
            if self.both_ways:
                self.norm_backward = norm(style.norm_epsilon, self.execution.dtype)

    def remember(self, image_tokens: Float[Array, "b s m"]) -> Float[Array, "b s width"]:
        """The memory that captions attend to."""
        return self.memory_projection(image_tokens)

    def __call__(
        self,
        ids: Int[Array, "b t"],
        memory: Float[Array, "b s width"] | None,
        *,
        train: bool = False,
        backward: bool = False,
        cache: CrossCache | None = None,
        at: Int[Array, " b"] | int | None = None,
    ) -> tuple[Float[Array, "b t width"], CrossCache | None]:
        """Tokens of captions, each of which sees those before it and the image.

        Args:
            memory: of `remember`; None where the cache holds it.
            backward: with the blocks that read from the end; `ids` are turned round then.
            cache: see `new_cache`.
            at: how many tokens of each row, or of all, came before; with a cache.

        Raises:
            UserError: for a caption that is longer than there are positions.
        """
        self._check_length(ids.shape[1])
        places = jnp.arange(ids.shape[1]) + (0 if at is None else jnp.asarray(at)[..., None])
        x = (self.embedding[ids] + self.pos_embedding[places]).astype(self.execution.dtype)
        x = self.dropout(self.norm_embedding(x), deterministic=not train)
        blocks = self.backward if backward else self.onward
        x, cache = blocks(x, cache, train=train, mask="causal", memory=memory, at=at)
        if self.style.norm == "pre":
            x = (self.norm_backward if backward else self.norm_onward)(x)
        return x, cache

    def logits(self, tokens: Float[Array, "*b width"]) -> Float[Array, "*b vocab"]:
        """Of what follows each token, float32."""
        dtype = self.execution.dtype
        contracted = (((tokens.ndim - 1,), (0,)), ((), ()))
        found = product(
            tokens.astype(dtype), self.embedding.T.astype(dtype), contracted, preferred_element_type=jnp.float32
        )
        return found + self.logits_bias

    def new_cache(self, batch: int, length: int, memory: int) -> CrossCache:
        """An empty cache for so many tokens of so many captions, and of the image."""
        self._check_length(length)
        heads = self.style.num_heads
        sizes = (self.depth, batch, length, memory, heads, self.style.head_dim or self.width // heads)
        return empty_cross_cache(*sizes, self.execution.dtype)

    def layers(self) -> Layers:
        """See `vit_jax.nn.trunk.Trunk.layers`; both directions end at the loss."""
        ways = ("onward", "backward") if self.both_ways else ("onward",)
        return side_by_side(*(below(way, block_layers(self.depth)) for way in ways))

    def flops(self, length: int, memory: int) -> float:
        """Floating point operations of one caption of so many tokens forward, all that it says included."""
        cross = product_flops(length, self.width, 2 * self.width) + product_flops(memory, self.width, 2 * self.width)
        cross += 4 * memory * length * self.width
        block = block_flops(length, self.width, self.style.mlp_dim) + cross
        return (1 + self.both_ways) * (self.depth * block + product_flops(length, self.width, self.vocab_size))

    def _check_length(self, length: int) -> None:
        if length > self.max_length:
            raise UserError(
                f"A caption of {length} tokens is longer than the {self.max_length} positions of the model",
                "Shorten it, or raise config.model.max_length",
            )
