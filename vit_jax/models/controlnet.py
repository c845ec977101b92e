"""A copy of a U-Net's first half that reads an image too, and adds to the U-Net what it makes of it.

"Adding conditional control to text-to-image diffusion models" (arXiv:2302.05543, ControlNet).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from vit_jax.errors import UserError
from vit_jax.models.conditional_unet import TOKENS, ConditionalLevels, Residuals, blocks_of
from vit_jax.nn.conv import Conv
from vit_jax.nn.flops import product_flops
from vit_jax.nn.unet_blocks import UNIFORM, MapStyle
from vit_jax.nn.unet_levels import check_levels
from vit_jax.ranges import Count, Natural, Positive

_HINT = "hint"


class HintStack(nn.Module):
    """An image as a map of the latents' sides: a convolution, two for each further width of which the second halves
    the sides, and a last one that is zero at first; SiLU between.

    Parameters, float32: `conv_in`, `keep_0`, `halve_0`, `keep_1`, ..., `conv_out`.

    Attributes:
        width: channels that come out.
        widths: of the convolutions.
        style: see `MapStyle`.
    """

    width: int
    widths: Sequence[int] = (16, 32, 96, 256)
    style: MapStyle = MapStyle()

    @nn.compact
    def __call__(self, image: Float[Array, "b H W c"]) -> Float[Array, "b h w width"]:
        style = self.style
        x = nn.silu(style.conv(self.widths[0], 3, "conv_in")(image.astype(style.dtype)))
        for i, width in enumerate(self.widths[1:]):
            x = nn.silu(style.conv(x.shape[-1], 3, f"keep_{i}")(x))
            halve = Conv(width, 3, stride=2, padding=1, dtype=style.dtype, kernel_init=UNIFORM, name=f"halve_{i}")
            x = nn.silu(halve(x))
        return style.conv(self.width, 3, "conv_out", zero=True)(x)

    def flops(self, channels: int, places: float) -> float:
        """Of one image of so many channels and pixels."""
        total, before = product_flops(places, 9 * channels, self.widths[0]), self.widths[0]
        for width in self.widths[1:]:
            total += product_flops(places, 9 * before, before) + product_flops(places / 4, 9 * before, width)
            places, before = places / 4, width
        return total + product_flops(places, 9 * before, self.width)


class Hint(NamedTuple):
    """What the stack made of an image, which the steps of a sampler have in common.

    Args:
        map: [B, h, w, C].
    """

    map: Float[Array, "b h w c"]


class ControlNet(ConditionalLevels):
    """What an image adds to a U-Net.

    Parameters, float32: those of the U-Net but for its way up, `conv_in`, `time`, `down_0`, ..., `middle`; `hint`, see
    `HintStack`; `zero_0`, `zero_1`, ..., `zero_middle`, 1x1 convolutions that are zero at first. So nothing is added
    at first.

    Attributes:
        control_channels: of the image.
        hint_widths: see `HintStack`.

    The others are those of `vit_jax.models.conditional_unet.ConditionalLevels`.
    """

    control_channels: int = 3
    hint_widths: Sequence[int] = (16, 32, 96, 256)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w inputs"],
        times: Shaped[Array, " b"],
        context: Float[Array, "b l d"] | Mapping[str, Any],
        control: Float[Array, "b H W c"] | Hint,
        *,
        scale: Float[Array, ""] | Float[Array, " b"] | float = 1.0,
        train: bool = False,
    ) -> Residuals:
        """What the U-Net adds, see `vit_jax.models.conditional_unet.ConditionalUNet`.

        Args:
            x: what the U-Net reads.
            times: timesteps, from 0 on.
            context: tokens, or their keys and values: of this network, see `context_keys_values`.
            control: an image in 0..1 of 8 times the sides, or what `hinted` makes of it.
            scale: what all of it is multiplied by, 0 for nothing; of all or of each.
            train: see `ConditionalUNet`.

        Raises:
            UserError: for another size of the image, and as `ConditionalUNet`.
        """
        self.check_size(x.shape[1:3])
        self.check_channels(x.shape[-1])
        style, time = self.blocks.style, self.embedded(times)
        if not isinstance(control, Hint):
            self.check_control(control.shape[1:], x.shape[1:3])
            control = Hint(self._stack(name=_HINT)(control))
        context = self.checked(context)
        x = style.conv(self.channels, 3, "conv_in")(x.astype(style.dtype)) + control.map
        skips, middle = self.way_down(x, time, context, train=train)
        scale = jnp.reshape(jnp.asarray(scale, style.dtype), (-1, 1, 1, 1))

        def zero(map: Array, name: str) -> Array:
            return scale * style.conv(map.shape[-1], 1, name, zero=True)(map)

        return Residuals(tuple(zero(map, f"zero_{i}") for i, map in enumerate(skips)), zero(middle, "zero_middle"))

    def hinted(self, control: Float[Array, "b H W c"]) -> Hint:
        """What all steps have in common of an image in 0..1.

        Call it as `model.apply(variables, control, method="hinted")`.
        """
        self.check_control(control.shape[1:], [side // self.reduction for side in control.shape[1:3]])
        return Hint(self._stack(parent=None).apply({"params": self.variables["params"][_HINT]}, control))

    @property
    def reduction(self) -> int:
        """Pixels of the image at each side of a place."""
        return 2 ** (len(self.hint_widths) - 1)

    def check_control(self, size: Sequence[int], places: Sequence[int]) -> None:
        """Raises a UserError for an image [H, W, C] that is not of a map of so many places."""
        wanted = (*(side * self.reduction for side in places), self.control_channels)
        if tuple(size) != wanted:
            raise UserError(
                f"A control image of {size[1]}x{size[0]} pixels and {size[2]} channels does not fit {wanted[1]}x"
                f"{wanted[0]} and {wanted[2]}",
                "Resize it, or convert its colours",
            )

    def example_inputs(self, image_size: Sequence[int] | None) -> tuple[Array, ...]:
        """See `vit_jax.nn.example_inputs`; the size is that of the latents."""
        size = image_size or (self.stride, self.stride)
        control = jnp.zeros((1, *(side * self.reduction for side in size), self.control_channels))
        context = jnp.zeros((1, TOKENS, self.blocks.context_width))
        return jnp.zeros((1, *size, self.inputs)), jnp.zeros(1, jnp.int32), context, control

    def flops(self, image_size: Sequence[int], context_length: int = TOKENS) -> float:
        """Of one image, its stack and keys and values of the context among them; see `vit_jax.nn.flops`."""
        places = math.prod(image_size)
        total, skips = self.down_flops(places, context_length)
        total += sum(product_flops(here, width, width) for width, here in (*skips, skips[-1]))
        return total + self._stack(parent=None).flops(self.control_channels, places * self.reduction**2)

    def _stack(self, **owner: Any) -> HintStack:
        return HintStack(self.channels, self.hint_widths, self.blocks.style, **owner)


def together(residuals: Sequence[Residuals]) -> Residuals:
    """What several networks add to one U-Net.

    Raises:
        UserError: for networks of other sizes.
    """
    shapes = {tuple(map.shape for map in (*one.skips, one.middle)) for one in residuals}
    if len(shapes) != 1:
        raise UserError("These ControlNets belong to different U-Nets", "Use such as were trained with this U-Net")
    return jax.tree.map(lambda *maps: sum(maps[1:], maps[0]), *residuals)


def with_copies(params: Mapping[str, Any], unet: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a ControlNet in which those that it shares with a U-Net are the U-Net's, as its training begins.

    Raises:
        UserError: for a U-Net of another size.
    """
    copies = {name: value for name, value in unet.items() if name in params}
    shapes = [jax.tree.map(jnp.shape, {name: tree[name] for name in copies}) for tree in (params, unet)]
    missing = {name for name in params if name != _HINT and not name.startswith("zero_")} - copies.keys()
    if missing or shapes[0] != shapes[1]:
        raise UserError("The U-Net is not as large as the ControlNet's copy of it", "Give both the same arguments")
    return {**params, **copies}


