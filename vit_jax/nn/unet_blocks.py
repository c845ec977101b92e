"""The blocks that U-Nets and convolutional autoencoders are made of: residual blocks, attention over places, and the
ways to half and twice the sides.

Those of DDPM's U-Net (arXiv:2006.11239, appendix B); with scale and shift, heads, and sides that change within a
residual block those of ADM ("Diffusion models beat GANs on image synthesis", arXiv:2105.05233, section 3).
"""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from vit_jax.errors import UserError
from vit_jax.nn.attention import attention
from vit_jax.nn.conv import Conv, GroupNorm
from vit_jax.nn.flops import mixing_flops, product_flops

# What PyTorch draws weights from, and with them the authors.
UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
_ZEROS = nn.initializers.zeros


@dataclasses.dataclass(frozen=True)
class MapStyle:
    """What the blocks of a convolutional network have in common.

    Args:
        groups: of channels that are normalised together.
        epsilon: added to their variance: 1e-6 in autoencoders and in DDPM, 1e-5 in the U-Nets of latent diffusion.
        dtype: of convolutions and of what is between blocks; norms and softmax are float32.
    """

    groups: int = 32
    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32

    def norm(self, name: str | None = None) -> GroupNorm:
        """A norm of the module that calls this."""
        return GroupNorm(self.groups, self.epsilon, self.dtype, name=name)

    def conv(self, width: int, side: int, name: str | None = None, *, zero: bool = False) -> Conv:
        """A convolution of the module that calls this, which keeps the size; zero at first on request."""
        return Conv(width, side, dtype=self.dtype, kernel_init=_ZEROS if zero else UNIFORM, name=name)


Resample = Literal["", "down", "up"]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each behind a norm and SiLU, added to what comes in.

    Parameters, float32: `norm1`, `conv1`, `norm2`, `conv2`; `time`, a dense layer, where there is one; `shortcut`, a
    1x1 convolution where the width changes.

    Attributes:
        width: channels that come out.
        style: see `MapStyle`.
        modulates: the time scales and shifts what the second norm gives (ADM), instead of being added in front of it.
        dropout: share of what the second convolution reads that is left out in training.
        resample: "down" takes the mean of 2x2 places and "up" repeats each 2x2 times, both behind the first SiLU and
            in what the block is added to (ADM); "" keeps the sides.
        zero_last: the second convolution is zero at first, and with it the block.
    """

    width: int
    style: MapStyle = MapStyle()
    modulates: bool = False
    dropout: float = 0.0
    resample: Resample = ""
    zero_last: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], time: Float[Array, "b e"] | None = None, *, train: bool = False
    ) -> Float[Array, "b h2 w2 width"]:
        """The map after the block.

        Args:
            time: an embedding of time or of another condition of each image: SiLU and a dense layer make of it what is
                added to all places between the convolutions, or scales and shifts them.
            train: whether dropout is applied, from the stream "dropout".
        """
        style = self.style
        h = nn.silu(style.norm("norm1")(x))
        x, h = resampled(x, self.resample), resampled(h, self.resample)
        h, norm2 = style.conv(self.width, 3, "conv1")(h), style.norm("norm2")
        if time is not None:
            width = self.width * (2 if self.modulates else 1)
            dense = nn.Dense(width, dtype=style.dtype, kernel_init=UNIFORM, name="time")
            told = dense(nn.silu(time))[:, None, None]
            if self.modulates:
                scale, shift = jnp.split(told, 2, axis=-1)
                h = norm2(h) * (1 + scale) + shift
            else:
                h = norm2(h + told)
        else:
            h = norm2(h)
        h = nn.silu(h)
        if self.dropout:
            h = nn.Dropout(self.dropout)(h, deterministic=not train)
        h = style.conv(self.width, 3, "conv2", zero=self.zero_last)(h)
        if x.shape[-1] != self.width:
            x = style.conv(self.width, 1, "shortcut")(x)
        return x.astype(h.dtype) + h

    def flops(self, channels: int, places: float, time: int = 0) -> float:
        """Of one map of so many channels, and places behind the resampling, with a time of so many numbers."""
        convs = product_flops(places, 9 * channels, self.width) + product_flops(places, 9 * self.width, self.width)
        told = product_flops(1, time, self.width * (2 if self.modulates else 1)) if time else 0.0
        return convs + told + (product_flops(places, channels, self.width) if channels != self.width else 0.0)


class SpatialAttention(nn.Module):
    """All places of a map attend to all others, added to what comes in.

    Parameters, float32: `norm`, where there is one; `query`, `key`, `value` and `out`, dense layers [C, C] with biases.

    Attributes:
        style: see `MapStyle`.
        head_width: channels of a head; None for one head as wide as the map.
        normed: whether there is a norm in front.
        zero_last: `out` is zero at first.

    Raises:
        UserError: for heads that do not divide the channels.
    """

    style: MapStyle = MapStyle()
    head_width: int | None = None
    normed: bool = True
    zero_last: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        batch, height, width, channels = x.shape
        head = self.head_width or channels
        if channels % head:
            raise UserError(f"{channels} channels do not divide into heads of {head}", "Use a head_width that does")

        def dense(of: Array, name: str, init: nn.initializers.Initializer = UNIFORM) -> Array:
            return nn.Dense(channels, dtype=self.style.dtype, kernel_init=init, name=name)(of)

        h = self.style.norm("norm")(x) if self.normed else x
        h = h.reshape(batch, height * width, channels)
        q, k, v = (dense(h, name).reshape(batch, -1, channels // head, head) for name in ("query", "key", "value"))
        h = dense(attention(q, k, v).reshape(h.shape), "out", _ZEROS if self.zero_last else UNIFORM)
        return x.astype(h.dtype) + h.reshape(x.shape)

    def flops(self, channels: int, places: float) -> float:
        """Of one map of so many channels and places."""
        return product_flops(places, channels, 4 * channels) + mixing_flops(places, places, channels)


class Down(nn.Module):
    """Half the sides: a 3x3 convolution of stride 2 with zeros below and at the right alone, as in DDPM's TensorFlow.

    Parameters, float32: `conv`.

    Attributes:
        style: see `MapStyle`.
        symmetric: there are zeros on all sides, as in the U-Nets of latent diffusion.
    """

    style: MapStyle = MapStyle()
    symmetric: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        around = (1, 1) if self.symmetric else (0, 1)
        padded = jnp.pad(x, ((0, 0), around, around, (0, 0)))
        style = self.style
        return Conv(
            x.shape[-1], 3, stride=2, padding=0, dtype=style.dtype, kernel_init=UNIFORM, name="conv"
        )(padded)  # fmt: skip


class Up(nn.Module):
    """Twice the sides: each place four times, and a 3x3 convolution. Parameters, float32: `conv`."""

    style: MapStyle = MapStyle()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 2h 2w c"]:
        return self.style.conv(x.shape[-1], 3, "conv")(doubled(x))


def doubled(x: Float[Array, "b h w c"]) -> Float[Array, "b 2h 2w c"]:
    """Each place four times: the nearest neighbour in a map of twice the sides."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


def resampled(x: Float[Array, "b h w c"], how: Resample) -> Float[Array, "b h2 w2 c"]:
    """Half the sides as means, twice the sides by repetition, or the map itself."""
    if how == "down":
        b, h, w, c = x.shape
        return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))
    return doubled(x) if how == "up" else x
