"""MaskGIT: Chang et al., "MaskGIT: masked generative image transformer" (arXiv:2202.04200), section 3.

BERT over the tokens of an image, with the class of the image as the first token: norms after the additions with an
epsilon of 1e-12, learned positions, and logits from the embedding of the tokens. Of 1,024 tokens and 1,000 classes it
has the parameters of a BERT but for the embedding of segments, of which there are none.
"""

from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray, PyTree

from vit_jax.models.bert import MaskedLanguageHead
from vit_jax.naming import check_keys
from vit_jax.nn.flops import product_flops
from vit_jax.nn.normal_init import normal_redrawn
from vit_jax.nn.style import EXECUTION_KEYS, STYLE_KEYS, block_style, execution_of
from vit_jax.nn.text_trunk import TextTrunk
from vit_jax.nn.trunk import Layers, below
from vit_jax.ranges import Count, Decay, Positive


class MaskGIT(nn.Module):
    """What every token is likely to be, given a condition and those that are not masked.

    Parameters, float32: `transformer`, see `TextTrunk`, whose embedding [V + C + 1, D] has the tokens first, then the
    conditions, then the mask, and whose positions [T + 1, D] begin with the condition's; `mlm`, see
    `MaskedLanguageHead`.

    Attributes:
        transformer: the trunk, which sees to both sides.
        vocab_size: V, the number of tokens.
        init_stddev: of kernels and embeddings at first.
    """

    transformer: TextTrunk
    vocab_size: int
    init_stddev: float = 0.02

    def setup(self):
        self.mlm = MaskedLanguageHead(self.transformer)

    def __call__(
        self,
        conditions: Int[Array, " b"],
        tokens: Int[Array, "b t"],
        masked: Bool[Array, "b t"],
        *,
        train: bool = False,
    ) -> dict[str, Array]:
        """Guesses.

        Args:
            conditions: from 0 to below C.
            tokens: of images; what stands where they are masked is not read.
            masked: which are.

        Returns:
            "tokens" [B, T, D] of the trunk in its dtype, "features" [B, D] their mean and "logits" [B, T, V], float32.
        """
        seen = jnp.where(masked, self.transformer.vocab_size - 1, tokens)
        ids = jnp.concatenate([self.vocab_size + conditions[:, None], seen], axis=1)
        found, _ = self.transformer(ids, train=train)
        found = found[:, 1:]
        # Conditions and the mask are no answers.
        logits = self.mlm(found)[..., : self.vocab_size]
        return {"tokens": found, "features": found.astype(jnp.float32).mean(axis=1), "logits": logits}

    def example_inputs(self, image_size: Sequence[int] | None) -> tuple[Array, Array, Array]:
        """See `vit_jax.nn.example_inputs`."""
        del image_size
        return jnp.zeros(1, jnp.int32), jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool)

    def redrawn(self, params: PyTree[jax.Array], rng: PRNGKeyArray) -> PyTree[jax.Array]:
        """Parameters with initial values as BERT's code draws them: normal ones cut at two standard deviations, and
        biases 0."""
        return normal_redrawn(params, rng, stddev=self.init_stddev, truncated=True)

    def layers(self) -> Layers:
        """See `vit_jax.nn.trunk.Trunk.layers`."""
        return below("transformer", self.transformer.layers())

    def token_flops(self) -> float:
        """Floating point operations of one pass over one image's tokens, guesses at all of them included."""
        trunk, length = self.transformer, self.transformer.max_length
        head = product_flops(length, trunk.width, trunk.width) + product_flops(length, trunk.width, trunk.vocab_size)
        return trunk.flops(length) + head


def build(
    *,
    vocab_size: Count,
    num_tokens: Count,
    num_conditions: Count = 1,
    width: Count = 768,
    depth: Count = 24,
    num_heads: Count = 16,
    mlp_dim: Count | None = None,
    init_stddev: Positive = 0.02,
    drop_path_rate: Decay = 0.0,
    dtype: Literal["float32", "bfloat16"] = "float32",
    **block: Any,
) -> MaskGIT:
    """A MaskGIT from values that JSON can hold, by default of the paper's size.

    Args:
        vocab_size: number of tokens, like `num_tokens`, those of an image, and `num_conditions` the task's to say.
        width: of the model; like `depth`, `num_heads` and `mlp_dim`, None for four times the width, see `TextTrunk`.
        init_stddev: see `MaskGIT`; a narrow model learns sooner with more, such as 1 / sqrt(width).
        drop_path_rate: see `TextTrunk`.
        dtype: compute dtype by name; parameters are always float32.
        block: other arguments of `Execution` and `BlockStyle`, see `block_style`. The defaults are the authors',
            without dropout. With norm="pre" a norm comes after the last block.

    Raises:
        UserError: for an unknown value or argument.
    """
    check_keys(block, _BLOCK_KEYS, "config.model", siblings=_NAMED_KEYS)
    style = {"norm": "post", "hidden_dropout": False, "norm_epsilon": 1e-12, "activation": "gelu_tanh"}
    style |= {name: value for name, value in block.items() if name in _STYLE_KEYS}
    trunk = TextTrunk(
        vocab_size=vocab_size + num_conditions + 1,
        max_length=num_tokens + 1,
        width=width,
        depth=depth,
        style=block_style(style, num_heads=num_heads, mlp_dim=mlp_dim or 4 * width),
        execution=execution_of(block, dtype),
        embedding_norm=True,
        final_norm=style["norm"] == "pre",  # whose sum nothing has normed
        drop_path_rate=drop_path_rate,
        # Unowned, so that MaskGIT adopts it as `transformer` even when it is made inside another module's setup.
        parent=None,
    )
    return MaskGIT(trunk, vocab_size, init_stddev)


_STYLE_KEYS = tuple(name for name in STYLE_KEYS if name not in ("num_heads", "mlp_dim"))
_BLOCK_KEYS = (*_STYLE_KEYS, *EXECUTION_KEYS)
_NAMED_KEYS = tuple(name for name in build.__annotations__ if name not in ("block", "return"))
KEYS = (*_NAMED_KEYS, *_BLOCK_KEYS)  # all that `build` takes
