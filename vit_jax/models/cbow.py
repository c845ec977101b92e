"""A text as the mean of its tokens' vectors: the other text tower of CLIP's pseudo-code ("CBOW or Text Transformer",
arXiv:2103.00020, figure 3), after Mikolov et al., "Efficient estimation of word representations in vector space"
(arXiv:1301.3781), section 3.1."""

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int, Shaped

from vit_jax.nn.dtype import compute_dtype
from vit_jax.nn.pool import mean_of_tokens
from vit_jax.nn.trunk import Layers
from vit_jax.ranges import Count


class Bag(nn.Module):
    """The vectors of tokens, whatever their order.

    Parameters, float32: `embedding` [V, D], which starts as N(0, 0.02).

    Attributes:
        vocab_size: V, the number of token ids.
        width: D.
        dtype: of the result.
    """

    vocab_size: int
    width: int
    dtype: DTypeLike = jnp.float32
    num_segments: int = 0

    def setup(self):
        self.embedding = self.param("embedding", nn.initializers.normal(0.02), (self.vocab_size, self.width))

    def __call__(self, ids: Int[Array, "*b"]) -> Float[Array, "*b width"]:
        """The vector of each token."""
        return self.embed(ids)

    def embed(self, ids: Int[Array, "*b"]) -> Float[Array, "*b width"]:
        """As `vit_jax.nn.text_trunk.TextTrunk.embed`."""
        return self.embedding[ids].astype(self.dtype)


class CBOW(nn.Module):
    """A text model without blocks.

    Parameters: `text`, see `Bag`.
    """

    text: Bag

    def __call__(
        self, ids: Int[Array, "b t"], *, train: bool = False, token_mask: Shaped[Array, "b t"] | None = None
    ) -> dict[str, Array]:
        """Encodes texts.

        Args:
            token_mask: 1 where there is a token, 0 at padding, which has no part in the mean.

        Returns:
            "tokens" [B, T, D] in the dtype of the computation; "features" [B, D] float32, their mean.
        """
        del train
        tokens = self.text(ids)
        return {"tokens": tokens, "features": mean_of_tokens(tokens, token_mask)}

    def example_inputs(self, image_size: Sequence[int] | None) -> tuple[Int[Array, "1 1"]]:
        """See `vit_jax.nn.example_inputs`."""
        del image_size
        return (jnp.zeros((1, 1), jnp.int32),)

    def layers(self) -> Layers:
        """See `vit_jax.nn.trunk.Trunk.layers`."""
        return (("text/embedding",),)

    def text_flops(self, length: int) -> float:
        """None are counted: looking up costs no product."""
        del length
        return 0.0


def build(*, vocab_size: Count, width: Count = 512, dtype: Literal["float32", "bfloat16"] = "float32") -> CBOW:
    """The model, from values that JSON can hold.

    Args:
        vocab_size: number of token ids.
        width: of their vectors.
        dtype: compute dtype by name; parameters are always float32.
    """
    return CBOW(Bag(vocab_size, width, compute_dtype(dtype), parent=None))


KEYS = ("vocab_size", "width", "dtype")  # all that `build` takes
