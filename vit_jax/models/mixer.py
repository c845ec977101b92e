"""MLP-Mixer ("MLP-Mixer: an all-MLP architecture for vision", arXiv:2105.01601) and its published sizes."""

import dataclasses
from typing import Literal, Self

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.models.vit_variants import parse_size, resized
from vit_jax.nn.block import MlpBlock, drop_path, drops
from vit_jax.nn.dtype import compute_dtype
from vit_jax.nn.flops import product_flops
from vit_jax.nn.images import check_images
from vit_jax.nn.norm import LayerNorm
from vit_jax.nn.patch import PatchEmbed
from vit_jax.nn.stack import BlockStack, block_layers
from vit_jax.nn.style import Execution, Remat, check_rate, gelu_of
from vit_jax.nn.trunk import Classifier, Layers, Maps, Trunk
from vit_jax.ranges import Count, Decay, Natural, Positive


@dataclasses.dataclass(frozen=True)
class Variant:
    """The size of a Mixer, without its patch size."""

    width: int
    depth: int
    tokens_mlp_dim: int
    channels_mlp_dim: int


# MLP-Mixer, table 1.
VARIANTS = {
    "S": Variant(width=512, depth=8, tokens_mlp_dim=256, channels_mlp_dim=2048),
    "B": Variant(width=768, depth=12, tokens_mlp_dim=384, channels_mlp_dim=3072),
    "L": Variant(width=1024, depth=24, tokens_mlp_dim=512, channels_mlp_dim=4096),
    "H": Variant(width=1280, depth=32, tokens_mlp_dim=640, channels_mlp_dim=5120),
}
PUBLISHED = ("S/32", "S/16", "B/32", "B/16", "L/32", "L/16", "H/14")  # the same table


def parse_variant(variant: str) -> tuple[Variant, int]:
    """The size of a Mixer and its patch size, see `parse_size`."""
    return parse_size(variant, VARIANTS, "Mixer")


@dataclasses.dataclass(frozen=True)
class MixerStyle:
    """What a Mixer block computes.

    Args:
        tokens_mlp_dim: hidden width of the MLP over tokens, which all channels share.
        channels_mlp_dim: hidden width of the MLP over channels, which all tokens share.
        activation: of both MLPs, see `vit_jax.nn.activation.ACTIVATIONS`.
        norm_epsilon: of every layer norm.
    """

    tokens_mlp_dim: int
    channels_mlp_dim: int
    activation: str = "gelu_tanh"
    norm_epsilon: float = 1e-6


class MixerBlock(nn.Module):
    """x + MLP over the tokens of LN(x), then x + MLP over the channels of LN(x) (MLP-Mixer, equation 1).

    Parameters, float32: `norm1`, `token_mixing`, `norm2`, `channel_mixing`; the kernels of `token_mixing` have the
    number of tokens as a side, which ties a Mixer to one image size.
    """

    style: MixerStyle
    execution: Execution = Execution()

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t width"], cache: None = None, *, drop_path_rate: float | Float[Array, ""] = 0.0,
        train: bool = False,
    ) -> tuple[Float[Array, "b t width"], None]:  # fmt: skip
        """Applies the block; `drop_path_rate` is used in training (rng collection "drop_path")."""
        style, dtype = self.style, self.execution.dtype

        def mix(x: Array, mlp_dim: int, name: str) -> Array:
            initial = {"kernel_init": nn.initializers.lecun_normal(), "bias_init": nn.initializers.zeros}
            return MlpBlock(mlp_dim, dtype, activation=style.activation, **initial, name=name)(x, train=train)

        def maybe(y: Array) -> Array:
            if not drops(drop_path_rate, train):
                return y
            # The original does not divide the branches that stay by the probability that they do.
            kept = drop_path(y, drop_path_rate, self.make_rng("drop_path"))
            return kept * jnp.asarray(1.0 - drop_path_rate, y.dtype)

        y = LayerNorm(style.norm_epsilon, dtype, name="norm1")(x)
        x = x + maybe(mix(y.swapaxes(1, 2), style.tokens_mlp_dim, "token_mixing").swapaxes(1, 2))
        y = LayerNorm(style.norm_epsilon, dtype, name="norm2")(x)
        return x + maybe(mix(y, style.channels_mlp_dim, "channel_mixing")), None


