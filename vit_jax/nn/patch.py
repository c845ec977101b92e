"""Cutting an image into patches and embedding each of them."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from vit_jax.errors import UserError


class PatchEmbed(nn.Module):
    """A linear embedding of non-overlapping patches (ViT, equation 1), a convolution with a stride of one patch.

    Parameters, float32: `kernel` [ph, pw, C, width] and `bias` [width].

    Attributes:
        width: embedding width.
        patch_size: height and width of a patch in pixels.
        dtype: dtype of the computation and of the result.
    """

    width: int
    patch_size: tuple[int, int]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b gh gw width"]:
        """Embeds the patches and keeps them in their grid.

        Raises:
            UserError: when the patches do not tile the image; a convolution would silently crop it.
        """
        size, patch = images.shape[1:3], self.patch_size
        if any(s < p or s % p for s, p in zip(size, patch, strict=True)):
            fitting = [max(round(s / p), 1) * p for s, p in zip(size, patch, strict=True)]
            raise UserError(
                f"An image of {size[0]}x{size[1]} pixels does not divide into patches of {patch[0]}x{patch[1]}",
                f"Use a multiple of the patch size, for example {fitting[0]}x{fitting[1]}",
            )
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (*patch, images.shape[-1], self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        # Patches do not overlap, so the convolution is one matrix product, which runs faster on a CPU.
        (rows, columns), (height, width) = (s // p for s, p in zip(size, patch, strict=True)), patch
        x = images.astype(self.dtype).reshape(-1, rows, height, columns, width * images.shape[-1])
        x = x.swapaxes(2, 3).reshape(-1, rows, columns, height * width * images.shape[-1])
        return x @ kernel.astype(self.dtype).reshape(-1, self.width) + bias.astype(self.dtype)
