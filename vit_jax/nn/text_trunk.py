"""From token ids to tokens [B, T, D], one trunk for GPT, BERT and CLIP's text tower: the subtree `params["text"]`."""

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from vit_jax.errors import UserError
from vit_jax.nn import mask as masks
from vit_jax.nn.flops import block_flops
from vit_jax.nn.mask import CAUSAL, Mask
from vit_jax.nn.multi_head import Cache, empty_cache
from vit_jax.nn.norm import NORMS
from vit_jax.nn.products import product
from vit_jax.nn.stack import BlockStack, block_layers, block_name
from vit_jax.nn.style import BlockStyle, Execution, check_choice
from vit_jax.nn.trunk import Layers

_NORMAL = nn.initializers.normal(0.02)


class TextTrunk(nn.Module):
    """Embeddings of tokens, places and segments, Transformer blocks, and a final norm where there is one.

    Parameters, all float32 whatever the compute dtype: `embedding` [V, D], `pos_embedding` [L, D], with segments
    `segment_embedding` [S, D], `norm_embedding`, `block_00`, `block_01`, ..., `norm`. Embeddings start as N(0, 0.02),
    blocks as ViT's do; a model that is published with other initial values redraws them, see `normal_redrawn`.

    Attributes:
        vocab_size: V, the number of token ids.
        max_length: L, the number of learned positions, and so the longest text.
        width: D.
        depth: number of blocks.
        style: what a block computes; its dropout also comes after the embeddings.
        execution: how the blocks are run.
        mask: "causal" where a token sees itself and those before it (GPT, CLIP), None where it sees all (BERT).
        num_segments: S, the kinds of segments; 0 for a model that knows none.
        embedding_norm: a norm after the embeddings (BERT).
        final_norm: a norm after the last block (GPT-2, CLIP).
        drop_path_rate: stochastic depth of the last block (rng collection "drop_path").

    Raises:
        UserError: for an unknown mask.
    """

    vocab_size: int
    max_length: int
    width: int
    depth: int
    style: BlockStyle
    execution: Execution = Execution()
    mask: Literal["causal"] | None = None
    num_segments: int = 0
    embedding_norm: bool = False
    final_norm: bool = False
    drop_path_rate: float = 0.0

    def __post_init__(self):
        if self.mask is not None:
            check_choice("mask", self.mask, ("causal",))
        super().__post_init__()

    def setup(self):
        self.embedding = self.param("embedding", _NORMAL, (self.vocab_size, self.width))
        self.pos_embedding = self.param("pos_embedding", _NORMAL, (self.max_length, self.width))
        if self.num_segments:
            self.segment_embedding = self.param("segment_embedding", _NORMAL, (self.num_segments, self.width))
        norm = NORMS[self.style.norm_kind]
        if self.embedding_norm:
            self.norm_embedding = norm(self.style.norm_epsilon, self.execution.dtype)
        self.dropout = nn.Dropout(self.style.dropout_rate)
        self.blocks = BlockStack((self.style,), self.depth, self.drop_path_rate, self.execution)
        nn.share_scope(self, self.blocks)
        if self.final_norm:
            self.norm = norm(self.style.norm_epsilon, self.execution.dtype)

    def __call__(
        self,
        ids: Int[Array, "b t"] | None,
        *,
        embedded: Float[Array, "b t width"] | None = None,
        train: bool = False,
        token_mask: Shaped[Array, "b t"] | None = None,
        segments: Int[Array, "b t"] | None = None,
        positions: Int[Array, "b t"] | None = None,
        mask: Bool[Array, "#b #h #t #s"] | None = None,
        cache: Cache | None = None,
        at: Int[Array, " b"] | Int[Array, ""] | int | None = None,
    ) -> tuple[Float[Array, "b t width"], Cache | None]:
        """Tokens of a text, and the cache with what was new.

        Args:
            ids: from 0 to below `vocab_size`; None with `embedded`.
            embedded: vectors in place of those of ids, to which positions and segments are added as to these: learned
                prompts. See `embed`.
            token_mask: 1 where there is a token, 0 at padding, which nobody sees. A causal trunk whose padding comes
                last needs none: no token sees what comes after it.
            segments: from 0 to below `num_segments`; None is the first everywhere.
            positions: from 0 to below `max_length`; None counts from 0, or from `at` with a cache.
            mask: True where a query may attend to a key, on top of what the trunk itself lets it see; see
                `documents_mask`. Like `token_mask` not together with a cache.
            cache: keys and values of the tokens before, see `new_cache`.
            at: how many tokens of each row, or of all, came before.

        Raises:
            UserError: when the text is longer than there are positions, or arguments contradict the trunk.
        """
        if (ids is None) == (embedded is None):
            raise UserError("A text is given as ids or as vectors", "Give one of the two, ids or embedded")
        batch, length = (ids if embedded is None else embedded).shape[:2]
        self._check(length, segments, cache, at, token_mask, mask)
        if positions is None:
            positions = jnp.arange(length) + (0 if at is None else jnp.asarray(at)[..., None])
        x = (self.embed(ids) if embedded is None else embedded) + self.pos_embedding[positions]
        if self.num_segments:
            x = x + self.segment_embedding[jnp.zeros((batch, length), int) if segments is None else segments]
        x = x.astype(self.execution.dtype)
        if self.embedding_norm:
            x = self.norm_embedding(x)
        x = self.dropout(x, deterministic=not train)
        x, cache = self.blocks(x, cache, train=train, mask=self._seen(length, token_mask, mask), at=at)
        return (self.norm(x) if self.final_norm else x), cache

    def embed(self, ids: Int[Array, "*b"]) -> Float[Array, "*b width"]:
        """The vectors of tokens, without their positions."""
        return self.embedding[ids]

    def read_by(self, number: int, ids: Int[Array, "b t"]) -> Float[Array, "b t width"]:
        """What the attention of block `number` reads in evaluation: the tokens before that block, after its first norm
        where it is pre-norm. The blocks from there on are not run.

        Raises:
            UserError: for a block that there is not.
        """
        if not 0 <= number < self.depth:
            raise UserError(f"There is no block {number} among {self.depth}", f"Name one from 0 to {self.depth - 1}")
        x = (self.embed(ids) + self.pos_embedding[jnp.arange(ids.shape[1])]).astype(self.execution.dtype)
        if self.embedding_norm:
            x = self.norm_embedding(x)
        params = self.variables["params"]
        before = BlockStack((self.style,), number, execution=self.execution, parent=None)
        x, _ = before.apply({"params": params}, x, mask=self._seen(ids.shape[1], None, None))
        if self.style.norm != "pre":
            return x
        norm = NORMS[self.style.norm_kind](self.style.norm_epsilon, self.execution.dtype, parent=None)
        return norm.apply({"params": params[block_name(number)]["norm1"]}, x)

    def attend(self, tokens: Float[Array, "*b width"]) -> Float[Array, "*b vocab"]:
        """Products with the embedding of every token: logits in float32, with no parameters of their own."""
        dtype = self.execution.dtype
        contracted = (((tokens.ndim - 1,), (0,)), ((), ()))
        return product(
            tokens.astype(dtype), self.embedding.T.astype(dtype), contracted, preferred_element_type=jnp.float32
        )

    def new_cache(self, batch: int, length: int) -> Cache:
        """An empty cache for so many tokens of so many texts.

        Raises:
            UserError: for more tokens than there are positions.
        """
        self._check_length(length)
        heads, width = self.style.num_heads, self.style.head_dim or self.width // self.style.num_heads
        return empty_cache(self.depth, batch, length, heads, width, self.execution.dtype)

    def layers(self) -> Layers:
        """All that the first block reads is the first layer, see `vit_jax.nn.trunk.Trunk.layers`."""
        return (
            ("embedding", "pos_embedding", "segment_embedding", "norm_embedding"),
            *block_layers(self.depth),
        )

    def flops(self, length: int) -> float:
        """Floating point operations of one text of so many tokens forward, see `vit_jax.nn.flops`; masked products
        count as the others, and looking up embeddings costs none."""
        matrices = 3 if self.style.gated else 2
        return self.depth * block_flops(length, self.width, self.style.mlp_dim, matrices)

    def _seen(self, length: int, token_mask: Array | None, mask: Array | None) -> Mask | None:
        """What may be seen; a mask that needs no array stays one, since faster attention knows it."""
        own = CAUSAL if self.mask == "causal" else None
        arrays = [] if mask is None else [mask]
        if token_mask is not None:
            arrays.append(token_mask.astype(bool)[:, None, None])
        if not arrays:
            return own
        if own is not None:
            arrays.append(masks.dense(own, length, length))
        seen = arrays[0]
        for array in arrays[1:]:
            seen = seen & array
        return seen

    def _check(self, length: int, segments: Array | None, cache: Cache | None, at: Any, *arrays: Array | None) -> None:
        self._check_length(length)
        if segments is not None and not self.num_segments:
            raise UserError("This text trunk knows no segments", "Leave them out, or set num_segments")
        if cache is None and at is None:
            return
        if self.mask != "causal":
            raise UserError(
                "A trunk whose tokens see those after them cannot decode with a cache", "Use one with mask='causal'"
            )
        if any(array is not None for array in arrays):
            raise UserError(
                "A cache is told by `at` where each text goes on, not by a mask",
                "Put the padding last and leave the masks out",
            )

    def _check_length(self, length: int) -> None:
        if length > self.max_length:
            raise UserError(
                f"A text of {length} tokens is longer than the {self.max_length} positions of the model",
                "Shorten it, or use a model with a longer context",
            )


def documents_mask(documents: Int[Array, "b t"]) -> Bool[Array, "b 1 t t"]:
    """Which tokens of a packed window are of the same document."""
    return (documents[:, :, None] == documents[:, None, :])[:, None]
