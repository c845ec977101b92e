"""BERT and its published sizes: Devlin et al., "BERT: pre-training of deep bidirectional Transformers for language
understanding" (arXiv:1810.04805).

Norms after the additions and one after the embeddings, with an epsilon of 1e-12, the exact GELU, learned positions, and
an embedding that says which of two segments a token is in. Texts are [CLS] A [SEP], or [CLS] A [SEP] B [SEP].
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Shaped

from vit_jax.errors import UserError
from vit_jax.naming import check_keys
from vit_jax.nn.activation import ACTIVATIONS
from vit_jax.nn.flops import product_flops
from vit_jax.nn.norm import NORMS
from vit_jax.nn.normal_init import normal_redrawn
from vit_jax.nn.pool import mean_of_tokens
from vit_jax.nn.products import product
from vit_jax.nn.style import EXECUTION_KEYS, STYLE_KEYS, block_style, check_choice, execution_of
from vit_jax.nn.text_trunk import TextTrunk
from vit_jax.nn.trunk import Layers, below
from vit_jax.ranges import Count, Decay, Positive
from vit_jax.spelling import nearest

Pooling = Literal["token", "mean"]


@dataclasses.dataclass(frozen=True)
class Variant:
    """A published size (section 3); the hidden layer of an MLP is four times as wide as the model."""

    width: int
    depth: int
    num_heads: int


VARIANTS = {"base": Variant(768, 12, 12), "large": Variant(1024, 24, 16)}

_LENGTH = 512  # positions of the published files


class MaskedLanguageHead(nn.Module):
    """What a token is turned into before the embedding of every token is laid beside it, and the bias of the logits.

    Parameters, float32: `dense` with kernel [D, D] and bias, `norm`, and `bias` [V].

    Attributes:
        text: the trunk, whose embedding and style it shares.
    """

    text: TextTrunk

    @nn.compact
    def __call__(self, tokens: Float[Array, "*b width"]) -> Float[Array, "*b vocab"]:
        """Logits in float32."""
        style, dtype = self.text.style, self.text.execution.dtype
        x = nn.Dense(tokens.shape[-1], dtype=dtype, dot_general=product, name="dense")(tokens)
        x = NORMS[style.norm_kind](style.norm_epsilon, dtype, name="norm")(ACTIVATIONS[style.activation](x))
        return self.text.attend(x) + self.param("bias", nn.initializers.zeros, (self.text.vocab_size,))


class Bert(nn.Module):
    """A text encoder, and the heads of its pretraining where they are wanted.

    Parameters: `text`, see `TextTrunk`; `pooler` with kernel [D, D] and bias; `mlm`, see `MaskedLanguageHead`; `nsp`
    with kernel [D, 2] and bias, whose first output is "B follows A".

    Attributes:
        text: the trunk, which sees to both sides.
        pooler: whether there is a dense layer with tanh on the first token.
        pooling: what `features` are: "token" the first token through the pooler, or as it is without one; "mean" the
            mean of all tokens that are no padding (Sentence-BERT, arXiv:1908.10084).
        masked_language: whether there is the head that guesses masked tokens.
        next_sentence: whether there is the head that says whether B follows A; it reads the pooler.
        init_stddev: of kernels and embeddings at first; 0.02 suits the widths of the paper.

    Raises:
        UserError: for a trunk that sees to one side alone, an unknown pooling, or `next_sentence` without a pooler.
    """

    text: TextTrunk
    pooler: bool = True
    pooling: Pooling = "token"
    masked_language: bool = False
    next_sentence: bool = False
    init_stddev: float = 0.02

    def __post_init__(self):
        check_choice("pooling", self.pooling, get_args(Pooling))
        if self.text.mask is not None:
            raise UserError("BERT's tokens see to both sides", "Leave the mask out")
        if self.next_sentence and not self.pooler:
            raise UserError(
                "The head for the next sentence reads the pooler", "Set pooler=True, or next_sentence=False"
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        ids: Int[Array, "b t"],
        *,
        train: bool = False,
        token_mask: Shaped[Array, "b t"] | None = None,
        segments: Int[Array, "b t"] | None = None,
        places: Int[Array, "b p"] | None = None,
    ) -> dict[str, Array]:
        """Encodes texts; for the arguments see also `TextTrunk`.

        Args:
            places: of the tokens to guess, of which alone the logits are computed.

        Returns:
            "tokens" [B, T, D] in the dtype of the computation; "features" [B, D] float32; with places
            "masked_logits" [B, P, V], and with the head for it "next_logits" [B, 2], float32.
        """
        tokens, _ = self.text(ids, train=train, token_mask=token_mask, segments=segments)
        first = tokens[:, 0].astype(jnp.float32)
        if self.pooler:
            first = nn.tanh(nn.Dense(first.shape[-1], name="pooler")(first))
        features = first if self.pooling == "token" else mean_of_tokens(tokens, token_mask)
        found = {"tokens": tokens, "features": features}
        if self.masked_language and (places is not None or self.is_initializing()):
            places = jnp.zeros((ids.shape[0], 1), int) if places is None else places
            chosen = jnp.take_along_axis(tokens, places[..., None], axis=1)
            found["masked_logits"] = MaskedLanguageHead(self.text, name="mlm")(chosen)
        if self.next_sentence:
            found["next_logits"] = nn.Dense(2, name="nsp")(first)
        return found

    def example_inputs(self, image_size: Sequence[int] | None) -> tuple[Int[Array, "1 1"]]:
        """See `vit_jax.nn.example_inputs`."""
        del image_size
        return (jnp.zeros((1, 1), jnp.int32),)

    def redrawn(self, params: PyTree[Array], rng: PRNGKeyArray) -> PyTree[Array]:
        """Parameters with the initial values of the authors' code: normal ones cut at two standard deviations for
        kernels and embeddings, and biases 0."""
        return normal_redrawn(params, rng, stddev=self.init_stddev, truncated=True)

    def layers(self) -> Layers:
        """See `vit_jax.nn.trunk.Trunk.layers`."""
        return below("text", self.text.layers())

    def text_flops(self, length: int, places: int = 0) -> float:
        """Floating point operations of one text of so many tokens forward, guesses at so many places included."""
        width = self.text.width
        head = product_flops(places, width, width) + product_flops(places, width, self.text.vocab_size)
        return self.text.flops(length) + head

    @classmethod
    def from_variant(
        cls,
        variant: str = "base",
        *,
        vocab_size: Count,
        width: Count | None = None,
        depth: Count | None = None,
        num_heads: Count | None = None,
        mlp_dim: Count | None = None,
        max_length: Count = _LENGTH,
        num_segments: Count = 2,
        pooler: bool = True,
        pooling: Pooling = "token",
        masked_language: bool = False,
        next_sentence: bool = False,
        init_stddev: Positive = 0.02,
        drop_path_rate: Decay = 0.0,
        dtype: Literal["float32", "bfloat16"] = "float32",
        **block: Any,
    ) -> "Bert":
        """A BERT of a published size, from values that JSON can hold.

        Args:
            variant: see `VARIANTS`.
            vocab_size: number of token ids.
            width: replaces the variant's, like `depth` and `num_heads`, for sizes of one's own.
            mlp_dim: of the MLPs; None for four times the width.
            max_length: the longest text in tokens.
            num_segments: kinds of segments.
            pooler: see `Bert`, like `pooling`, `masked_language` and `next_sentence`.
            init_stddev: see `Bert`; a narrow model learns sooner with more, such as 1 / sqrt(width).
            drop_path_rate: see `TextTrunk`.
            dtype: compute dtype by name; parameters are always float32.
            block: other arguments of `Execution` and `BlockStyle`; of the last also by the older names, see
                `block_style`. Without dropout where they do not say. With norm="pre" a norm comes after the last block.

        Raises:
            UserError: for an unknown variant, value or argument.
        """
        check_keys(block, _BLOCK_KEYS, "config.model", siblings=_NAMED_KEYS)
        if variant not in VARIANTS:
            raise UserError(f"There is no BERT '{variant}'", nearest(variant, VARIANTS))
        own = {"width": width, "depth": depth, "num_heads": num_heads}
        size = dataclasses.replace(VARIANTS[variant], **{k: v for k, v in own.items() if v is not None})
        style: dict[str, Any] = {"norm": "post", "hidden_dropout": False}
        style |= {} if "layer_norm_epsilon" in block else {"norm_epsilon": 1e-12}
        style |= {} if "gelu" in block else {"activation": "gelu_exact"}
        style |= _those(block, _STYLE_KEYS)
        text = TextTrunk(
            vocab_size=vocab_size,
            max_length=max_length,
            width=size.width,
            depth=size.depth,
            style=block_style(style, num_heads=size.num_heads, mlp_dim=mlp_dim or 4 * size.width),
            execution=execution_of(block, dtype),
            num_segments=num_segments,
            embedding_norm=True,
            final_norm=style["norm"] == "pre",  # whose sum nothing has normed
            drop_path_rate=drop_path_rate,
            # Unowned, so that Bert adopts it as `text` even when it is made inside another module's setup.
            parent=None,
        )
        return cls(text, pooler, pooling, masked_language, next_sentence, init_stddev)


def _those(values: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in names}


_STYLE_KEYS = tuple(name for name in STYLE_KEYS if name not in ("num_heads", "mlp_dim"))
_BLOCK_KEYS = (*_STYLE_KEYS, *EXECUTION_KEYS)
_NAMED_KEYS = tuple(name for name in Bert.from_variant.__annotations__ if name not in ("block", "return"))
KEYS = (*_NAMED_KEYS, *_BLOCK_KEYS)  # all that `build` takes

# What a config's model section calls, and what a checkpoint's metadata holds the arguments of.
build = Bert.from_variant
