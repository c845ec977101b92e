"""SAM: Kirillov et al., "Segment anything" (arXiv:2304.02643, section 3 and appendix A).

An image goes once through the encoder, a ViT in windows, and a neck. Prompts (points, boxes, masks, a text) become
tokens and a map; a light decoder makes of both four masks and how good it takes each of them to be. Mask 0 is for
several prompts, masks 1 to 3 are three answers to one that may mean several things.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vit_jax.errors import UserError
from vit_jax.naming import build_named
from vit_jax.nn.activation import ACTIVATIONS
from vit_jax.nn.conv import Conv, ConvTranspose
from vit_jax.nn.flops import product_flops
from vit_jax.nn.norm import LayerNorm
from vit_jax.nn.prompts import PADDING, PromptEncoder
from vit_jax.nn.style import BlockStyle, Execution
from vit_jax.nn.trunk import Layers, Maps, Trunk, below
from vit_jax.nn.two_way import TwoWayTransformer
from vit_jax.ranges import Count, Natural, Positive

NUM_MASKS = 4


class Neck(nn.Module):
    """The trunk's coarsest map in the decoder's width: a 1x1 and a 3x3 convolution, a norm of the channels behind each.

    Parameters, float32: `conv1`, `norm1`, `conv2`, `norm2`.

    Attributes:
        width: channels that come out.
        execution: how it runs.
    """

    width: int
    execution: Execution = Execution()

    @nn.compact
    def __call__(self, maps: Maps, train: bool = False) -> Float[Array, "b h w width"]:
        x, dtype = maps[max(maps)], self.execution.dtype
        for i, side in ((1, 1), (2, 3)):
            x = Conv(self.width, side, use_bias=False, dtype=dtype, name=f"conv{i}")(x)
            x = LayerNorm(1e-6, dtype, name=f"norm{i}")(x)
        return x

    def flops(self, maps: Mapping[int, tuple[int, int, int]]) -> float:
        """Of one image, see `vit_jax.nn.flops`; `maps` are height, width and channels by stride."""
        height, width, channels = maps[max(maps)]
        narrow = product_flops(height * width, channels, self.width)
        return narrow + product_flops(height * width, 9 * self.width, self.width)


class Perceptron(nn.Module):
    """Three dense layers with ReLU between them; parameters `fc1`, `fc2`, `fc3`."""

    hidden: int
    outputs: int
    execution: Execution = Execution()

    @nn.compact
    def __call__(self, x: Float[Array, "*b width"]) -> Float[Array, "*b outputs"]:
        for i, width in enumerate((self.hidden, self.hidden, self.outputs)):
            x = nn.Dense(width, dtype=self.execution.dtype, name=f"fc{i + 1}")(nn.relu(x) if i else x)
        return x


class MaskDecoder(nn.Module):
    """From an image's embedding and prompts to masks and how good they are.

    Parameters, float32: `iou_token` [1, C], `mask_tokens` [4, C], `transformer`; `upscale1`, `norm`, `upscale2`, which
    double the map's sides twice; `hypernetwork_0`, ..., which make of each mask's token the weights of the last map's
    channels; `iou`.

    Attributes:
        style: of the two-way Transformer's blocks.
        depth: of them.
        iou_hidden: width within the head that predicts intersection over union.
        execution: how it runs.
        last_epsilon: see `TwoWayTransformer`.
    """

    style: BlockStyle
    depth: int = 2
    iou_hidden: int = 256
    execution: Execution = Execution()
    last_epsilon: float | None = None

    @nn.compact
    def __call__(
        self, embeddings: Float[Array, "b h w c"], positions: Float[Array, "h w c"], prompts: Float[Array, "b n c"],
        valid: Bool[Array, "b n"], *, train: bool = False,
    ) -> tuple[Float[Array, "b m mh mw"], Float[Array, "b m"]]:  # fmt: skip
        """Logits of the masks, at four times the embedding's sides, and the predicted IoU of each; float32.

        Args:
            embeddings: of the image, with the map of the prompts added.
            positions: of its places.
            prompts: tokens of points, corners and texts.
            valid: which of them are there.
        """
        batch, *grid, width = embeddings.shape
        dtype, normal = self.execution.dtype, nn.initializers.normal(1.0)
        own = [self.param("iou_token", normal, (1, width)), self.param("mask_tokens", normal, (NUM_MASKS, width))]
        own = jnp.broadcast_to(jnp.concatenate(own).astype(dtype), (batch, 1 + NUM_MASKS, width))
        tokens = jnp.concatenate([own, prompts.astype(dtype)], axis=1)
        mask = jnp.concatenate([jnp.ones(own.shape[:2], bool), valid], axis=1)[:, None, None]
        places, positions = (x.astype(dtype).reshape(*x.shape[:-3], -1, width) for x in (embeddings, positions[None]))
        transformer = TwoWayTransformer(self.style, self.depth, self.execution, self.last_epsilon, name="transformer")
        tokens, places = transformer(tokens, places, positions, mask, train=train)

        gelu = ACTIVATIONS["gelu_exact"]
        x = ConvTranspose(width // 4, 2, 2, dtype=dtype, name="upscale1")(places.reshape(batch, *grid, width))
        x = gelu(LayerNorm(1e-6, dtype, name="norm")(x))
        x = gelu(ConvTranspose(width // 8, 2, 2, dtype=dtype, name="upscale2")(x))
        weights = [
            Perceptron(width, width // 8, self.execution, name=f"hypernetwork_{i}")(tokens[:, 1 + i])
            for i in range(NUM_MASKS)
        ]
        masks = jnp.einsum("bhwc,bmc->bmhw", x, jnp.stack(weights, axis=1), preferred_element_type=jnp.float32)
        iou = Perceptron(self.iou_hidden, NUM_MASKS, self.execution, name="iou")(tokens[:, 0])
        return masks, iou.astype(jnp.float32)


class Sam(nn.Module):
    """Promptable segmentation. As a model for images it is its encoder, `features` are the mean of its places.

    Parameters: `encoder`, `neck`, `prompts`, `decoder`; and the constant of `prompts`.

    Attributes:
        encoder: any trunk with maps.
        neck: makes the image's embedding of the trunk's maps, `neck(maps, train)`, in the decoder's width; it counts
            itself as `Neck.flops` does.
        prompts: see `PromptEncoder`.
        decoder: see `MaskDecoder`.
        stride: pixels of the frame, in which points are counted, from one place of the embedding to the next. That
            is the stride of the map where the frame is the image that the encoder sees.
    """

    encoder: Trunk
    neck: nn.Module
    prompts: PromptEncoder
    decoder: MaskDecoder
    stride: int = 16

    def __call__(
        self, images: Float[Array, "b h w c"], *, train: bool = False, maps: bool = False
    ) -> dict[str, Array | Maps]:
        """The encoder's view of images: "tokens" [B, T, D], "features" [B, D] float32, and "maps" if asked."""
        tokens, found = self.encoder.encode(images, train=train)
        if self.is_initializing():
            self._touch(self.neck(found, train))
        features = tokens.mean(axis=1, dtype=jnp.float32)
        return {"tokens": tokens, "features": features} | ({"maps": found} if maps else {})

    def embed(self, images: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b eh ew width"]:
        """The embedding of normalised images, which serves any number of prompts."""
        return self.neck(self.encoder.encode(images, train=train)[1], train)

    def predict(
        self,
        embeddings: Float[Array, "b h w c"],
        points: Float[Array, "b *q n 2"],
        labels: Int[Array, "b *q n"],
        masks: Float[Array, "b *q mh mw"] | None = None,
        has_mask: Bool[Array, "b *q"] | None = None,
        text: Float[Array, "b *q e"] | None = None,
        has_text: Bool[Array, "b *q"] | None = None,
    ) -> tuple[Float[Array, "b *q m mh mw"], Float[Array, "b *q m"]]:
        """What prompts mean in images.

        There is one prompt for each image, or with an axis Q behind the batch Q of them, each by itself.

        Args:
            embeddings: see `embed`.
            points: x and y in pixels of the frame, whose sides are `stride` times those of the embeddings.
            labels: what each point is, see `vit_jax.nn.prompts`: -1 a slot that does not count, 0 not on the object, 1
                on it, 2 and 3 the corners of a box, 4 SAM's not-a-point token (`vit_jax.nn.prompts.completed`).
            masks: logits of earlier masks, four times the sides of the embeddings; None for none at all.
            has_mask: which of them count; None for all.
            text: embeddings of texts, for a model with a `text_width`; None for none at all.
            has_text: which of them count; None for all.

        Returns:
            Logits of masks, M = 4, at four times the sides of the embeddings, and the IoU that the model predicts of
            each; float32. Mask 0 is the answer to several prompts, 1 to 3 are three answers to one.

        Raises:
            UserError: for shapes that do not belong together, and text in a model without such prompts.
        """
        batch, height, width, _ = embeddings.shape
        leading = labels.shape[:-1]
        if len(leading) not in (1, 2) or leading[0] != batch or points.shape != (*labels.shape, 2):
            raise UserError(
                f"Points {list(points.shape)} and labels {list(labels.shape)} are no prompts for {batch} images",
                "Give points [B, N, 2] and labels [B, N], or [B, Q, N, 2] and [B, Q, N] for Q prompts an image",
            )
        if masks is not None and masks.shape != (*leading, 4 * height, 4 * width):
            raise UserError(
                f"Masks of shape {list(masks.shape)} are no prompts here",
                f"Give {[*leading, 4 * height, 4 * width]}, the logits of an earlier answer",
            )

        def flat(x: Array | None) -> Array | None:
            return None if x is None else x.reshape(-1, *x.shape[len(leading) :])

        points, labels, masks, has_mask, text, has_text = map(flat, (points, labels, masks, has_mask, text, has_text))
        tokens, valid = self.prompts.tokens(points, labels, (height * self.stride, width * self.stride))
        if text is not None:
            tokens = jnp.concatenate([tokens, self.prompts.text_token(text)], axis=1)
            there = jnp.ones(len(text), bool) if has_text is None else has_text
            valid = jnp.concatenate([valid, there[:, None]], axis=1)
        if len(leading) == 2:
            embeddings = jnp.repeat(embeddings, leading[1], axis=0)
        embeddings = embeddings + self.prompts.map(masks, has_mask)
        found = self.decoder(embeddings, self.prompts.grid(height, width), tokens, valid)
        return jax.tree.map(lambda x: x.reshape(*leading, *x.shape[1:]), found)

    def layers(self) -> Layers:
        """See `Trunk.layers`: those of the encoder; all that comes after it learns at the full rate."""
        return below("encoder", self.encoder.layers())

    def flops(self, image_size: tuple[int, int]) -> float | None:
        """Of an image's embedding, see `Trunk.flops`."""
        encoder = self.encoder.flops(image_size)
        return None if encoder is None else encoder + self.neck.flops(self.encoder.map_shapes(image_size))

    def _touch(self, embeddings: Float[Array, "b h w c"]) -> None:
        """Makes all parameters behind the encoder."""
        batch, height, width, _ = embeddings.shape
        points, labels = jnp.zeros((batch, 1, 2)), jnp.full((batch, 1), PADDING)
        text = jnp.zeros((batch, self.prompts.text_width)) if self.prompts.text_width else None
        self.predict(embeddings, points, labels, jnp.zeros((batch, 4 * height, 4 * width)), text=text)


def build(
    trunk: Mapping[str, Any],
    *,
    num_classes: Natural = 0,
    width: Count = 256,
    decoder_depth: Count = 2,
    decoder_heads: Count = 8,
    decoder_mlp_dim: Count = 2048,
    decoder_norm_epsilon: Positive = 1e-5,
    mask_channels: Count = 16,
    iou_hidden: Count = 256,
    text_width: Natural = 0,
) -> Sam:
    """From the model section of its trunk; the defaults are those of all published sizes.

    Args:
        trunk: the section, with its `name`: `vitdet` in the paper, or any other trunk, of whose maps the coarsest is
            used.
        width: channels of the embedding, and width of the decoder.
        decoder_depth: two-way blocks, each with `decoder_heads` heads and an MLP `decoder_mlp_dim` wide.
        decoder_norm_epsilon: of the norms in these blocks: 1e-5 in the authors' code, 1e-6 in transformers; of the last
            one behind them it is 1e-5 in both.
        mask_channels: see `PromptEncoder`, like `text_width`.
        iou_hidden: see `MaskDecoder`.

    Raises:
        UserError: for a trunk that is none, and widths that do not divide.
    """
    if num_classes:
        raise UserError("SAM has no head for classes", "Leave out num_classes; its encoder can be fine-tuned as vitdet")
    model = build_named("model", trunk, "config.model.trunk", num_classes=0)
    encoder = getattr(model, "encoder", None)
    if not hasattr(encoder, "stride"):
        raise UserError(f"The model '{trunk.get('name')}' is not a trunk with maps", "Use vitdet or vit")
    execution = Execution(dtype=encoder.execution.dtype)
    prompts, decoder = prompts_and_decoder(
        width, decoder_depth, decoder_heads, decoder_mlp_dim, mask_channels, iou_hidden, text_width,
        decoder_norm_epsilon, execution, last_epsilon=1e-5,
    )  # fmt: skip
    neck = Neck(width, execution, parent=None)
    return Sam(encoder.clone(parent=None), neck, prompts, decoder, encoder.stride)


def prompts_and_decoder(
    width: int, depth: int, heads: int, mlp_dim: int, mask_channels: int, iou_hidden: int, text_width: int,
    norm_epsilon: float, execution: Execution, *, last_epsilon: float | None = None,
) -> tuple[PromptEncoder, MaskDecoder]:  # fmt: skip
    """What follows an image's embedding, whatever made it, see `build`.

    Args:
        norm_epsilon: of the norms between the decoder's layers.
        last_epsilon: of the norm behind them; None for the same.

    Raises:
        UserError: for widths that do not divide.
    """
    if width % 8 or (width // 2) % heads:
        raise UserError(
            f"A width of {width} does not divide into {heads} heads of half the width, and 8 channels of masks",
            "Use a multiple of 8, and of twice the decoder_heads",
        )
    style = BlockStyle(
        heads, mlp_dim, norm="post", norm_epsilon=norm_epsilon, activation="relu", cross="plain",
        cross_head_dim=width // 2 // heads,
    )  # fmt: skip
    prompts = PromptEncoder(width, mask_channels, text_width, execution.dtype, parent=None)
    return prompts, MaskDecoder(style, depth, iou_hidden, execution, last_epsilon, parent=None)


def downstream(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section of the model that goes on from this one's encoder."""
    return kwargs["trunk"]
