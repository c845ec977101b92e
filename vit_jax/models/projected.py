"""A trunk with the first layers of its projection head: what SimCLR v2 fine-tunes (arXiv:2006.10029, section 2)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.naming import build_named
from vit_jax.nn.projection import ProjectionHead
from vit_jax.nn.trunk import Layers, Maps, logits
from vit_jax.ranges import Count


class Projected(nn.Module):
    """A model whose features go through `layers` hidden layers of a projection head.

    Parameters: those of the trunk (`encoder`), `projector`, and `head` with classes.

    Attributes:
        trunk: gives "features" [B, D].
        layers: of the projection head.
        hidden: their width; None for that of the features.
        num_classes: outputs of the linear head, which starts at zero; 0 for no head.
    """

    trunk: nn.Module
    layers: int
    hidden: int | None
    num_classes: int

    def setup(self):
        nn.share_scope(self, self.trunk)

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w c"], *, train: bool = False, maps: bool = False
    ) -> dict[str, Array | Maps]:
        """The trunk's outputs, with "features" [B, hidden] of the projection head and "logits" [B, num_classes]."""
        outputs = self.trunk(images, train=train, maps=maps)
        # One layer more than is run, so that the last one that is run is a hidden one.
        projector = ProjectionHead(self.layers + 1, out=0, hidden=self.hidden, name="projector")
        outputs["features"] = projector(outputs["features"], train, until=self.layers)
        return outputs | logits(outputs["features"], self.num_classes)

    def layers(self) -> Layers:
        """Those of the trunk."""
        return self.trunk.layers()


def build(trunk: Mapping[str, Any], *, num_classes: int, layers: Count = 1, hidden: Count | None = None) -> Projected:
    """From the trunk's own model section.

    Raises:
        UserError: for an unknown trunk or fewer than one layer.
    """
    if isinstance(layers, bool) or not isinstance(layers, int) or layers < 1:
        raise UserError(f"layers={layers!r} of a projection head", "Give 1 or more, or use the trunk by itself")
    return Projected(build_named("model", trunk, "config.model.trunk", num_classes=0), layers, hidden, num_classes)
