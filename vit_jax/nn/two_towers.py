"""Images and texts in one space: a tower for each, and the similarity of what they give.

CLIP (arXiv:2103.00020), LiT (arXiv:2111.07991), SigLIP (arXiv:2303.15343) and every other pair of an image model and a
text model are this module with other towers.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Shaped

from vit_jax.errors import UserError
from vit_jax.nn.at_most import at_most
from vit_jax.nn.example_inputs import example_inputs
from vit_jax.nn.norm import unit
from vit_jax.nn.style import check_choice
from vit_jax.nn.trunk import Layers, Trunk, side_by_side

Projection = Literal["none", "plain", "bias"]

_OF_TEXT = ("text", "pooler")  # the names of a text model's parameters


class TwoTowers(nn.Module):
    """Two models without classes, a linear layer on each where they have one, and what turns cosines into logits.

    Parameters, float32: those of the image model (`encoder`, and `pool` where it attends) and of the text model
    (`text`, and BERT's `pooler`); `image_projection` and `text_projection` with `kernel` [D, E] and maybe `bias` [E];
    `logit_scale` [], the logarithm of what cosines are multiplied by, as it is published; SigLIP's `logit_bias` [].

    Attributes:
        image_tower: called as `image_tower(images, train=..., maps=...)`, gives "tokens" and "features" [B, D].
        text_tower: called as `text_tower(ids, train=..., token_mask=..., segments=...)`, gives the same of texts.
        embed_dim: E, the width of the space.
        project_image: the linear layer after the features of images: "plain", with a "bias", or "none" where they have
            the width E themselves.
        project_text: the same for texts.
        temperature: the initial one; logits are cosines over it.
        max_scale: what cosines are multiplied by at most, however it is learned; None for no limit.
        logit_bias_init: the initial value of what is added to the logits; None for nothing.

    Raises:
        UserError: for an unknown kind of projection, or a temperature above 1, not above 0, or beyond the limit.
    """

    image_tower: nn.Module
    text_tower: nn.Module
    embed_dim: int
    project_image: Projection = "plain"
    project_text: Projection = "plain"
    temperature: float = 0.07
    max_scale: float | None = 100.0
    logit_bias_init: float | None = None

    def __post_init__(self):
        for kind in (self.project_image, self.project_text):
            check_choice("projection", kind, get_args(Projection))
        least = 0.0 if self.max_scale is None else 1 / self.max_scale
        if not (least <= self.temperature <= 1 and self.temperature > 0):
            allowed = f"from {least:g}, where the logits' factor is limited," if least else "above 0"
            raise UserError(f"A temperature of {self.temperature:g} is out of range", f"Use one {allowed} to 1")
        super().__post_init__()

    def setup(self):
        nn.share_scope(self, self.image_tower)
        nn.share_scope(self, self.text_tower)
        if self.project_image != "none":
            self.image_projection = nn.Dense(self.embed_dim, use_bias=self.project_image == "bias")
        if self.project_text != "none":
            self.text_projection = nn.Dense(self.embed_dim, use_bias=self.project_text == "bias")
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(-math.log(self.temperature)), ())
        if self.logit_bias_init is not None:
            self.logit_bias = self.param("logit_bias", nn.initializers.constant(self.logit_bias_init), ())

    def __call__(
        self,
        images: Float[Array, "b h w c"] | None = None,
        ids: Int[Array, "b t"] | None = None,
        shapes: Int[Array, "b 2"] | None = None,
        *,
        token_mask: Shaped[Array, "b t"] | None = None,
        segments: Int[Array, "b t"] | None = None,
        train: bool = False,
        maps: bool = False,
    ) -> dict[str, Any]:
        """Embeds normalised images, texts, or both.

        Args:
            shapes: rows and columns of patches of each image, for an image model of any aspect ratio.
            token_mask: 1 where there is a token, 0 at padding; each text model says what it makes of it.
            segments: for a text model that knows some.
            maps: give "maps" of the images too.

        Returns:
            Of images "tokens" [B, T, D], "features" [B, D] before the projection, and "image_embedding" [B, E]; of
            texts "text_tokens", "text_features" and "text_embedding" [B, E]. Embeddings are float32 and of length 1.

        Raises:
            UserError: when a tower without a projection gives vectors that are not E wide.
        """
        found = {}
        if images is not None:
            options = ({"maps": True} if maps else {}) | ({} if shapes is None else {"shapes": shapes})
            of_images = self.image_tower(images, train=train, **options)
            found |= {**of_images, "image_embedding": self.embed_image(of_images["features"])}
        if ids is not None:
            options = {"token_mask": token_mask} | ({} if segments is None else {"segments": segments})
            of_texts = self.text_tower(ids, train=train, **options)
            found |= {f"text_{name}": value for name, value in of_texts.items()}
            found["text_embedding"] = self.embed_text(of_texts["features"])
        return found

    def embed_image(self, features: Float[Array, "b d"]) -> Float[Array, "b e"]:
        """From the features of images into the space."""
        x = self._as_wide(features, "image") if self.project_image == "none" else self.image_projection(features)
        return unit(x)

    def embed_text(self, features: Float[Array, "b d"]) -> Float[Array, "b e"]:
        """From the features of texts into the space."""
        x = self._as_wide(features, "text") if self.project_text == "none" else self.text_projection(features)
        return unit(x)

    def embed_tokens(self, ids: Int[Array, "*b"]) -> Float[Array, "*b width"]:
        """The vectors of tokens, of which `embed_prompts` takes whole texts."""
        return self.text.embed(ids)

    def embed_prompts(self, embedded: Float[Array, "k t width"], ends: Int[Array, " k"]) -> Float[Array, "k e"]:
        """Texts into the space, given as vectors in place of token ids: learned prompts.

        Args:
            ends: places of the tokens that stand for the texts.
        """
        tokens, _ = self.text(None, embedded=embedded)
        return self.embed_text(self.text_tower.pooled(tokens, ends))

    def factor(self) -> Float[Array, ""]:
        """What cosines are multiplied by: one over the temperature, and no more than `max_scale`."""
        limited = self.logit_scale if self.max_scale is None else at_most(self.logit_scale, math.log(self.max_scale))
        return jnp.exp(limited)

    def bias(self) -> Float[Array, ""]:
        """What is added to the logits, 0 where nothing is."""
        return jnp.zeros(()) if self.logit_bias_init is None else self.logit_bias

    def similarity(
        self, image_embedding: Float[Array, "*b e"], text_embedding: Float[Array, "k e"]
    ) -> Float[Array, "*b k"]:
        """The logit of every text for every image, float32."""
        cosines = jnp.matmul(image_embedding, jnp.swapaxes(text_embedding, -1, -2), precision="highest")
        return self.factor() * cosines + self.bias()

    @property
    def encoder(self) -> Trunk:
        """The trunk of the images."""
        return self.image_tower.encoder

    @property
    def text(self) -> nn.Module:
        """The trunk of the texts."""
        return self.text_tower.text

    def example_inputs(self, image_size: Sequence[int] | None) -> tuple[Array, Array]:
        """An image and a text, and the shape of an image that has one; see `vit_jax.nn.example_inputs`."""
        image, *shape = example_inputs(self.image_tower, image_size)
        return (image, *example_inputs(self.text_tower, image_size), *shape)

    def redrawn(self, params: PyTree[Array], rng: PRNGKeyArray) -> PyTree[Array]:
        """Parameters with the initial values of the text model's authors, where it says some."""
        if not hasattr(self.text_tower, "redrawn"):
            return params
        return params | self.text_tower.redrawn({name: params[name] for name in _OF_TEXT if name in params}, rng)

    def layers(self) -> Layers:
        """Those of the towers, whose last ones are equally far from the loss; see `vit_jax.nn.trunk.Trunk.layers`."""
        return side_by_side(self.image_tower.layers(), self.text_tower.layers())

    def flops(self, image_size: tuple[int, int]) -> float | None:
        """Floating point operations of one image forward, its projection not counted; see `Trunk.flops`."""
        return self.image_tower.flops(image_size)

    def text_flops(self, length: int) -> float:
        """Those of one text of so many tokens."""
        return self.text_tower.text_flops(length)

    def _as_wide(self, features: Float[Array, "b d"], side: str) -> Float[Array, "b d"]:
        if features.shape[-1] != self.embed_dim:
            raise UserError(
                f"The {side} tower gives vectors of width {features.shape[-1]}, to be compared with others of width "
                f"{self.embed_dim}",
                f"Set project_{side}='plain' or 'bias', or use towers of one width",
            )
        return features
