"""Networks that tell images of data from made ones."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from vit_jax.errors import UserError
from vit_jax.nn.batch_norm import BatchNorm
from vit_jax.nn.conv import Conv
from vit_jax.nn.images import check_images

DiscriminatorNorm = Literal["batch", "none"]
_KERNELS = nn.initializers.normal(0.02)


class PatchDiscriminator(nn.Module):
    """A score for each patch of an image: pix2pix's discriminator (arXiv:1611.07004, section 6.1.2), as VQGAN has it.

    4x4 convolutions with leaky ReLUs of slope 0.2; all but the last two halve the map. Weights start from N(0, .02),
    scales of norms from N(1, .02), biases at 0.
    Parameters, float32: `conv_0` to `conv_L`, `score`; with "batch" also `norm_1` to `norm_L` (the convolutions before
    them have no bias), and their running statistics in the collection "batch_stats".

    Attributes:
        channels: of the first convolution; each has twice as many as the one before, at most eight times as many.
        num_layers: L, of which so many convolutions halve the map; 3 in the papers, which see 70x70 pixels.
        norm: "batch" normalises by the batch that is scored; "none" leaves each image by itself, as a penalty on the
            gradient of its score needs it.
        dtype: dtype of the computation.
    """

    channels: int = 64
    num_layers: int = 3
    norm: DiscriminatorNorm = "batch"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b gh gw"]:
        """Scores, float32: large for images of data.

        Raises:
            UserError: for images that are too small for so many layers.
        """
        check_images(images)
        if min(images.shape[1:3]) // 2**self.num_layers < 3:
            raise UserError(
                f"Images of {images.shape[1]}x{images.shape[2]} are too small for a discriminator of {self.num_layers}"
                " layers",
                f"It needs {3 * 2**self.num_layers} pixels: lower its num_layers",
            )
        x = images.astype(self.dtype)
        for i in range(self.num_layers + 1):
            width, normed = self.channels * min(2**i, 8), i > 0 and self.norm == "batch"
            stride = 2 if i < self.num_layers else 1
            x = Conv(width, 4, stride=stride, padding=1, use_bias=not normed, dtype=self.dtype, kernel_init=_KERNELS,
                     name=f"conv_{i}")(x)  # fmt: skip
            if normed:
                x = BatchNorm(dtype=self.dtype, scale_init=_scales, name=f"norm_{i}")(x, train)
            x = nn.leaky_relu(x, 0.2)
        return Conv(1, 4, padding=1, dtype=self.dtype, kernel_init=_KERNELS, name="score")(x)[..., 0].astype(
            jnp.float32
        )


def _scales(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Float[Array, " c"]:
    return 1 + _KERNELS(key, shape, dtype)
