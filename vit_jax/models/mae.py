"""Masked autoencoders: He et al., "Masked autoencoders are scalable vision learners" (arXiv:2111.06377).

The encoder of a ViT sees a quarter of the patches. A lighter decoder gets their tokens and, for each patch that was
left out, a learned mask token, and predicts the pixels of every patch (section 3). Downstream the decoder is thrown
away: as a model for images this is the encoder, `features` are what its pooling gives.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.models.vit import ViT, ViTEncoder
from vit_jax.naming import build_named
from vit_jax.nn.flops import block_flops, product_flops
from vit_jax.nn.norm import LayerNorm
from vit_jax.nn.pool import pool_tokens
from vit_jax.nn.posemb import SINCOS2D, sincos2d
from vit_jax.nn.stack import BlockStack, block_layers
from vit_jax.nn.style import BlockStyle, Execution
from vit_jax.nn.trunk import Layers, Maps, below, side_by_side
from vit_jax.ranges import Count, Natural


class Decoder(nn.Module):
    """From tokens of visible patches to the pixels of all patches.

    Parameters, float32: `embedding` with kernel [D, width], `mask_token` [1, 1, width], `block_00`, ..., `norm`, and
    `prediction` with kernel [width, pixels]. Positions are a fixed table.

    Attributes:
        width: of the decoder's tokens.
        depth: number of blocks.
        style: what a block computes.
        pixels: values to predict of a patch.
        execution: how it runs.
    """

    width: int
    depth: int
    style: BlockStyle
    pixels: int
    execution: Execution = Execution()

    def setup(self):
        self.blocks = BlockStack((self.style,), self.depth, execution=self.execution)
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
        dtype = self.execution.dtype
        embedding = nn.Dense(self.width, dtype=dtype, name="embedding")
        mask_token = self.param("mask_token", nn.initializers.normal(0.02), (1, 1, self.width)).astype(dtype)
        tokens = embedding(jnp.concatenate([prefix, visible], axis=1))
        count, hidden = prefix.shape[1], order.shape[1] - visible.shape[1]
        masked = jnp.broadcast_to(mask_token, (tokens.shape[0], hidden, self.width))
        patches = jnp.concatenate([tokens[:, count:], masked], axis=1)
        # Where in `order` each patch of the image is.
        place = jnp.argsort(order, axis=1)
        patches = jnp.take_along_axis(patches, place[..., None], axis=1)
        positions = jnp.asarray(sincos2d(grid, self.width, **SINCOS2D["sincos2d_mae"])).reshape(-1, self.width)
        x = jnp.concatenate([tokens[:, :count], patches + positions.astype(dtype)], axis=1)
        x, _ = self.blocks(x, train=train)
        x = LayerNorm(self.style.norm_epsilon, dtype, name="norm")(x[:, count:])
        return nn.Dense(self.pixels, dtype=dtype, name="prediction")(x)


class MaskedAutoencoder(nn.Module):
    """An encoder, and a decoder that is used in pretraining only.

    Parameters: `encoder` and `decoder`.

    Attributes:
        encoder: of a ViT.
        decoder: see `Decoder`.
        pooling: "token" for the class token or "mean" for the mean of the patches, as `features`.
        mask_ratio: share of the patches that the encoder does not see in pretraining.
        normalize_pixels: what is predicted of a patch is in units of its own standard deviation, around its mean.
    """

    encoder: ViTEncoder
    decoder: Decoder
    pooling: Literal["token", "mean"] = "token"
    mask_ratio: float = 0.75
    normalize_pixels: bool = True

    def __call__(
        self, images: Float[Array, "b h w c"], *, train: bool = False, maps: bool = False
    ) -> dict[str, Array | Maps]:
        """The encoder's view of whole images: "tokens" [B, T, D], "features" [B, D] float32, and "maps" if asked."""
        if self.is_initializing():
            patches = math.prod(self.grid(images.shape[1:3]))
            order = jnp.broadcast_to(jnp.arange(patches), (images.shape[0], patches))
            self.reconstruct(images, order, train=train)
        tokens, found = self.encoder.encode(images, train=train)
        features = pool_tokens(tokens, self.pooling, self.encoder.tokens.count)
        return {"tokens": tokens, "features": features.astype(jnp.float32)} | ({"maps": found} if maps else {})

    def layers(self) -> Layers:
        """See `Trunk.layers`: two towers."""
        decoder = (("decoder/embedding", "decoder/mask_token"), *below("decoder", block_layers(self.decoder.depth)))
        return side_by_side(below("encoder", self.encoder.layers()), decoder)

    def flops(self, image_size: tuple[int, int]) -> float:
        """Of the encoder's view of a whole image, see `Trunk.flops`."""
        return self.encoder.flops(image_size)

    def pretraining_flops(self, image_size: tuple[int, int]) -> float:
        """Of pretraining with an image, forward: the visible patches through the encoder, all through the decoder."""
        decoder, width = self.decoder, self.encoder.width
        patches, prefix, visible = math.prod(self.grid(image_size)), self.encoder.tokens.count, self.visible(image_size)
        embedding = product_flops(visible + prefix, width, decoder.width)
        prediction = product_flops(patches, decoder.width, decoder.pixels)
        blocks = decoder.depth * block_flops(patches + prefix, decoder.width, decoder.style.mlp_dim)
        return self.encoder.flops(image_size, visible) + embedding + blocks + prediction

    def reconstruct(
        self, images: Float[Array, "b h w c"], order: Int[Array, "b n"], *, train: bool = False
    ) -> Float[Array, "b n pixels"]:
        """What the decoder makes of the first `visible` patches of `order`: float32 pixels of all n patches.

        Args:
            images: normalised.
            order: for each image a permutation of its patches, which are numbered row by row.
        """
        grid, count = self.grid(images.shape[1:3]), self.encoder.tokens.count
        tokens = self.encoder(images, train=train, keep=order[:, : self.visible(images.shape[1:3])])
        return self.decoder(tokens[:, :count], tokens[:, count:], order, grid, train).astype(jnp.float32)

    def grid(self, image_size: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.encoder.grid(image_size)

    def visible(self, image_size: Sequence[int]) -> int:
        """How many patches of an image the encoder sees.

        Raises:
            UserError: when that is none or all of them.
        """
        patches = math.prod(self.grid(image_size))
        visible = int(patches * (1 - self.mask_ratio))
        if not 0 < visible < patches:
            raise UserError(
                f"A mask_ratio of {self.mask_ratio} leaves {visible} of {patches} patches visible",
                "Use a larger image, smaller patches or another mask_ratio",
            )
        return visible


def random_orders(rng: PRNGKeyArray, batch: int, patches: int) -> Int[Array, "batch patches"]:
    """For each image a random permutation of its patches, by sorting noise (section 3, "simple implementation")."""
    return jnp.argsort(jax.random.uniform(rng, (batch, patches)), axis=1)


def build(
    trunk: Mapping[str, Any],
    *,
    num_classes: Natural = 0,
    mask_ratio: float = 0.75,
    normalize_pixels: bool = True,
    decoder_width: Count = 512,
    decoder_depth: Count = 8,
    decoder_heads: Count = 16,
) -> MaskedAutoencoder:
    """From the model section of the ViT whose encoder it is; the defaults are the paper's (table 1).

    Args:
        trunk: the section, with its `name`.
        mask_ratio: see `MaskedAutoencoder`, like `normalize_pixels`.
        decoder_width: see `Decoder`, like `decoder_depth` and `decoder_heads`.

    Raises:
        UserError: when the trunk is not a plain ViT, or has something behind its encoder; for a mask_ratio outside of
            (0, 1), and a width that heads do not divide.
    """
    vit = build_named("model", trunk, "config.model", num_classes=0)
    if not 0 < mask_ratio < 1:
        raise UserError(f"mask_ratio is {mask_ratio}", "Use one between 0 and 1, in the paper 0.75")
    if num_classes:
        raise UserError("A masked autoencoder has no head", "Fine-tune its encoder as a vit, with config.init_from")
    if not isinstance(vit, ViT) or vit.encoder.stem is not None:
        raise UserError(
            f"The model '{trunk.get('name')}' is not a trunk for a masked autoencoder", "Use config.model.name=vit"
        )
    if vit.pooling not in ("token", "mean") or vit.representation_size is not None or vit.fc_norm:
        raise UserError(
            "A masked autoencoder pools the tokens of its encoder by 'token' or 'mean' and has nothing behind that",
            "Leave out representation_size and fc_norm, and set config.model.pooling=token or mean",
        )
    if decoder_width % decoder_heads:
        raise UserError(
            f"{decoder_heads} heads do not share a decoder of width {decoder_width}",
            "Set decoder_heads to a divisor of decoder_width",
        )
    encoder = vit.encoder
    decoder = Decoder(
        width=decoder_width,
        depth=decoder_depth,
        style=BlockStyle(
            decoder_heads,
            4 * decoder_width,
            norm_epsilon=encoder.style.norm_epsilon,
            activation="gelu_tanh" if encoder.style.gated else encoder.style.activation,
        ),
        pixels=encoder.patch_size[0] * encoder.patch_size[1] * 3,
        execution=dataclasses.replace(encoder.execution, sow_attention=False),
        parent=None,
    )
    return MaskedAutoencoder(encoder.clone(parent=None), decoder, vit.pooling, mask_ratio, normalize_pixels)


def downstream(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section of the model that goes on from this one's encoder."""
    return kwargs["trunk"]
