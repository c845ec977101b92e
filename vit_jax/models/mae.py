"""Masked autoencoders: He et al., "Masked autoencoders are scalable vision learners" (arXiv:2111.06377).

The encoder of a ViT sees a quarter of the patches. A lighter decoder gets their tokens and, for each patch that was
left out, a learned mask token, and predicts the pixels of every patch (section 3). Downstream the decoder is thrown
away: as a model for images this is the encoder, `features` are what its pooling gives.
"""

from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int

from vit_jax.errors import UserError
from vit_jax.models.vit import ViT, ViTEncoder
from vit_jax.naming import build_named
from vit_jax.nn.attention import Implementation
from vit_jax.nn.norm import LayerNorm
from vit_jax.nn.pool import pool_tokens
from vit_jax.nn.posemb import SINCOS2D, sincos2d
from vit_jax.nn.stack import BlockStack, Remat


class Decoder(nn.Module):
    """From tokens of visible patches to the pixels of all patches.

    Parameters, float32: `embedding` with kernel [D, width], `mask_token` [1, 1, width], `block_00`, ..., `norm`, and
    `prediction` with kernel [width, pixels]. Positions are a fixed table.

    Attributes:
        width: of the decoder's tokens.
        depth: number of blocks.
        num_heads: attention heads.
        pixels: values to predict of a patch.
        posemb: dialect of the positions, see `vit_jax.nn.posemb.SINCOS2D`.
        dtype: dtype of the computation.
        gelu: see `EncoderBlock`, like `layer_norm_epsilon` and `attention_implementation`.
        scan: see `BlockStack`, like `remat`.
    """

    width: int
    depth: int
    num_heads: int
    pixels: int
    posemb: str = "sincos2d_mae"
    dtype: DTypeLike = jnp.float32
    gelu: Literal["tanh", "exact"] = "exact"
    layer_norm_epsilon: float = 1e-6
    attention_implementation: Implementation = "auto"
    scan: bool = False
    remat: Remat = "none"

    def setup(self):
        self.blocks = BlockStack(
            depth=self.depth,
            num_heads=self.num_heads,
            mlp_dim=4 * self.width,
            dtype=self.dtype,
            gelu=self.gelu,
            layer_norm_epsilon=self.layer_norm_epsilon,
            attention_implementation=self.attention_implementation,
            scan=self.scan,
            remat=self.remat,
        )
        nn.share_scope(self, self.blocks)

    @nn.compact
    def __call__(
        self, prefix: Float[Array, "b p d"], visible: Float[Array, "b k d"], order: Int[Array, "b n"],
        grid: tuple[int, int], train: bool,
    ) -> Float[Array, "b n pixels"]:  # fmt: skip
        """Predicts all patches, in the order of the image.

        Args:
            prefix: tokens that stand for no patch, such as the class token. They get no position.
            visible: tokens of the patches `order[:, :k]`.
            order: for each image a permutation of its patches, the visible ones first.
            grid: rows and columns of patches.
        """
        embedding = nn.Dense(self.width, dtype=self.dtype, name="embedding")
        mask_token = self.param("mask_token", nn.initializers.normal(0.02), (1, 1, self.width)).astype(self.dtype)
        tokens = embedding(jnp.concatenate([prefix, visible], axis=1))
        count, hidden = prefix.shape[1], order.shape[1] - visible.shape[1]
        masked = jnp.broadcast_to(mask_token, (tokens.shape[0], hidden, self.width))
        patches = jnp.concatenate([tokens[:, count:], masked], axis=1)
        # Where in `order` each patch of the image is.
        place = jnp.argsort(order, axis=1)
        patches = jnp.take_along_axis(patches, place[..., None], axis=1)
        positions = jnp.asarray(sincos2d(grid, self.width, **SINCOS2D[self.posemb])).reshape(-1, self.width)
        x = jnp.concatenate([tokens[:, :count], patches + positions.astype(self.dtype)], axis=1)
        x = self.blocks(x, train=train)
        x = LayerNorm(self.layer_norm_epsilon, self.dtype, name="norm")(x[:, count:])
        return nn.Dense(self.pixels, dtype=self.dtype, name="prediction")(x)


