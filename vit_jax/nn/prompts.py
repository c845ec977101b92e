"""What a person points at, as tokens and as a map: points, corners of boxes, masks and text ("Segment anything",
arXiv:2304.02643, appendix A, "Prompt encoder")."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from vit_jax.errors import UserError
from vit_jax.nn.activation import ACTIVATIONS
from vit_jax.nn.constants import constant
from vit_jax.nn.conv import Conv
from vit_jax.nn.norm import LayerNorm

# What a point is, its label: a slot that a batch was filled up with, a place not on what is meant, one on it, two
# corners of a box, and SAM's token that points without a box always get.
PADDING, OFF, ON, TOP_LEFT, BOTTOM_RIGHT, NOT_A_POINT = range(-1, 5)


def box_corners(boxes: Float[Array, "*b 4"]) -> tuple[Float[Array, "*b 2 2"], Int[Array, "*b 2"]]:
    """Boxes (x0, y0, x1, y1) as two points and their labels."""
    points = boxes.reshape(*boxes.shape[:-1], 2, 2)
    labels = jnp.array([TOP_LEFT, BOTTOM_RIGHT], jnp.int32)
    return points, jnp.broadcast_to(labels, points.shape[:-1])


def completed(
    points: Float[Array, "*b n 2"], labels: Int[Array, "*b n"]
) -> tuple[Float[Array, "*b n_plus_1 2"], Int[Array, "*b n_plus_1"]]:
    """Prompts with one more slot, which holds the not-a-point token where there are points and no box, as SAM's own
    code puts it there, and is padding elsewhere."""
    clicked = ((labels == OFF) | (labels == ON)).any(-1, keepdims=True)
    boxed = ((labels == TOP_LEFT) | (labels == NOT_A_POINT)).any(-1, keepdims=True)
    labels = jnp.asarray(labels)
    last = jnp.where(clicked & ~boxed, NOT_A_POINT, PADDING).astype(labels.dtype)
    points = jnp.concatenate([points, jnp.zeros_like(points[..., :1, :])], axis=-2)
    return points, jnp.concatenate([labels, last], axis=-1)


class PromptEncoder(nn.Module):
    """Prompts as tokens and as a map that is added to the image's embedding.

    Parameters, float32: `kinds` [4, width], for a point off, a point on and the two corners; `not_a_point` and
    `no_mask` [width]; `mask_conv1`, `mask_norm1`, `mask_conv2`, `mask_norm2`, `mask_conv3`; `text` where there is one.
    Constant: `fourier` [2, width / 2], random frequencies of x and y.

    Attributes:
        width: of a token, and channels of the map; even.
        mask_channels: of the last of the two convolutions that halve a mask, a multiple of 4.
        text_width: of embeddings of texts (or of images in the same space) that one linear layer makes tokens of
            (section 7.5); 0 for a model without text prompts.
        dtype: of the convolutions and of the results. Positions are computed in float32.

    Raises:
        UserError: for widths that do not divide.
    """

    width: int
    mask_channels: int = 16
    text_width: int = 0
    dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        if self.width % 2 or self.mask_channels % 4:
            raise UserError(
                f"A prompt encoder cannot have a width of {self.width} and {self.mask_channels} channels for masks",
                "Use an even width, and a multiple of 4 channels",
            )
        super().__post_init__()

    def setup(self):
        normal = nn.initializers.normal(1.0)
        self.fourier = constant(self, "fourier", normal, (2, self.width // 2))
        self.kinds = self.param("kinds", normal, (4, self.width))
        self.not_a_point = self.param("not_a_point", normal, (self.width,))
        self.no_mask = self.param("no_mask", normal, (self.width,))
        channels = (self.mask_channels // 4, self.mask_channels)
        self.mask_conv1, self.mask_conv2 = (Conv(c, 2, 2, padding=0, dtype=self.dtype) for c in channels)
        self.mask_conv3 = Conv(self.width, 1, dtype=self.dtype)
        self.mask_norm1, self.mask_norm2 = LayerNorm(1e-6, self.dtype), LayerNorm(1e-6, self.dtype)
        if self.text_width:
            self.text = nn.Dense(self.width, dtype=self.dtype)

    def at(self, places: Float[Array, "*b 2"]) -> Float[Array, "*b width"]:
        """Random Fourier features of places (x, y), which are 0 to 1 across the image; float32."""
        x, y = jnp.split(2.0 * places.astype(jnp.float32) - 1.0, 2, axis=-1)
        # Written out: a product of matrices has half the precision on an accelerator, and the angles are large.
        angles = 2.0 * math.pi * (x * self.fourier[0] + y * self.fourier[1])
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)

    def grid(self, rows: int, columns: int) -> Float[Array, "rows columns width"]:
        """Those of the centres of a map's places."""
        y, x = ((jnp.arange(side) + 0.5) / side for side in (rows, columns))
        return self.at(jnp.stack(jnp.broadcast_arrays(x[None, :], y[:, None]), axis=-1))

    def tokens(
        self, points: Float[Array, "b n 2"], labels: Int[Array, "b n"], frame: tuple[int, int]
    ) -> tuple[Float[Array, "b n width"], Bool[Array, "b n"]]:
        """A token for each point, and whether it is one: padding is none.

        Args:
            points: x and y in pixels of the frame, where 0 is the centre of the first one.
            labels: see `PADDING` and what comes after it.
            frame: height and width of the image that points are counted in.
        """
        height, width = frame
        places = (points.astype(jnp.float32) + 0.5) / jnp.array([width, height], jnp.float32)
        tokens = self.at(places) + jnp.take(self.kinds, jnp.clip(labels, 0, len(self.kinds) - 1), axis=0)
        tokens = jnp.where((labels == NOT_A_POINT)[..., None], self.not_a_point, tokens)
        return tokens.astype(self.dtype), labels != PADDING

    def map(
        self, masks: Float[Array, "b mh mw"] | None, has_mask: Bool[Array, " b"] | None
    ) -> Float[Array, "b h w width"] | Float[Array, "1 1 1 width"]:
        """What is added to the image's embedding for masks, logits of four times its sides.

        Args:
            masks: None for none in the whole batch.
            has_mask: which of them are there; None for all.
        """
        nothing = self.no_mask.astype(self.dtype)[None, None, None]
        if masks is None:
            return nothing
        gelu = ACTIVATIONS["gelu_exact"]
        x = gelu(self.mask_norm1(self.mask_conv1(masks[..., None].astype(self.dtype))))
        x = self.mask_conv3(gelu(self.mask_norm2(self.mask_conv2(x))))
        return x if has_mask is None else jnp.where(has_mask[:, None, None, None], x, nothing)

    def text_token(self, text: Float[Array, "b e"]) -> Float[Array, "b 1 width"]:
        """The token of an embedding of a text, or of an image in the same space.

        Raises:
            UserError: for a model without text prompts, or embeddings of another width.
        """
        if not self.text_width:
            raise UserError("This model takes no text as a prompt", "Build it with a text_width")
        if text.shape[-1] != self.text_width:
            raise UserError(
                f"The model takes embeddings of texts {self.text_width} wide, these are {text.shape[-1]}",
                "Use the model of images and texts that it was trained with",
            )
        return self.text(text)[:, None]
