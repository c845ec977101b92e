"""A ViT of any aspect ratio: NaFlex of SigLIP 2 (Tschannen et al., arXiv:2502.14786, section 2.4.2).

An image comes as a row of patches, as many as its height and width make, filled up to the length of all rows; how many
rows and columns they were comes beside it. Learned positions of a square grid are resized to each image's own.
Parameters are those of a `vit` for the square image that the grid makes, so that the weights of one are the other's.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vit_jax.errors import UserError
from vit_jax.models import vit
from vit_jax.models.vit import ViT, ViTEncoder
from vit_jax.naming import check_keys
from vit_jax.nn.norm import NORMS
from vit_jax.nn.patch import PatchEmbed
from vit_jax.nn.pool import MAPHead, mean_of_tokens
from vit_jax.nn.style import check_choice
from vit_jax.nn.trunk import Maps, logits
from vit_jax.ranges import Count, Natural

Pooling = Literal["map", "mean"]


def patches_there(shapes: Int[Array, "b 2"], length: int) -> Bool[Array, "b n"]:
    """Which of so many places hold a patch of their image."""
    return jnp.arange(length) < shapes.prod(axis=1, keepdims=True)


def resized_positions(
    positions: Float[Array, "gh gw width"], shapes: Int[Array, "b 2"], length: int
) -> Float[Array, "b n width"]:
    """Positions for each image's own grid, row by row, then those of its first patch where there is none.

    Bilinear in the convention of image resizing, and averaging where a grid is smaller: PyTorch's `interpolate` with
    antialias, as transformers does.

    Args:
        shapes: rows and columns of the patches of each image; may be traced.
        length: of the rows of patches.
    """
    there = patches_there(shapes, length)
    number = jnp.where(there, jnp.arange(length), 0)
    columns = shapes[:, 1:]
    of_row = _weights(number // columns, shapes[:, :1], positions.shape[0])
    of_column = _weights(number % columns, columns, positions.shape[1])
    # One matrix product for all images, of which no array holds the width more than once.
    weights = (of_row[..., :, None] * of_column[..., None, :]).reshape(*number.shape, -1)
    return jnp.matmul(weights, positions.reshape(-1, positions.shape[-1]), precision="highest")


def _weights(at: Int[Array, "b n"], size: Int[Array, "b 1"], of: int) -> Float[Array, "b n of"]:
    """How much of each of `of` places is in place number `at` of `size`."""
    scale = of / size.astype(jnp.float32)
    centre = (at + 0.5) * scale
    far = jnp.abs(jnp.arange(of) + 0.5 - centre[..., None]) / jnp.maximum(scale, 1)[..., None]
    weights = jnp.maximum(1 - far, 0)
    return weights / weights.sum(-1, keepdims=True)


class NaFlexEncoder(ViTEncoder):
    """`ViTEncoder` of rows of patches.

    Attributes:
        grid_size: rows and columns of the learned positions.
    """

    grid_size: tuple[int, int] = (16, 16)

    @nn.compact
    def encode(
        self, patches: Float[Array, "b n pixels"], shapes: Int[Array, "b 2"], *, train: bool = False
    ) -> tuple[Float[Array, "b n width"], Maps]:
        """Encodes normalised patches; no token attends to a place that holds none. There are no maps.

        Args:
            patches: each in the order (row, column, channel), row by row of its image.
            shapes: how many rows and columns each image has.

        Raises:
            UserError: for patches of another size.
        """
        (height, width), (batch, length, pixels) = self.patch_size, patches.shape
        if pixels != height * width * 3:
            raise UserError(
                f"Patches of {height}x{width} pixels have {height * width * 3} values, these have {pixels}",
                "Set the patch_size of the field 'naflex' to the model's",
            )
        dtype = self.execution.dtype
        column = patches.reshape(batch, length * height, width, 3)  # one patch below the other
        x = PatchEmbed(self.width, self.patch_size, dtype, self.patch_bias, name="embedding")(column)[:, :, 0]
        stddev = nn.initializers.normal(self.positions.posemb_stddev)
        positions = self.param("pos_embedding", stddev, (*self.grid_size, self.width))
        x = x + resized_positions(positions, shapes, length).astype(dtype)
        x = nn.Dropout(self.style.dropout_rate)(x, deterministic=not train)
        x, _ = self.blocks(x, train=train, mask=patches_there(shapes, length)[:, None, None])
        return NORMS[self.style.norm_kind](self.style.norm_epsilon, dtype, name="norm")(x), {}


class NaFlex(ViT):
    """`ViT` of rows of patches, with the pooling "map" or "mean" of those that are there.

    Raises:
        UserError: for another pooling.
    """

    def __post_init__(self):
        check_choice("pooling", self.pooling, get_args(Pooling))
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "b n pixels"],
        shapes: Int[Array, "b 2"] | None = None,
        *,
        train: bool = False,
        maps: bool = False,
    ) -> dict[str, Any]:
        """As `Classifier`, of patches; see `NaFlexEncoder.encode`.

        Raises:
            UserError: without the shapes, or for maps.
        """
        if shapes is None or maps:
            what = "gives no maps" if maps else "needs to know how many rows and columns of patches an image has"
            raise UserError(f"A model of any aspect ratio {what}", "Use the field 'naflex', or a model 'vit'")
        tokens, _ = self.encoder.encode(images, shapes, train=train)
        there = patches_there(shapes, images.shape[1])
        if self.pooling == "map":
            pool = MAPHead(self.encoder.style, self.encoder.execution, name="pool")
            features = pool(tokens, there[:, None, None]).astype(jnp.float32)
        else:
            features = mean_of_tokens(tokens, there)
        return {"tokens": tokens, "features": features, **logits(features, self.num_classes, bias=self.head_bias_init)}

    def example_inputs(self, image_size: Sequence[int] | None) -> tuple[Float[Array, "1 1 pixels"], Int[Array, "1 2"]]:
        """An image of one patch, see `vit_jax.nn.example_inputs`."""
        del image_size
        height, width = self.encoder.patch_size
        return jnp.zeros((1, 1, height * width * 3)), jnp.ones((1, 2), jnp.int32)

    def patch_flops(self, length: int) -> float:
        """Floating point operations of one image of so many places."""
        return self.encoder.flops((length * self.encoder.patch_size[0], self.encoder.patch_size[1]))


def build(
    *,
    num_classes: Natural,
    variant: str = "B/16",
    grid: Count = 16,
    pooling: Pooling = "map",
    **arguments: Any,
) -> NaFlex:
    """A ViT of any aspect ratio, from values that JSON can hold.

    Args:
        num_classes: see `vit_jax.models.vit.ViT`.
        variant: size and patch size, e.g. "B/16".
        grid: rows and columns of the learned positions; 16 in SigLIP 2.
        pooling: see `NaFlex`.
        arguments: others of `vit_jax.models.vit.ViT.from_variant`; there are no tokens before the patches.

    Raises:
        UserError: for an unknown variant, value or argument.
    """
    check_keys(arguments, KEYS, "config.model")
    made = ViT.from_variant(variant, num_classes=num_classes, pooling=pooling, **arguments)
    of_encoder = {name: getattr(made.encoder, name) for name in ViTEncoder.__dataclass_fields__ if name not in _FLAX}
    of_model = {name: getattr(made, name) for name in ViT.__dataclass_fields__ if name not in (*_FLAX, "encoder")}
    encoder = NaFlexEncoder(**of_encoder, grid_size=(grid, grid), parent=None)
    return NaFlex(encoder=encoder, **of_model)


_FLAX = ("parent", "name")
_LEFT_OUT = ("class_token", "class_token_posemb", "distillation_token", "num_registers", "posemb", "fc_norm",
             "representation_size", "embedding_norm", "variant", "num_classes", "pooling", "underlying_patch",
             "underlying_grid")  # fmt: skip
KEYS = ("num_classes", "variant", "grid", "pooling", *(key for key in vit.KEYS if key not in _LEFT_OUT))