class MaskedAutoencoder(nn.Module):
    """An encoder, and a decoder that is used in pretraining only.

    Parameters: `encoder` and `decoder`.

    Attributes:
        encoder: of a ViT.
        decoder: see `Decoder`.
        pooling: "token" for the class token or "mean" for the mean of the patches, as `features`.
    """

    encoder: ViTEncoder
    decoder: Decoder
    pooling: Literal["token", "mean"] = "token"

    def __call__(self, images: Float[Array, "b h w c"], *, train: bool = False) -> dict[str, Array]:
        """The encoder's view of whole images: "tokens" [B, T, D] and "features" [B, D] float32."""
        if self.is_initializing():
            patches = self._grid(images)[0] * self._grid(images)[1]
            order = jnp.broadcast_to(jnp.arange(patches), (images.shape[0], patches))
            self.reconstruct(images, order, patches, train=train)
        tokens = self.encoder(images, train=train)
        features = pool_tokens(tokens, self.pooling, self.encoder.num_prefix_tokens)
        return {"tokens": tokens, "features": features.astype(jnp.float32)}

    def reconstruct(
        self, images: Float[Array, "b h w c"], order: Int[Array, "b n"], visible: int, *, train: bool = False
    ) -> Float[Array, "b n pixels"]:
        """What the decoder makes of the first `visible` patches of `order`: float32 pixels of all n patches.

        Args:
            images: normalised.
            order: for each image a permutation of its patches, which are numbered row by row.
            visible: how many of them the encoder sees.
        """
        tokens = self.encoder(images, train=train, keep=order[:, :visible])
        count = self.encoder.num_prefix_tokens
        pixels = self.decoder(tokens[:, :count], tokens[:, count:], order, self._grid(images), train)
        return pixels.astype(jnp.float32)

    def _grid(self, images: Float[Array, "b h w c"]) -> tuple[int, int]:
        height, width = self.encoder.patch_size
        return images.shape[1] // height, images.shape[2] // width


def build(
    trunk: Mapping[str, Any],
    *,
    num_classes: int = 0,
    decoder_width: int = 512,
    decoder_depth: int = 8,
    decoder_heads: int = 16,
) -> MaskedAutoencoder:
    """From the model section of the ViT whose encoder it is; the defaults are the paper's decoder (table 1).

    Raises:
        UserError: when the trunk is no plain ViT, or has something behind its encoder.
    """
    vit = build_named("model", trunk, "config.model", num_classes=0)
    if num_classes:
        raise UserError("A masked autoencoder has no head", "Fine-tune its encoder as a vit, with config.init_from")
    if not isinstance(vit, ViT) or vit.encoder.stem is not None:
        raise UserError(
            f"The model '{trunk.get('name')}' is no trunk for a masked autoencoder", "Use config.model.name=vit"
        )
    if vit.pooling not in ("token", "mean") or vit.representation_size is not None or vit.fc_norm:
        raise UserError(
            "A masked autoencoder pools the tokens of its encoder by 'token' or 'mean' and has nothing behind that",
            "Leave out representation_size and fc_norm, and set config.model.pooling=token or mean",
        )
    if decoder_width % decoder_heads:
        raise UserError(
            f"{decoder_heads} heads do not share a decoder of width {decoder_width}",
            "Set config.task.decoder_heads to a divisor of config.task.decoder_width",
        )
    encoder = vit.encoder
    decoder = Decoder(
        width=decoder_width,
        depth=decoder_depth,
        num_heads=decoder_heads,
        pixels=encoder.patch_size[0] * encoder.patch_size[1] * 3,
        dtype=encoder.dtype,
        gelu=encoder.gelu,
        layer_norm_epsilon=encoder.layer_norm_epsilon,
        attention_implementation=encoder.attention_implementation,
        scan=encoder.scan,
        remat=encoder.remat,
        parent=None,
    )
    return MaskedAutoencoder(encoder=encoder.clone(parent=None), decoder=decoder, pooling=vit.pooling)


def downstream(kwargs: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and arguments of the model that goes on from this one's encoder."""
    trunk = dict(kwargs["trunk"])
    return trunk.pop("name"), trunk
