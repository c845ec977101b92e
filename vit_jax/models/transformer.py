"""The Transformer: Vaswani et al., "Attention is all you need" (arXiv:1706.03762), an encoder and a decoder of texts.

Post-norm blocks with ReLU, sinusoidal positions, and one matrix for source, target and the last product (section 3.4).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Shaped

from vit_jax.errors import UserError
from vit_jax.naming import check_keys
from vit_jax.nn.flops import block_flops, product_flops
from vit_jax.nn.multi_head import CrossCache, empty_cross_cache
from vit_jax.nn.norm import NORMS
from vit_jax.nn.pool import mean_of_tokens
from vit_jax.nn.products import product
from vit_jax.nn.sinusoids import Layout, sinusoids
from vit_jax.nn.stack import BlockStack, block_layers
from vit_jax.nn.style import EXECUTION_KEYS, STYLE_KEYS, BlockStyle, Execution, block_style, execution_of
from vit_jax.nn.trunk import Layers, below, side_by_side
from vit_jax.nn.xavier import xavier_redrawn
from vit_jax.ranges import Count, Decay
from vit_jax.spelling import nearest


@dataclasses.dataclass(frozen=True)
class Variant:
    """A published size (table 3)."""

    width: int
    encoder_depth: int
    decoder_depth: int
    mlp_dim: int
    num_heads: int
    dropout_rate: float


VARIANTS = {
    "base": Variant(512, 6, 6, 2048, 8, 0.1),
    "big": Variant(1024, 6, 6, 4096, 16, 0.3),
}


class EncoderDecoder(nn.Module):
    """Two stacks of blocks, of which the second attends to the first; the subtree `params["text"]`.

    Parameters, float32: `embedding` [V, D], of source and target alike; `encoder` and `decoder` with `block_00`, ... in
    each; `norm_encoder` and `norm_decoder` where the blocks are pre-norm.

    Attributes:
        vocab_size: V.
        width: D.
        encoder_depth, decoder_depth: numbers of blocks.
        style: of the encoder's blocks; the decoder's attend to a memory besides.
        execution: how the blocks are run.
        max_length: tokens that a text may have.
        positions: see `vit_jax.nn.sinusoids`.
    """

    vocab_size: int
    width: int
    encoder_depth: int
    decoder_depth: int
    style: BlockStyle
    execution: Execution = Execution()
    max_length: int = 1024
    positions: Layout = "pairs"

    def setup(self):
        # Times sqrt(D) they have unit variance.
        normal = nn.initializers.normal(self.width**-0.5)
        self.embedding = self.param("embedding", normal, (self.vocab_size, self.width))
        crossing = dataclasses.replace(self.style, cross="plain")
        self.encoder = BlockStack((self.style,), self.encoder_depth, execution=self.execution)
        self.decoder = BlockStack((crossing,), self.decoder_depth, execution=self.execution)
        if self.style.norm == "pre":
            norm = NORMS[self.style.norm_kind]
            self.norm_encoder = norm(self.style.norm_epsilon, self.execution.dtype)
            self.norm_decoder = norm(self.style.norm_epsilon, self.execution.dtype)
        self.dropout = nn.Dropout(self.style.dropout_rate)

    def encode(
        self, source: Int[Array, "b s"], mask: Shaped[Array, "b s"] | None, *, train: bool = False
    ) -> Float[Array, "b s width"]:
        """The memory; `mask` is 1 where there is a token, 0 at padding, which nobody sees."""
        x = self._embedded(source, None, train)
        x, _ = self.encoder(x, train=train, mask=_seen(mask))
        return self.norm_encoder(x) if self.style.norm == "pre" else x

    def decode(
        self,
        target: Int[Array, "b t"],
        memory: Float[Array, "b s width"] | None,
        memory_mask: Shaped[Array, "b s"] | None,
        *,
        train: bool = False,
        cache: CrossCache | None = None,
        at: Int[Array, " b"] | int | None = None,
    ) -> tuple[Float[Array, "b t width"], CrossCache | None]:
        """Tokens of the target, each of which sees those before it and the memory.

        Args:
            memory: of `encode`; None where the cache holds it.
            cache: see `new_cache`.
            at: how many tokens of each row, or of all, came before; with a cache.
        """
        x = self._embedded(target, at, train)
        seen = {"mask": "causal", "memory": memory, "memory_mask": _seen(memory_mask), "at": at}
        x, cache = self.decoder(x, cache, train=train, **seen)
        return (self.norm_decoder(x) if self.style.norm == "pre" else x), cache

    def attend(self, tokens: Float[Array, "*b width"]) -> Float[Array, "*b vocab"]:
        """Products with the embedding of every token: logits, float32."""
        dtype = self.execution.dtype
        contracted = (((tokens.ndim - 1,), (0,)), ((), ()))
        return product(
            tokens.astype(dtype), self.embedding.T.astype(dtype), contracted, preferred_element_type=jnp.float32
        )

    def new_cache(self, batch: int, length: int, memory: int) -> CrossCache:
        """An empty cache for so many tokens of so many targets, and of the memory."""
        self._check_length(length)
        heads = self.style.num_heads
        sizes = (self.decoder_depth, batch, length, memory, heads, self.style.head_dim or self.width // heads)
        return empty_cross_cache(*sizes, self.execution.dtype)

    def layers(self) -> Layers:
        """Both towers end at the same distance from the loss."""
        towers = (
            below(n, block_layers(d)) for n, d in (("encoder", self.encoder_depth), ("decoder", self.decoder_depth))
        )
        return (("embedding",), *side_by_side(*towers))

    def flops(self, source: int, target: int) -> float:
        """Floating point operations of one pair of so many tokens forward."""
        width, mlp_dim = self.width, self.style.mlp_dim
        encoder = block_flops(source, width, mlp_dim)
        # Queries and outputs of the target, keys and values of the source.
        cross = product_flops(target, width, 2 * width) + product_flops(source, width, 2 * width)
        cross += 4 * source * target * width
        decoder = block_flops(target, width, mlp_dim) + cross
        last = product_flops(target, width, self.vocab_size)
        return self.encoder_depth * encoder + self.decoder_depth * decoder + last

    def _embedded(self, ids: Int[Array, "b t"], at: Int[Array, " b"] | int | None, train: bool) -> Array:
        self._check_length(ids.shape[1])
        table = jnp.asarray(sinusoids(self.max_length, self.width, self.positions))
        places = jnp.arange(ids.shape[1]) + (0 if at is None else jnp.asarray(at)[..., None])
        x = self.embedding[ids] * math.sqrt(self.width) + table[places]
        return self.dropout(x.astype(self.execution.dtype), deterministic=not train)

    def _check_length(self, length: int) -> None:
        if length > self.max_length:
            raise UserError(
                f"A text of {length} tokens is longer than the {self.max_length} positions of the model",
                "Shorten it, or raise config.model.max_length",
            )


class Transformer(nn.Module):
    """An encoder-decoder with the last product.

    Parameters: `text`, see `EncoderDecoder`; `logits_bias` [V] where there is one.

    Attributes:
        text: the two towers.
        logits_bias: a bias of each token (Marian); the paper has none.
    """

    text: EncoderDecoder
    logits_bias: bool = False

    def setup(self):
        if self.logits_bias:
            self.bias = self.param("logits_bias", nn.initializers.zeros, (self.text.vocab_size,))

    def __call__(
        self,
        source: Int[Array, "b s"],
        target: Int[Array, "b t"],
        source_mask: Shaped[Array, "b s"] | None = None,
        *,
        train: bool = False,
    ) -> dict[str, Array]:
        """What follows each token of the target.

        Args:
            source: ids.
            target: ids, shifted: the start, then the tokens up to the last but one.
            source_mask: 1 where there is a token, 0 at padding.

        Returns:
            "tokens" [B, T, D] of the target; "features" [B, D] float32, the mean of the source's tokens; "logits" [B,
            T, V] float32.
        """
        memory = self.text.encode(source, source_mask, train=train)
        tokens, _ = self.text.decode(target, memory, source_mask, train=train)
        return {"tokens": tokens, "features": mean_of_tokens(memory, source_mask), "logits": self.logits(tokens)}

    def encode(self, source: Int[Array, "b s"], source_mask: Shaped[Array, "b s"] | None) -> Float[Array, "b s width"]:
        """See `EncoderDecoder.encode`."""
        return self.text.encode(source, source_mask)

    def source_features(
        self, source: Int[Array, "b s"], source_mask: Shaped[Array, "b s"] | None
    ) -> Float[Array, "b width"]:
        """The "features" of a call, without a target."""
        return mean_of_tokens(self.text.encode(source, source_mask), source_mask)

    def step(
        self,
        target: Int[Array, "b t"],
        memory: Float[Array, "b s width"] | None,
        memory_mask: Shaped[Array, "b s"] | None,
        cache: CrossCache,
        at: Int[Array, " b"] | int,
    ) -> tuple[Float[Array, "b t vocab"], CrossCache]:
        """Logits of what follows further tokens of the target, and the cache with them; see `EncoderDecoder.decode`."""
        tokens, cache = self.text.decode(target, memory, memory_mask, cache=cache, at=at)
        return self.logits(tokens), cache

    def logits(self, tokens: Float[Array, "b t width"]) -> Float[Array, "b t vocab"]:
        """float32."""
        found = self.text.attend(tokens)
        return found + self.bias if self.logits_bias else found

    def example_inputs(self, image_size: Sequence[int] | None) -> tuple[Int[Array, "1 1"], Int[Array, "1 1"]]:
        """A source and a target, see `vit_jax.nn.example_inputs`."""
        del image_size
        return jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1), jnp.int32)

    def redrawn(self, params: PyTree[jax.Array], rng: PRNGKeyArray) -> PyTree[jax.Array]:
        """Initial values: Glorot's uniform ones for every matrix, as in the authors' code; the embedding stays."""
        return xavier_redrawn(params, rng, fused_qkv=False, tokens={})

    def layers(self) -> Layers:
        """See `vit_jax.nn.trunk.Trunk.layers`."""
        return below("text", self.text.layers())


def _seen(mask: Shaped[Array, "b s"] | None) -> Array | None:
    return None if mask is None else mask.astype(bool)[:, None, None]


_STYLE = tuple(name for name in STYLE_KEYS if name not in ("num_heads", "mlp_dim", "cross", "rotary"))


def build(
    variant: str = "base",
    *,
    vocab_size: Count,
    width: Count | None = None,
    encoder_depth: Count | None = None,
    decoder_depth: Count | None = None,
    mlp_dim: Count | None = None,
    num_heads: Count | None = None,
    dropout_rate: Decay | None = None,
    max_length: Count = 1024,
    positions: Layout = "pairs",
    logits_bias: bool = False,
    dtype: str = "float32",
    **block: Any,
) -> Transformer:
    """A Transformer of a published size, or of another.

    Args:
        variant: "base" or "big" (table 3).
        vocab_size: of both languages together.
        width, encoder_depth, decoder_depth, mlp_dim, num_heads, dropout_rate: None for those of the variant. Dropout
            comes after the embeddings and at the end of each branch (section 5.4).
        max_length: tokens that a text may have.
        positions: see `vit_jax.nn.sinusoids`.
        logits_bias: see `Transformer`.
        dtype: of the computation, "float32" or "bfloat16".
        block: other arguments of `BlockStyle` and `Execution`; the paper's are post-norm, epsilon 1e-6, and ReLU.
    """
    check_keys(block, (*_STYLE, *EXECUTION_KEYS), "config.model", siblings=_NAMED)
    if variant not in VARIANTS:
        raise UserError(f"There is no Transformer {variant!r}", nearest(variant, VARIANTS))
    given = {
        "width": width,
        "encoder_depth": encoder_depth,
        "decoder_depth": decoder_depth,
        "mlp_dim": mlp_dim,
        "num_heads": num_heads,
        "dropout_rate": dropout_rate,
    }
    size = dataclasses.replace(VARIANTS[variant], **{k: v for k, v in given.items() if v is not None})
    style = {"norm": "post", "activation": "relu", "hidden_dropout": False} | {
        k: v for k, v in block.items() if k in _STYLE
    }
    text = EncoderDecoder(
        vocab_size,
        size.width,
        size.encoder_depth,
        size.decoder_depth,
        style=block_style(style, num_heads=size.num_heads, mlp_dim=size.mlp_dim, dropout_rate=size.dropout_rate),
        execution=execution_of(block, dtype),
        max_length=max_length,
        positions=positions,
        parent=None,
    )
    return Transformer(text, logits_bias)


_NAMED = tuple(name for name in build.__annotations__ if name not in ("block", "return"))
KEYS = (*_NAMED, *_STYLE, *EXECUTION_KEYS)  # all that `build` takes