def build(
    *,
    inputs: Count = 4,
    channels: Count = 320,
    multipliers: Sequence[Count] = (1, 2, 4, 4),
    num_blocks: Count = 2,
    attention_levels: Sequence[Natural] = (0, 1, 2),
    heads: Count | Sequence[Count] = 8,
    context_width: Count = 768,
    linear: bool = False,
    control_channels: Count = 3,
    hint_widths: Sequence[Count] = (16, 32, 96, 256),
    norm_groups: Count = 32,
    epsilon: Positive = 1e-5,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> ControlNet:
    """A ControlNet from values that JSON can hold; the defaults are those for Stable Diffusion 1.

    Args:
        inputs: see `vit_jax.models.conditional_unet.build`, like all arguments that both have.
        control_channels: of the image.
        hint_widths: of the convolutions that make a map of it; with each after the first the sides halve.

    Raises:
        UserError: for levels that are not there, or channels that do not divide.
    """
    check_levels(multipliers, attention_levels, channels, norm_groups)
    blocks = blocks_of(
        heads, len(multipliers), linear=linear, context_width=context_width, dropout_rate=0.0,
        norm_groups=norm_groups, epsilon=epsilon, dtype=dtype,
    )  # fmt: skip
    if not hint_widths:
        raise UserError("A control image passes at least one convolution", "Give hint_widths")
    return ControlNet(
        inputs, channels, tuple(multipliers), num_blocks, tuple(attention_levels), sine_first=False, shift=0,
        blocks=blocks, control_channels=control_channels, hint_widths=tuple(hint_widths),
    )  # fmt: skip
