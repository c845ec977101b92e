"""MLP-Mixer ("MLP-Mixer: an all-MLP architecture for vision", arXiv:2105.01601) and its published sizes."""

import dataclasses
from typing import Literal, Self

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from vit_jax.errors import UserError
from vit_jax.naming import nearest
from vit_jax.nn.block import MlpBlock, drop_path
from vit_jax.nn.dtype import compute_dtype
from vit_jax.nn.images import check_images
from vit_jax.nn.norm import LayerNorm
from vit_jax.nn.patch import PatchEmbed
from vit_jax.nn.stack import drop_path_rates
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


def parse_variant(variant: str) -> tuple[Variant, int]:
    """The size and the patch size in pixels that a name such as "B/16" stands for.

    Raises:
        UserError: for a name that is not SIZE/PATCH with a known size; it names the nearest right one.
    """
    size, _, patch = str(variant).partition("/")
    patch_is_valid = patch.isascii() and patch.isdigit() and int(patch) > 0
    if size.upper() not in VARIANTS or not patch_is_valid:
        known = [f"{name}/{patch if patch_is_valid else 16}" for name in VARIANTS]
        raise UserError(f"There is no Mixer '{variant}'", nearest(variant, known))
    return VARIANTS[size.upper()], int(patch)


class MixerBlock(nn.Module):
    """x + MLP over the tokens of LN(x), then x + MLP over the channels of LN(x) (MLP-Mixer, equation 1).

    Parameters, float32: `norm1`, `token_mixing`, `norm2`, `channel_mixing`; the kernels of `token_mixing` have the
    number of tokens as a side, which ties a Mixer to one image size.

    Attributes:
        tokens_mlp_dim: hidden width of the MLP over tokens, which all channels share.
        channels_mlp_dim: hidden width of the MLP over channels, which all tokens share.
        drop_path_rescale: divide the branches that stay by the probability that they do.
        dtype: dtype of the computation and of the residual stream.
        gelu: see `vit_jax.nn.block.MlpBlock`.
        layer_norm_epsilon: added to the variance.
    """

    tokens_mlp_dim: int
    channels_mlp_dim: int
    drop_path_rescale: bool = False
    dtype: DTypeLike = jnp.float32
    gelu: Literal["tanh", "exact"] = "tanh"
    layer_norm_epsilon: float = 1e-6

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t width"], drop_path_rate: float = 0.0, train: bool = False
    ) -> Float[Array, "b t width"]:
        """Applies the block; `drop_path_rate` is used in training (rng collection "drop_path")."""

        def mix(x: Array, mlp_dim: int, name: str) -> Array:
            initial = {"kernel_init": nn.initializers.lecun_normal(), "bias_init": nn.initializers.zeros}
            return MlpBlock(mlp_dim, self.dtype, gelu=self.gelu, **initial, name=name)(x, train=train)

        def maybe(y: Array) -> Array:
            if not train or drop_path_rate == 0:
                return y
            kept = 1.0 if self.drop_path_rescale else 1.0 - drop_path_rate
            return drop_path(y, drop_path_rate, self.make_rng("drop_path")) * jnp.asarray(kept, y.dtype)

        y = LayerNorm(self.layer_norm_epsilon, self.dtype, name="norm1")(x)
        x = x + maybe(mix(y.swapaxes(1, 2), self.tokens_mlp_dim, "token_mixing").swapaxes(1, 2))
        y = LayerNorm(self.layer_norm_epsilon, self.dtype, name="norm2")(x)
        return x + maybe(mix(y, self.channels_mlp_dim, "channel_mixing"))


