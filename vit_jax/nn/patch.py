"""Cutting an image into patches, embedding each of them, and putting patches together again."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int

from vit_jax.errors import UserError
from vit_jax.nn.norm import LayerNorm
from vit_jax.nn.products import product
from vit_jax.nn.resize import Resize, resample_kernel
from vit_jax.ranges import Count


def patchify(images: Float[Array, "b h w c"], patch_size: tuple[int, int]) -> Float[Array, "b gh gw pixels"]:
    """The pixels of non-overlapping patches, each in the order (row, column, channel).

    Raises:
        UserError: when the patches do not tile the image.
    """
    size = images.shape[1:3]
    if any(s < p or s % p for s, p in zip(size, patch_size, strict=True)):
        fitting = [max(round(s / p), 1) * p for s, p in zip(size, patch_size, strict=True)]
        raise UserError(
            f"An image of {size[0]}x{size[1]} pixels does not divide into patches of {patch_size[0]}x{patch_size[1]}",
            f"Use a multiple of the patch size, for example {fitting[0]}x{fitting[1]}",
        )
    batch, channels, (height, width) = images.shape[0], images.shape[-1], patch_size
    rows, columns = size[0] // height, size[1] // width
    x = images.reshape(batch, rows, height, columns, width * channels)
    return x.swapaxes(2, 3).reshape(batch, rows, columns, height * width * channels)


def unpatchify(patches: Float[Array, "b gh gw pixels"], patch_size: tuple[int, int]) -> Float[Array, "b h w c"]:
    """The inverse of `patchify`."""
    (batch, rows, columns, pixels), (height, width) = patches.shape, patch_size
    x = patches.reshape(batch, rows, columns, height, pixels // height).swapaxes(2, 3)
    return x.reshape(batch, rows * height, columns * width, pixels // (height * width))


def padded_to(x: Float[Array, "b h w c"], multiple: tuple[int, int]) -> Float[Array, "b ph pw c"]:
    """`x` with zeros at the bottom and on the right, so that both sides are multiples."""
    more = [(0, -side % of) for side, of in zip(x.shape[1:3], multiple, strict=True)]
    return jnp.pad(x, [(0, 0), *more, (0, 0)]) if any(after for _, after in more) else x


class PatchMerging(nn.Module):
    """Every 2x2 places become one of twice the width (Swin, section 3.1); what is odd is filled up with zeros.

    Parameters, float32: `norm`, `reduction` with kernel [4C, 2C].

    Attributes:
        epsilon: of the norm.
        dtype: dtype of the computation and of the result.
        norm_last: the norm comes after the product (Swin v2).
    """

    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    norm_last: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b oh ow out"]:
        x = padded_to(x, (2, 2))
        batch, height, width, channels = x.shape
        # Side by side lie the places (0, 0), (1, 0), (0, 1), (1, 1), as the authors have them.
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 4, 2, 5)
        x = x.reshape(batch, height // 2, width // 2, 4 * channels)
        norm = LayerNorm(self.epsilon, self.dtype, name="norm")
        dense = nn.Dense(2 * channels, use_bias=False, dtype=self.dtype, dot_general=product, name="reduction")
        return norm(dense(x)) if self.norm_last else dense(norm(x))


UNDERLYING_RESIZE: Resize = "half_pixel_antialias"  # of learned positions


@dataclasses.dataclass(frozen=True)
class Underlying:
    """Parameters that each call resamples, so that the model takes any patch size (FlexiViT, arXiv:2212.08013, section
    3.4). None for those of the model's own patches.

    Args:
        underlying_patch: side of the patches that the embedding's kernel is for; 32 in the paper.
        underlying_grid: side of the grid that learned positions are for; 7 in the paper.
    """

    underlying_patch: Count | None = None
    underlying_grid: Count | None = None


class PatchEmbed(nn.Module):
    """A linear embedding of non-overlapping patches (ViT, equation 1), a convolution with a stride of one patch.

    Parameters, float32: `kernel` [ph, pw, C, width], or [p, p, C, width] with p `underlying_patch`, and with a bias
    `bias` [width].

    Attributes:
        width: embedding width.
        patch_size: height and width of a patch in pixels.
        dtype: dtype of the computation and of the result.
        use_bias: CLIP's has none.
        underlying_patch: side of the patches that the parameters are for; each call resamples them, see
            `vit_jax.nn.resize.resample_kernel` (FlexiViT). None for `patch_size`.
    """

    width: int
    patch_size: tuple[int, int]
    dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    underlying_patch: int | None = None

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w c"], keep: Int[Array, "b k"] | None = None
    ) -> Float[Array, "b gh gw width"] | Float[Array, "b k width"]:
        """Embeds the patches and keeps them in their grid.

        Args:
            keep: numbers of the patches to embed, row by row; the result is in their order. None for all.

        Raises:
            UserError: when the patches do not tile the image; a convolution would silently crop it.
        """
        patches = patchify(images.astype(self.dtype), self.patch_size)
        side = self.underlying_patch
        held = self.patch_size if side is None else (side, side)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (*held, images.shape[-1], self.width))
        kernel = resample_kernel(kernel, self.patch_size)
        bias = self.param("bias", nn.initializers.zeros, (self.width,)) if self.use_bias else None
        if keep is not None:
            # Of the pixels, which have no gradient: that of rows that are picked is a slow scatter.
            patches = patches.reshape(patches.shape[0], -1, patches.shape[-1])
            patches = jnp.take_along_axis(patches, keep[..., None], axis=1)
        # Patches do not overlap, so the convolution is one matrix product, which runs faster on a CPU.
        kernel = kernel.astype(self.dtype).reshape(-1, self.width)
        x = product(patches, kernel, (((patches.ndim - 1,), (0,)), ((), ())))
        return x if bias is None else x + bias.astype(self.dtype)