class MixerEncoder(Trunk):
    """Patches, Mixer blocks and a final layer norm: the trunk `params["encoder"]`.

    Parameters, all float32 whatever the compute dtype: `embedding`, `block_00`, `block_01`, ..., `norm`.

    Attributes:
        patch_size: height and width of a patch in pixels.
        width: D.
        depth: number of blocks.
        style: what a block computes.
        execution: how the blocks are run.
        drop_path_rate: stochastic depth of the last block (rng collection "drop_path"), growing linearly from 0 in the
            first.
    """

    patch_size: tuple[int, int]
    width: int
    depth: int
    style: MixerStyle
    execution: Execution = Execution()
    drop_path_rate: float = 0.0

    def __post_init__(self):
        check_rate("drop_path_rate", self.drop_path_rate)
        super().__post_init__()

    def setup(self):
        self.blocks = BlockStack((self.style,), self.depth, self.drop_path_rate, self.execution, MixerBlock)
        nn.share_scope(self, self.blocks)

    @nn.compact
    def encode(self, images: Float[Array, "b h w c"], *, train: bool = False) -> tuple[Float[Array, "b t d"], Maps]:
        """See `Trunk`.

        Raises:
            UserError: when the patches do not tile the image, or are not as many as the parameters were made for.
        """
        check_images(images)
        dtype = self.execution.dtype
        x = PatchEmbed(self.width, self.patch_size, dtype, name="embedding")(images)
        grid = x.shape
        self._check_grid(grid[1:3])
        x, _ = self.blocks(x.reshape(x.shape[0], -1, self.width), train=train)
        x = LayerNorm(self.style.norm_epsilon, dtype, name="norm")(x)
        return x, {self.patch_size[0]: x.reshape(grid)}

    def layers(self) -> Layers:
        return (("embedding",), *block_layers(self.depth))

    def flops(self, image_size: tuple[int, int]) -> float:
        (height, width), patch = image_size, self.patch_size
        tokens = (height // patch[0]) * (width // patch[1])
        mixing = 2 * (self.style.tokens_mlp_dim + self.style.channels_mlp_dim)
        return product_flops(tokens, patch[0] * patch[1] * 3 + self.depth * mixing, self.width)

    def _check_grid(self, grid: tuple[int, int]) -> None:
        if not self.has_variable("params", "block_00"):
            return
        held = self.get_variable("params", "block_00")["token_mixing"]["fc1"]["kernel"].shape[0]
        if held != grid[0] * grid[1]:
            raise UserError(
                f"The images have {grid[0]}x{grid[1]} patches, but the parameters of this Mixer mix {held} tokens",
                "Use images of the size that it was trained with: a Mixer cannot change its resolution",
            )


class Mixer(Classifier):
    """An image classifier: a Mixer encoder, its tokens' mean, and a linear head that starts at zero."""

    @classmethod
    def from_variant(
        cls,
        variant: str = "B/16",
        *,
        num_classes: Natural,
        width: Count | None = None,
        depth: Count | None = None,
        tokens_mlp_dim: Count | None = None,
        channels_mlp_dim: Count | None = None,
        head_bias_init: float = 0.0,
        drop_path_rate: Decay = 0.0,
        dtype: Literal["float32", "bfloat16"] = "float32",
        gelu: Literal["tanh", "exact"] = "tanh",
        layer_norm_epsilon: Positive = 1e-6,
        scan: bool = False,
        remat: Remat = "none",
    ) -> Self:
        """A Mixer of a published size, from values that JSON can hold.

        Args:
            variant: size and patch size, e.g. "B/16", see `VARIANTS`.
            num_classes: see `Mixer`, like `head_bias_init`.
            width: replaces the variant's, like `depth` and the MLPs' widths, for sizes of one's own.
            drop_path_rate: see `MixerEncoder`.
            dtype: compute dtype by name; parameters are always float32.
            gelu: "tanh" or "exact".
            layer_norm_epsilon: of every layer norm.
            scan: see `vit_jax.nn.style.Execution`, like `remat`.

        Raises:
            UserError: for an unknown variant or value.
        """
        size, patch = parse_variant(variant)
        size = resized(size, width=width, depth=depth, tokens_mlp_dim=tokens_mlp_dim, channels_mlp_dim=channels_mlp_dim)
        encoder = MixerEncoder(
            patch_size=(patch, patch),
            width=size.width,
            depth=size.depth,
            style=MixerStyle(size.tokens_mlp_dim, size.channels_mlp_dim, gelu_of(gelu), layer_norm_epsilon),
            execution=Execution(compute_dtype(dtype), scan=scan, remat=remat),
            drop_path_rate=drop_path_rate,
            # Unowned, so that Mixer adopts it as `encoder` even when it is made inside another module's setup.
            parent=None,
        )
        return cls(encoder=encoder, num_classes=num_classes, head_bias_init=head_bias_init)


# What a config's model section calls, and what a checkpoint's metadata holds the arguments of.
build = Mixer.from_variant