class MixerEncoder(nn.Module):
    """Patches, Mixer blocks and a final layer norm: the trunk `params["encoder"]`.

    Parameters, all float32 whatever the compute dtype: `embedding`, `block_00`, `block_01`, ..., `norm`.

    Attributes:
        patch_size: height and width of a patch in pixels.
        width: D.
        depth: number of blocks.
        tokens_mlp_dim: see `MixerBlock`, like `channels_mlp_dim` and `drop_path_rescale`.
        drop_path_rate: stochastic depth of the last block (rng collection "drop_path"), growing linearly from 0 in the
            first.
        dtype: dtype of the computation, of the residual stream and of the tokens.
        gelu: "tanh" or "exact", see `vit_jax.nn.block.MlpBlock`.
        layer_norm_epsilon: of every layer norm.
    """

    patch_size: tuple[int, int]
    width: int
    depth: int
    tokens_mlp_dim: int
    channels_mlp_dim: int
    drop_path_rate: float = 0.0
    drop_path_rescale: bool = False
    dtype: DTypeLike = jnp.float32
    gelu: Literal["tanh", "exact"] = "tanh"
    layer_norm_epsilon: float = 1e-6

    def __post_init__(self):
        if not 0.0 <= self.drop_path_rate < 1.0:
            raise UserError(f"drop_path_rate is {self.drop_path_rate}", "Use a rate of at least 0 and below 1")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b t width"]:
        """Encodes normalised images.

        Raises:
            UserError: when the patches do not tile the image, or are not as many as the parameters were made for.
        """
        check_images(images)
        x = PatchEmbed(self.width, self.patch_size, self.dtype, name="embedding")(images)
        self._check_grid(x.shape[1:3])
        x = x.reshape(x.shape[0], -1, self.width)
        for i, rate in enumerate(drop_path_rates(self.drop_path_rate, self.depth)):
            block = MixerBlock(
                tokens_mlp_dim=self.tokens_mlp_dim,
                channels_mlp_dim=self.channels_mlp_dim,
                drop_path_rescale=self.drop_path_rescale,
                dtype=self.dtype,
                gelu=self.gelu,
                layer_norm_epsilon=self.layer_norm_epsilon,
                name=f"block_{i:02d}",
            )
            x = block(x, rate, train)
        return LayerNorm(self.layer_norm_epsilon, self.dtype, name="norm")(x)

    def _check_grid(self, grid: tuple[int, int]) -> None:
        if not self.has_variable("params", "block_00"):
            return
        held = self.get_variable("params", "block_00")["token_mixing"]["fc1"]["kernel"].shape[0]
        if held != grid[0] * grid[1]:
            raise UserError(
                f"The images have {grid[0]}x{grid[1]} patches, but the parameters of this Mixer mix {held} tokens",
                "Use images of the size that it was trained with: a Mixer cannot change its resolution",
            )


class Mixer(nn.Module):
    """An image classifier: a Mixer encoder, its tokens' mean, and a linear head that starts at zero.

    Parameters: `encoder`, and `head` with classes.

    Attributes:
        encoder: gives tokens [B, T, D], see `MixerEncoder`.
        num_classes: outputs of the head; 0 for no head.
        head_bias_init: initial bias of the head, e.g. -log(num_classes) with a sigmoid loss.
    """

    encoder: nn.Module
    num_classes: int
    head_bias_init: float = 0.0

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool = False) -> dict[str, Array]:
        """Classifies normalised images.

        Returns:
            "tokens" [B, T, D] after the encoder's final norm, in its dtype; "features" [B, D] float32, what the head
            sees; "logits" [B, num_classes] float32, absent when there is no head.
        """
        tokens = self.encoder(images, train=train)
        outputs = {"tokens": tokens, "features": tokens.mean(axis=1, dtype=jnp.float32)}
        if self.num_classes:
            bias = nn.initializers.constant(self.head_bias_init)
            head = nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, bias_init=bias, name="head")
            outputs["logits"] = head(outputs["features"])
        return outputs

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
        drop_path_rescale: bool = False,
        dtype: Literal["float32", "bfloat16"] = "float32",
        gelu: Literal["tanh", "exact"] = "tanh",
        layer_norm_epsilon: Positive = 1e-6,
    ) -> Self:
        """A Mixer of a published size, from values that JSON can hold.

        Args:
            variant: size and patch size, e.g. "B/16", see `VARIANTS`.
            num_classes: see `Mixer`, like `head_bias_init`.
            width: replaces the variant's, like `depth` and the MLPs' widths, for sizes of one's own.
            drop_path_rate: see `MixerEncoder`, like all that follow.
            dtype: compute dtype by name; parameters are float32 in any case.

        Raises:
            UserError: for an unknown variant or value.
        """
        size, patch = parse_variant(variant)
        own = {
            "width": width,
            "depth": depth,
            "tokens_mlp_dim": tokens_mlp_dim,
            "channels_mlp_dim": channels_mlp_dim,
        }
        size = dataclasses.replace(size, **{name: value for name, value in own.items() if value is not None})
        encoder = MixerEncoder(
            patch_size=(patch, patch),
            **dataclasses.asdict(size),
            drop_path_rate=drop_path_rate,
            drop_path_rescale=drop_path_rescale,
            dtype=compute_dtype(dtype),
            gelu=gelu,
            layer_norm_epsilon=layer_norm_epsilon,
            # Unowned, so that Mixer adopts it as `encoder` even when it is made inside another module's setup.
            parent=None,
        )
        return cls(encoder=encoder, num_classes=num_classes, head_bias_init=head_bias_init)


# What a config's model section calls, and what a checkpoint's metadata holds the arguments of.
build = Mixer.from_variant
