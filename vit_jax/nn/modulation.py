"""What a condition makes of normalised tokens: shift, scale and gate ("adaLN", DiT, arXiv:2212.09748, section 3.2)."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from vit_jax.nn.norm import LayerNorm


class Modulation(nn.Module):
    """Vectors by which blocks are modulated: a linear layer on silu(condition), which starts at zero.

    A block has its own, or one layer makes those of all blocks, of which each takes them as they are or adds a table
    (`BlockStyle.modulation`). A block's six are shift, scale and gate of its attention, then those of its MLP.

    Parameters, float32: `kernel` [C, parts, D] and `bias` [parts, D].

    Attributes:
        parts: how many vectors.
        width: D, that of the tokens.
        dtype: of the computation and of the result.
    """

    parts: int
    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, condition: Float[Array, "*b c"]) -> Float[Array, "*b parts width"]:
        """Of the condition of an example, or of each token."""
        zeros = nn.initializers.zeros
        layer = nn.DenseGeneral((self.parts, self.width), dtype=self.dtype, kernel_init=zeros, bias_init=zeros)
        nn.share_scope(self, layer)
        return layer(nn.silu(condition.astype(self.dtype)))


class ModulatedNorm(nn.Module):
    """norm(x) * (1 + scale) + shift, before the last layer of a model (DiT, section 3.2; VAR).

    The norm has no parameters; `modulation`, see `Modulation`, gives shift, then scale.

    Attributes:
        epsilon: of the norm.
        dtype: of the computation and of the result.
    """

    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t width"], condition: Float[Array, "b c"] | Float[Array, "b t c"]
    ) -> Float[Array, "b t width"]:
        """The condition is that of an example, or of each token."""
        parts = Modulation(2, x.shape[-1], self.dtype, name="modulation")(condition)
        parts = parts[:, None] if parts.ndim == 3 else parts
        x = LayerNorm(self.epsilon, self.dtype, affine=False)(x)
        return x * (1 + parts[..., 1, :]) + parts[..., 0, :]
