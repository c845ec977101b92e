"""EfficientViT-SAM: SAM with EfficientViT in place of its ViT (Zhang et al., arXiv:2402.05008).

Only the encoder is new: a neck makes one map of EfficientViT's last three, for the prompts and the mask decoder of SAM.
are counted in SAM's frame of 1024 pixels, also where the image has 512. Sizes as in the authors' code
(github.com/mit-han-lab/efficientvit, models/efficientvit/sam.py).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.models import efficientvit
from vit_jax.models.sam import Sam, prompts_and_decoder
from vit_jax.naming import nearest
from vit_jax.nn.conv import Conv, ConvImplementation
from vit_jax.nn.dtype import compute_dtype
from vit_jax.nn.flops import product_flops
from vit_jax.nn.map_fusion import MapFusion
from vit_jax.nn.mbconv import MobileStyle
from vit_jax.nn.norm import LayerNorm
from vit_jax.nn.style import Execution
from vit_jax.nn.trunk import Maps
from vit_jax.ranges import Count, Decay, Natural, Positive


class Size(NamedTuple):
    """A published network: the strides that its neck takes, the neck's blocks and their expansion, and the side of its
    images in pixels."""

    strides: tuple[int, int, int]
    depth: int
    expand_ratio: float
    image_size: int


VARIANTS = {
    "L0": Size((32, 16, 8), 4, 1, 512),
    "L1": Size((32, 16, 8), 8, 1, 512),
    "L2": Size((32, 16, 8), 12, 1, 512),
    "XL0": Size((64, 32, 16), 6, 4, 1024),
    "XL1": Size((64, 32, 16), 12, 4, 1024),
}


class EfficientViTSamNeck(nn.Module):
    """Three maps made one, of as many places as SAM's decoder takes.

    Parameters: `fusion`, see `vit_jax.nn.map_fusion.MapFusion`, `project` and `norm`; statistics of the norms within
    `fusion` in the collection "batch_stats".

    Attributes:
        strides: see `MapFusion`, like `depth`, `expand_ratio`, `size` and `style`.
        fused_width: `MapFusion.width`.
        width: channels that come out.
    """

    strides: tuple[int, ...]
    depth: int
    expand_ratio: float
    size: tuple[int, int] = (64, 64)
    fused_width: int = 256
    width: int = 256
    style: MobileStyle = MobileStyle("gelu_tanh", 1e-6)

    @nn.compact
    def __call__(self, maps: Maps, train: bool = False) -> Float[Array, "b h w width"]:
        """The image's embedding."""
        x = self._fusion(name="fusion")(maps, train)
        init = nn.initializers.truncated_normal(0.02)
        x = Conv(self.width, 1, dtype=self.style.dtype, kernel_init=init, name="project")(x)
        return LayerNorm(self.style.norm_epsilon, self.style.dtype, name="norm")(x)

    def flops(self, maps: Mapping[int, tuple[int, int, int]]) -> float:
        """See `MapFusion.flops`."""
        fused = self._fusion(parent=None).flops(maps)
        return fused + product_flops(self.size[0] * self.size[1], self.fused_width, self.width)

    def _fusion(self, **named: str | None) -> MapFusion:
        return MapFusion(
            self.strides, self.fused_width, self.depth, "fmb", self.expand_ratio, self.size, self.style, **named
        )


def build(
    variant: str = "L0",
    *,
    num_classes: Natural = 0,
    widths: Sequence[Count] | None = None,
    depths: Sequence[Natural] | None = None,
    head_width: Count | None = None,
    neck_width: Count = 256,
    neck_depth: Natural | None = None,
    neck_expand_ratio: Positive | None = None,
    embedding_size: Count = 64,
    stride: Count = 16,
    width: Count = 256,
    decoder_depth: Count = 2,
    decoder_heads: Count = 8,
    decoder_mlp_dim: Count = 2048,
    mask_channels: Count = 16,
    iou_hidden: Count = 256,
    text_width: Natural = 0,
    norm_epsilon: Positive = 1e-6,
    attention_epsilon: Positive = 1e-15,
    drop_path_rate: Decay = 0.0,
    zero_init: bool = True,
    conv_implementation: ConvImplementation = "auto",
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> Sam:
    """A network of a published size, from values that JSON can hold.

    Args:
        variant: "L0" to "L2", "XL0" or "XL1", see `VARIANTS`.
        widths: of the trunk, see `vit_jax.models.efficientvit.build`, like `depths`, `head_width`,
            `attention_epsilon`, `drop_path_rate`, `zero_init` and `conv_implementation`.
        neck_width: see `EfficientViTSamNeck.fused_width`.
        neck_depth: blocks of the neck, instead of the variant's, like `neck_expand_ratio`.
        embedding_size: rows and columns of the embedding, whatever the image's.
        stride: see `vit_jax.models.sam.Sam`: the frame of points has `stride * embedding_size` pixels a side.
        width: see `vit_jax.models.sam.build`, like the arguments of the decoder up to `text_width`.
        norm_epsilon: of all norms, also of the decoder's: the authors set it, where SAM has 1e-5.
        dtype: compute dtype by name; parameters and statistics are always float32.

    Raises:
        UserError: for an unknown variant or value.
    """
    name = str(variant).upper()
    if name not in VARIANTS:
        raise UserError(f"There is no EfficientViT-SAM named {variant!r}", nearest(name, VARIANTS))
    if num_classes:
        raise UserError(
            "SAM has no head for classes", "Leave out num_classes; its encoder can be fine-tuned as efficientvit"
        )
    size = VARIANTS[name]
    encoder = efficientvit.build(
        name, num_classes=0, widths=widths, depths=depths, head_width=head_width, head_widths=(),
        norm_epsilon=norm_epsilon, attention_epsilon=attention_epsilon, drop_path_rate=drop_path_rate,
        zero_init=zero_init, conv_implementation=conv_implementation, dtype=dtype,
    ).encoder  # fmt: skip
    neck = EfficientViTSamNeck(
        size.strides,
        size.depth if neck_depth is None else neck_depth,
        neck_expand_ratio or size.expand_ratio,
        (embedding_size, embedding_size),
        neck_width,
        width,
        encoder.style,
        parent=None,
    )
    prompts, decoder = prompts_and_decoder(
        width, decoder_depth, decoder_heads, decoder_mlp_dim, mask_channels, iou_hidden, text_width, norm_epsilon,
        Execution(dtype=compute_dtype(dtype)),
    )  # fmt: skip
    return Sam(encoder.clone(parent=None), neck, prompts, decoder, stride)


def downstream(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The section of the model that goes on from this one's encoder."""
    trunk = ("variant", "widths", "depths", "head_width", "attention_epsilon")
    own = {key: kwargs[key] for key in trunk if key in kwargs}
    epsilon = kwargs.get("norm_epsilon", 1e-6)
    return {"name": "efficientvit", "variant": "L0", **own, "head_widths": (), "norm_epsilon": epsilon}
