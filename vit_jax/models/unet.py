"""The U-Net of diffusion in pixels: images with noise and the time to what a sampler needs.

DDPM (arXiv:2006.11239, appendix B), iDDPM (arXiv:2102.09672, section 3 and appendix A) and ADM (arXiv:2105.05233,
section 3).
"""

import math
from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from vit_jax.nn.dtype import compute_dtype
from vit_jax.nn.flops import product_flops
from vit_jax.nn.time_embedding import ClassEmbedding
from vit_jax.nn.unet_blocks import MapStyle
from vit_jax.nn.unet_levels import Blocks, UNetLevels, check_levels
from vit_jax.ranges import Count, Decay, Natural, Positive


class UNet(UNetLevels):
    """A denoiser.

    Parameters, float32: `conv_in`, `time`, `classes` where there are any, `down_0` at the full resolution, `down_1`,
    ..., `middle`, ..., `up_1`, `up_0`, `norm_out`, `conv_out`. Whatever ends a residual path is zero at first, and so
    is the output.

    Attributes:
        outputs: channels of what is predicted of the images.
        num_classes: rows of the table of classes, the null class among them; 0 for none.

    The others are those of `vit_jax.nn.unet_levels.UNetLevels`.
    """

    outputs: int = 3
    num_classes: int = 0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w inputs"],
        times: Shaped[Array, " b"],
        labels: Int[Array, " b"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "b h w outputs"]:
        """What it predicts, float32.

        Args:
            x: images or latents with noise.
            times: timesteps, from 0 on.
            labels: classes; where the table has none they are not read.
            train: whether dropout is applied, from the stream "dropout".

        Raises:
            UserError: for sides that do not divide as often as there are levels, or no labels where there are classes.
        """
        self.check_size(x.shape[1:3])
        style, time = self.blocks.style, self.embedded(times)
        if self.num_classes:
            time = time + ClassEmbedding(self.num_classes, time.shape[-1], style.dtype, name="classes")(labels)
        x = style.conv(self.channels, 3, "conv_in")(x.astype(style.dtype))
        skips, x = self.way_down(x, time, train=train)
        x = self.way_up(x, skips, time, train=train)
        x = nn.silu(style.norm("norm_out")(x))
        return style.conv(self.outputs, 3, "conv_out", zero=True)(x).astype(jnp.float32)

    def example_inputs(self, image_size: Sequence[int] | None) -> tuple[Array, ...]:
        """See `vit_jax.nn.example_inputs`."""
        x = jnp.zeros((1, *(image_size or (self.stride, self.stride)), self.inputs))
        return (x, jnp.zeros(1, jnp.int32), *((jnp.zeros(1, jnp.int32),) if self.num_classes else ()))

    def flops(self, image_size: Sequence[int]) -> float:
        """Of one image, see `vit_jax.nn.flops`."""
        places = math.prod(image_size)
        down, skips = self.down_flops(places)
        return down + self.up_flops(skips) + product_flops(places, 9 * self.channels, self.outputs)


def build(
    *,
    inputs: Count = 3,
    outputs: Count = 3,
    channels: Count = 128,
    multipliers: Sequence[Count] = (1, 2, 2, 2),
    num_blocks: Count = 2,
    attention_levels: Sequence[Natural] = (1,),
    num_classes: Natural = 0,
    head_width: Count | None = None,
    time: Literal["ddpm", "adm"] = "ddpm",
    modulates: bool = False,
    residual_resample: bool = False,
    symmetric: bool = False,
    middle_attention: bool = True,
    middle_norm: bool = True,
    dropout_rate: Decay = 0.0,
    norm_groups: Count = 32,
    epsilon: Positive = 1e-6,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> UNet:
    """A U-Net from values that JSON can hold; the defaults are DDPM's for CIFAR-10, without its dropout of 0.1.

    Args:
        inputs: see `UNetLevels`, like `channels`, `multipliers`, `num_blocks` and `attention_levels`.
        outputs: see `UNet`, like `num_classes`.
        head_width: channels of a head; None for one head.
        time: "ddpm" has sines first and a shift of 1, "adm" cosines first and none.
        modulates: see `Blocks`, like `residual_resample` and `symmetric`.
        middle_attention: whether there is attention in the middle.
        middle_norm: whether the attention in the middle has a norm; diffusers leaves it out where `modulates`.
        dropout_rate: of residual blocks.
        norm_groups: channels are normalised in so many groups.
        epsilon: of the norms.
        dtype: compute dtype by name; parameters, norms and the output are float32.

    Raises:
        UserError: for levels that are not there, or channels that do not divide.
    """
    check_levels(multipliers, attention_levels, channels, norm_groups)
    style = MapStyle(norm_groups, epsilon, compute_dtype(dtype))
    blocks = Blocks(style, modulates, dropout_rate, head_width, symmetric, residual_resample)
    first, shift = (True, 1) if time == "ddpm" else (False, 0)
    return UNet(
        inputs, channels, tuple(multipliers), num_blocks, tuple(attention_levels), first, shift, middle_attention,
        middle_norm, blocks, outputs=outputs, num_classes=num_classes,
    )  # fmt: skip
