"""Semantic segmentation: any image trunk with maps, and a head that gives each place a class."""

import inspect
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.naming import build_named, construct, nearest
from vit_jax.nn.efficientvit_head import EfficientViTHead
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.segmentation_head import LinearHead, SegmentationHead
from vit_jax.nn.transposed_head import TransposedHead
from vit_jax.nn.trunk import Layers, Maps, Trunk, below, trunk_of
from vit_jax.nn.upernet import UPerNetHead
from vit_jax.ranges import Count

# What `config.model.head.name` may be.
HEADS: Mapping[str, type[SegmentationHead]] = {
    "linear": LinearHead,
    "upernet": UPerNetHead,
    "efficientvit": EfficientViTHead,
    "transposed": TransposedHead,
}


class Segmenter(nn.Module):
    """A trunk and a head.

    Parameters: `encoder` and `head`; their running statistics in "batch_stats".

    Attributes:
        encoder: the trunk.
        head: see `vit_jax.nn.segmentation_head.SegmentationHead`.
    """

    encoder: Trunk
    head: SegmentationHead

    def __call__(
        self, images: Float[Array, "b h w c"], *, train: bool = False, maps: bool = False
    ) -> dict[str, Array | Maps]:
        """Segments normalised images.

        Returns:
            "tokens" [B, T, D] of the trunk; "features" [B, D] float32, their mean; "mask_logits" [B, h, w, K] float32
            at the head's stride; in training "auxiliary_logits" of a head that has them; with `maps` also "maps".
        """
        tokens, found = self.encoder.encode(images, train=train, **self._asked())
        outputs = {"tokens": tokens, "features": tokens.mean(axis=1, dtype=jnp.float32)}
        return outputs | self.head(found, train) | ({"maps": found} if maps else {})

    def layers(self) -> Layers:
        """Those of the trunk."""
        return below("encoder", self.encoder.layers())

    def flops(self, image_size: tuple[int, int]) -> float | None:
        """Those of the trunk and of the head."""
        trunk = self.encoder.flops(image_size)
        return None if trunk is None else trunk + self.head.flops(self.map_shapes(image_size))

    def map_shapes(self, image_size: tuple[int, int]) -> dict[int, tuple[int, int, int]]:
        """Height, width and channels of the trunk's maps of one image."""
        alone, asked = self.encoder.clone(parent=None), self._asked()

        def maps() -> Maps:
            images = jnp.zeros((1, *image_size, 3))
            return alone.init_with_output(jax.random.key(0), images, method="encode", **asked)[0][1]

        return {stride: of.shape[1:] for stride, of in init_shapes(maps).items()}

    def implementations(self) -> dict[str, str]:
        """How the trunk is run on the platform that is traced for."""
        said = getattr(self.encoder, "implementations", None)
        return said() if callable(said) else {}

    def _asked(self) -> dict[str, Any]:
        """What the trunk is asked for beside its last map."""
        return {"last": self.head.layers} if self.head.layers > 1 and _gives_layers(self.encoder) else {}


def _gives_layers(trunk: Trunk) -> bool:
    """Whether its one map can hold what several of its blocks give."""
    return "last" in inspect.signature(trunk.encode).parameters


def build(trunk: Mapping[str, Any], head: Mapping[str, Any], *, num_classes: Count) -> Segmenter:
    """From values that JSON can hold.

    Args:
        trunk: the model section of the trunk.
        head: `name` of one of `HEADS`, and its arguments.
        num_classes: of the head.

    Raises:
        UserError: for an unknown trunk, a model that is not a trunk with a head, an unknown head or argument.
    """
    where = "config.model.head"
    encoder = trunk_of(build_named("model", trunk, "config.model.trunk", num_classes=0))
    if not isinstance(encoder, Trunk):
        raise UserError(f"The model {trunk['name']!r} is no trunk with maps", "Name an image model, such as 'vit'")
    own = dict(head)
    name = own.pop("name", None)
    if name not in HEADS:
        raise UserError(f"There is no segmentation head named {name!r}", nearest(str(name), HEADS))
    own = {key: tuple(value) if isinstance(value, list) else value for key, value in own.items()}
    built = construct(HEADS[name], own, where, num_classes=num_classes, parent=None)
    return Segmenter(encoder=encoder, head=built)


def downstream(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section of the image model in it: its trunk."""
    return kwargs["trunk"]
