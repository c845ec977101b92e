"""VGG-16 (Simonyan and Zisserman, arXiv:1409.1556, table 1, configuration D): what LPIPS measures with.

As timm has it: the fully connected layers are convolutions, the first of 7x7 places, and their results are averaged.
"""

from collections.abc import Sequence
from typing import Literal, Self

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from vit_jax.errors import UserError
from vit_jax.naming import nearest
from vit_jax.nn.conv import Conv
from vit_jax.nn.dtype import compute_dtype
from vit_jax.nn.flops import product_flops
from vit_jax.nn.images import check_images
from vit_jax.nn.trunk import Classifier, Layers, Maps, Trunk, logits
from vit_jax.ranges import Count, Natural

# Convolutions of each stage, and channels of the first.
VARIANTS = {"11": (1, 1, 2, 2, 2), "13": (2, 2, 2, 2, 2), "16": (2, 2, 3, 3, 3), "19": (2, 2, 4, 4, 4)}
PUBLISHED = tuple(VARIANTS)
_HE = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_SIDE = 7  # of the first fully connected layer


def stage_width(width: int, stage: int) -> int:
    """Channels of a stage, counted from 0, where the first has `width`."""
    return width * min(2**stage, 8)


class VGGEncoder(Trunk):
    """Stages of 3x3 convolutions with a max pooling after each: the trunk `params["encoder"]`.

    Parameters: `stage0_conv0`, `stage0_conv1`, `stage1_conv0`, ...

    Attributes:
        depths: convolutions of each stage.
        width: channels of the first stage; each has twice as many as the one before, at most eight times as many.
        dtype: dtype of the computation.
    """

    depths: tuple[int, ...]
    width: int = 64
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def encode(self, images: Float[Array, "b h w c"], *, train: bool = False) -> tuple[Float[Array, "b t d"], Maps]:
        """Tokens are the places after the last pooling; maps are those before each pooling, as LPIPS takes them.

        Raises:
            UserError: for images that a pooling would leave nothing of.
        """
        check_images(images)
        if min(images.shape[1:3]) < 2 ** len(self.depths):
            raise UserError(
                f"Images of {images.shape[1]}x{images.shape[2]} are too small for {len(self.depths)} poolings",
                f"Use at least {2 ** len(self.depths)} pixels",
            )
        x, maps = images.astype(self.dtype), {}
        for stage, depth in enumerate(self.depths):
            for i in range(depth):
                width = stage_width(self.width, stage)
                x = nn.relu(Conv(width, 3, dtype=self.dtype, kernel_init=_HE, name=f"stage{stage}_conv{i}")(x))
            maps[2**stage] = x
            x = nn.max_pool(x, (2, 2), (2, 2))
        return x.reshape(len(x), -1, x.shape[-1]), maps

    def layers(self) -> Layers:
        """One convolution each, see `Trunk.layers`."""
        return tuple((f"stage{s}_conv{i}",) for s, depth in enumerate(self.depths) for i in range(depth))

    def flops(self, image_size: tuple[int, int]) -> float:
        """See `Trunk.flops`."""
        total, channels, (height, width) = 0.0, 3, image_size
        for stage, depth in enumerate(self.depths):
            for _ in range(depth):
                total += product_flops(height * width, 9 * channels, stage_width(self.width, stage))
                channels = stage_width(self.width, stage)
            height, width = height // 2, width // 2
        return total


class VGG(Classifier):
    """An image classifier: the encoder, two layers of `hidden` outputs, their mean over places, and a linear head.

    Parameters: `encoder`; with `hidden` also `fc1`, of 7x7 places, and `fc2`; and `head` with classes. Images whose
    maps are smaller than 7x7 places are not for `hidden`.

    Attributes:
        hidden: 0 for the mean of the encoder's places themselves.
    """

    hidden: int = 4096

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w c"], *, train: bool = False, maps: bool = False
    ) -> dict[str, Array | Maps]:
        """See `Classifier`. With `maps` and without a head nothing behind the maps is in the parameters."""
        tokens, found = self.tokens_of(images, train)
        places = tokens
        if self.hidden:
            rows, columns = (side // 2 ** len(self.encoder.depths) for side in images.shape[1:3])
            if min(rows, columns) < _SIDE:
                raise UserError(
                    f"Images of {images.shape[1]}x{images.shape[2]} are too small for VGG's fully connected layers",
                    f"Use at least {_SIDE * 2 ** len(self.encoder.depths)} pixels, or hidden=0",
                )
            x = tokens.reshape(-1, rows, columns, tokens.shape[-1])
            dtype = self.encoder.dtype
            x = nn.relu(Conv(self.hidden, _SIDE, padding=0, dtype=dtype, kernel_init=_HE, name="fc1")(x))
            x = nn.relu(Conv(self.hidden, 1, dtype=dtype, kernel_init=_HE, name="fc2")(x))
            places = x.reshape(len(x), -1, self.hidden)
        features = places.mean(axis=1, dtype=jnp.float32)
        answer = {"features": features, **logits(features, self.num_classes, bias=self.head_bias_init)}
        return {"tokens": tokens, **answer} | ({"maps": found} if maps else {})

    def layers(self) -> Layers:
        """See `Trunk.layers`."""
        return super().layers() + ((("fc1",), ("fc2",)) if self.hidden else ())

    def flops(self, image_size: tuple[int, int]) -> float:
        """See `Trunk.flops`."""
        if not self.hidden:
            return self.encoder.flops(image_size)
        rows, columns = (side // 2 ** len(self.encoder.depths) - _SIDE + 1 for side in image_size)
        inputs = _SIDE**2 * stage_width(self.encoder.width, len(self.encoder.depths) - 1)
        return self.encoder.flops(image_size) + sum(
            product_flops(rows * columns, channels, self.hidden) for channels in (inputs, self.hidden)
        )

    @classmethod
    def from_variant(
        cls,
        variant: str | int = "16",
        *,
        num_classes: Natural = 0,
        depths: Sequence[Count] | None = None,
        width: Count = 64,
        hidden: Natural = 4096,
        dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> Self:
        """A network of a published depth, from values that JSON can hold.

        Args:
            variant: "11", "13", "16" or "19".
            num_classes: see `VGG`, like `hidden`.
            depths: convolutions of each stage, instead of the variant's.
            width: see `VGGEncoder`.
            dtype: compute dtype by name; parameters are always float32.

        Raises:
            UserError: for an unknown variant.
        """
        if str(variant) not in VARIANTS:
            raise UserError(f"There is no VGG named {variant!r}", nearest(str(variant), VARIANTS))
        depths = tuple(depths or VARIANTS[str(variant)])
        encoder = VGGEncoder(depths, width, compute_dtype(dtype), parent=None)
        return cls(encoder=encoder, num_classes=num_classes, hidden=hidden)


# What a config's model section calls, and what a checkpoint's metadata holds the arguments of.
build = VGG.from_variant
