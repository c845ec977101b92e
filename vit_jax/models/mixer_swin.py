"""A Swin whose blocks mix their tokens in another way, to compare what windows and linear attention bring.

Everything but the mixing is that of Swin (arXiv:2103.14030): patches, stages, norms, MLPs. Attention among all tokens
has Swin's table of relative positions, for a window that is as large as the map. Linear attention is EfficientViT's
(arXiv:2205.14756) and knows positions only by its convolutions, which gather neighbours where it has several scales.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal, Self, get_args

import flax.linen as nn
from jaxtyping import Array, Float

from vit_jax.models.swin import Swin, SwinEncoder, SwinStage
from vit_jax.nn.block import Block
from vit_jax.nn.flops import product_flops
from vit_jax.nn.linear_attention import MultiScaleLinearAttention
from vit_jax.nn.mbconv import MobileStyle
from vit_jax.nn.style import check_choice
from vit_jax.nn.window_block import WindowStyle

Mixer = Literal["softmax", "window", "shifted", "linear", "multiscale"]

# Of a window that is as large as any map.
_WHOLE = 2**15
_SCALES = {"linear": (), "multiscale": (5,)}


class LinearBlock(Block):
    """A block whose tokens see all others by linear attention, see `MultiScaleLinearAttention`.

    Attributes beside those of `Block`:
        scales: of the convolutions that gather neighbours; () for none.
    """

    scales: tuple[int, ...] = ()

    def self_attention(
        self, y: Float[Array, "b t width"], cache: None, grid: tuple[int, int], *, train: bool, **others: Any
    ) -> tuple[Float[Array, "b t width"], None]:
        """The layer `attention`."""
        style = MobileStyle(dtype=self.execution.dtype)
        layer = MultiScaleLinearAttention(
            y.shape[-1] // self.style.num_heads, self.scales, style=style, name="attention"
        )
        return layer(y.reshape(y.shape[0], *grid, -1), train).reshape(y.shape), None


class PlainStage(SwinStage):
    """A stage of Swin in which no window is shifted."""

    @property
    def styles(self) -> tuple[WindowStyle, ...]:
        return (self.style,)


_STAGES: dict[str, Callable[..., nn.Module]] = {
    "softmax": SwinStage,
    "window": PlainStage,
    "shifted": SwinStage,
    **{name: functools.partial(PlainStage, block=functools.partial(LinearBlock, scales=scales))
       for name, scales in _SCALES.items()},
}  # fmt: skip


class MixerEncoder(SwinEncoder):
    """The trunk `params["encoder"]`; `scales` are those of its linear attention, None where it attends in windows."""

    scales: tuple[int, ...] | None = None

    def flops(self, image_size: tuple[int, int]) -> float:
        if self.scales is None:
            return super().flops(image_size)
        grids = self.grids(image_size)
        total = product_flops(math.prod(grids[0]), 3 * self.patch_size**2, self.width)
        for i, (grid, depth, style) in enumerate(zip(grids, self.depths, self.styles, strict=True)):
            width, places = self.width * 2**i, math.prod(grid)
            if i:
                total += product_flops(places, 2 * width, width)
            attention = MultiScaleLinearAttention(width // style.num_heads, self.scales, parent=None)
            total += depth * (attention.flops(width, grid) + 2 * product_flops(places, width, style.mlp_dim))
        return total


class MixerSwin(Swin):
    """An image classifier: the encoder, its last map's mean, and a linear head that starts at zero."""

    @classmethod
    def from_variant(cls, variant: str = "T", *, mixer: Mixer = "shifted", **swin: Any) -> Self:
        """A Swin of a published size, from values that JSON can hold.

        Args:
            variant: see `vit_jax.models.swin.Swin.from_variant`, like all others.
            mixer: "softmax" among all tokens, in a "window" that is never shifted, "shifted" (Swin), "linear", or
                "multiscale": linear at two scales, with neighbours gathered.

        Raises:
            UserError: for an unknown mixer.
        """
        check_choice("mixer", mixer, get_args(Mixer))
        if mixer == "softmax":
            swin = {**swin, "window_size": _WHOLE, "shrink_window": True}
        of_swin = Swin.from_variant(variant, **swin)
        values = {f.name: getattr(of_swin.encoder, f.name) for f in dataclasses.fields(SwinEncoder)}
        values |= {"stage": _STAGES[mixer], "scales": _SCALES.get(mixer), "parent": None, "name": None}
        encoder = MixerEncoder(**values)
        return cls(encoder=encoder, num_classes=of_swin.num_classes, head_bias_init=of_swin.head_bias_init)


# What a config's model section calls, and what a checkpoint's metadata holds the arguments of.
build = MixerSwin.from_variant
