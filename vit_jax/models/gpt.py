"""The GPTs and their published sizes.

"Improving language understanding by generative pre-training" (2018), "Language models are unsupervised multitask
learners" (2019) and "Language models are few-shot learners" (arXiv:2005.14165).

GPT-1 has its norms after the additions and none at the end; GPT-2 and GPT-3 have them before, and a last one. All have
learned positions, the tanh approximation of GELU, an epsilon of 1e-5, and logits from the embedding of the tokens.

GPT-3 alternates dense attention with attention in bands (its section 2.1, after the Sparse Transformer), of which the
paper gives neither width nor stride. What is built is dense in every layer: parameters and their shapes are the same.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

from vit_jax.errors import UserError
from vit_jax.naming import check_keys
from vit_jax.nn.flops import product_flops
from vit_jax.nn.multi_head import Cache
from vit_jax.nn.normal_init import normal_redrawn
from vit_jax.nn.style import EXECUTION_KEYS, STYLE_KEYS, block_style, execution_of
from vit_jax.nn.text_trunk import TextTrunk
from vit_jax.nn.trunk import Layers, below
from vit_jax.ranges import Count, Decay, Positive
from vit_jax.spelling import nearest


@dataclasses.dataclass(frozen=True)
class Variant:
    """A published size; the hidden layer of an MLP is four times as wide as the model."""

    width: int
    depth: int
    num_heads: int
    max_length: int


# GPT-2: table 2 of its paper, with the heads of the published files. GPT-3: table 2.1, but with 16 heads where XL has
# 24 printed and 5120 features where 13B has 5140: so many heads of 128 fill the width, and so many parameters are in
# table D.1 (1,320M and 12,850M).
VARIANTS = {
    "gpt1": Variant(768, 12, 12, 512),
    "gpt2-small": Variant(768, 12, 12, 1024),
    "gpt2-medium": Variant(1024, 24, 16, 1024),
    "gpt2-large": Variant(1280, 36, 20, 1024),
    "gpt2-xl": Variant(1600, 48, 25, 1024),
    "gpt3-small": Variant(768, 12, 12, 2048),
    "gpt3-medium": Variant(1024, 24, 16, 2048),
    "gpt3-large": Variant(1536, 24, 16, 2048),
    "gpt3-xl": Variant(2048, 24, 16, 2048),
    "gpt3-2.7b": Variant(2560, 32, 32, 2048),
    "gpt3-6.7b": Variant(4096, 32, 32, 2048),
    "gpt3-13b": Variant(5120, 40, 40, 2048),
    "gpt3-175b": Variant(12288, 96, 96, 2048),
}


class GPT(nn.Module):
    """A language model: of each token of a text, how likely every token is to come next.

    Parameters: `text`, see `TextTrunk`; the head is its embedding.

    Attributes:
        text: the trunk, causal.
        scaled_residuals: whether the kernels that end a residual branch start smaller, see `redrawn` (GPT-2, section
            2.3).
        init_stddev: of kernels and embeddings at first; 0.02 suits the widths of the papers.

    Raises:
        UserError: for a trunk that sees what it is to guess.
    """

    text: TextTrunk
    scaled_residuals: bool = True
    init_stddev: float = 0.02

    def __post_init__(self):
        if self.text.mask != "causal":
            raise UserError("A language model must not see the tokens that it guesses", "Set mask='causal'")
        super().__post_init__()

    def __call__(
        self,
        ids: Int[Array, "b t"],
        *,
        train: bool = False,
        token_mask: Shaped[Array, "b t"] | None = None,
        mask: Bool[Array, "#b #h #t #s"] | None = None,
        positions: Int[Array, "b t"] | None = None,
    ) -> dict[str, Array]:
        """For the arguments see `TextTrunk`.

        Returns:
            "tokens" [B, T, D] in the dtype of the computation; "features" [B, D] float32, the last token of each text
            (GPT-1, section 3.2); "logits" [B, T, V] float32, of the token that comes after each.
        """
        tokens, _ = self.text(ids, train=train, token_mask=token_mask, mask=mask, positions=positions)
        if token_mask is None:
            features = tokens[:, -1]
        else:
            # The last of those that are there, wherever padding is; the first of a text without any.
            last = jnp.max(jnp.arange(ids.shape[1]) * token_mask.astype(bool), axis=1)
            features = jnp.take_along_axis(tokens, last[:, None, None], axis=1)[:, 0]
        return {"tokens": tokens, "features": features.astype(jnp.float32), "logits": self.text.attend(tokens)}

    def further(
        self, ids: Int[Array, "b t"], cache: Cache, at: Int[Array, " b"] | Int[Array, ""] | int
    ) -> tuple[Float[Array, "b t width"], Cache]:
        """The tokens of texts that go on after what the cache holds, and the cache with them; see `logits`."""
        return self.text(ids, cache=cache, at=at)

    def logits(self, tokens: Float[Array, "*b width"]) -> Float[Array, "*b vocab"]:
        """Of the tokens that come next, float32."""
        return self.text.attend(tokens)

    def example_inputs(self, image_size: Sequence[int] | None) -> tuple[Int[Array, "1 1"]]:
        """See `vit_jax.nn.example_inputs`."""
        del image_size
        return (jnp.zeros((1, 1), jnp.int32),)

    def redrawn(self, params: PyTree[Array], rng: PRNGKeyArray) -> PyTree[Array]:
        """Parameters with the initial values of the papers: N(0, 0.02) for kernels and embeddings, biases 0, and from
        GPT-2 on the kernels that end a residual branch divided by the square root of the number of branches."""
        depth = self.text.depth if self.scaled_residuals else None
        return normal_redrawn(params, rng, stddev=self.init_stddev, residual_depth=depth)

    def layers(self) -> Layers:
        """See `vit_jax.nn.trunk.Trunk.layers`."""
        return below("text", self.text.layers())

    def text_flops(self, length: int) -> float:
        """Floating point operations of one text of so many tokens forward, the logits of all its tokens included."""
        return self.text.flops(length) + product_flops(length, self.text.width, self.text.vocab_size)

    @classmethod
    def from_variant(
        cls,
        variant: str = "gpt2-small",
        *,
        vocab_size: Count,
        width: Count | None = None,
        depth: Count | None = None,
        num_heads: Count | None = None,
        mlp_dim: Count | None = None,
        max_length: Count | None = None,
        drop_path_rate: Decay = 0.0,
        init_stddev: Positive = 0.02,
        dtype: Literal["float32", "bfloat16"] = "float32",
        **block: Any,
    ) -> "GPT":
        """A GPT of a published size, from values that JSON can hold.

        Args:
            variant: see `VARIANTS`.
            vocab_size: number of token ids.
            width: replaces the variant's, like `depth`, `num_heads` and `max_length`, for sizes of one's own.
            mlp_dim: of the MLPs; None for four times the width.
            max_length: the longest text in tokens.
            drop_path_rate: see `TextTrunk`.
            init_stddev: see `GPT`; a narrow model learns sooner with more, such as 1 / sqrt(width).
            dtype: compute dtype by name; parameters are always float32.
            block: other arguments of `Execution` and `BlockStyle`; of the last also by the older names, see
                `block_style`. The defaults are the variant's, without dropout.

        Raises:
            UserError: for an unknown variant, value or argument.
        """
        check_keys(block, _BLOCK_KEYS, "config.model", siblings=_NAMED_KEYS)
        if variant not in VARIANTS:
            raise UserError(f"There is no GPT '{variant}'", nearest(variant, VARIANTS))
        own = {"width": width, "depth": depth, "num_heads": num_heads, "max_length": max_length}
        size = dataclasses.replace(VARIANTS[variant], **{k: v for k, v in own.items() if v is not None})
        first = variant == "gpt1"
        style = {k: v for k, v in block.items() if k in _STYLE_KEYS}
        if "layer_norm_epsilon" not in style:
            style = {"norm_epsilon": 1e-5} | style
        text = TextTrunk(
            vocab_size=vocab_size,
            max_length=size.max_length,
            width=size.width,
            depth=size.depth,
            style=block_style(
                {"norm": "post" if first else "pre", "hidden_dropout": False} | style,
                num_heads=size.num_heads,
                mlp_dim=mlp_dim or 4 * size.width,
            ),
            execution=execution_of(block, dtype),
            mask="causal",
            final_norm=not first,
            drop_path_rate=drop_path_rate,
            # Unowned, so that GPT adopts it as `text` even when it is made inside another module's setup.
            parent=None,
        )
        return cls(text, scaled_residuals=not first, init_stddev=init_stddev)


def _those(values: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in names}


_STYLE_KEYS = tuple(name for name in STYLE_KEYS if name not in ("num_heads", "mlp_dim"))
_BLOCK_KEYS = (*_STYLE_KEYS, *EXECUTION_KEYS)
_NAMED_KEYS = tuple(name for name in GPT.from_variant.__annotations__ if name not in ("block", "return"))
KEYS = (*_NAMED_KEYS, *_BLOCK_KEYS)  # all that `build` takes

# What a config's model section calls, and what a checkpoint's metadata holds the arguments of.
build = GPT.from_variant
