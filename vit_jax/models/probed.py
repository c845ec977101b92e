"""A trunk under a linear classifier, frozen or not: the linear probe of MAE, MoCo v3 and SimCLR, and what SimCLR v2
fine-tunes, a trunk with the first layers of its projection head (arXiv:2006.10029, section 2)."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.naming import build_named, nearest
from vit_jax.nn.batch_norm import BatchNorm
from vit_jax.nn.projection import ProjectionHead
from vit_jax.nn.trunk import Layers, Maps, logits
from vit_jax.ranges import Count, Natural

HeadNorm = Literal["batch", "none"]


class Probed(nn.Module):
    """A model whose trunk, where it is frozen, stays as it is, in training too: no dropout, no new batch statistics, no
    gradient.

    What the optimizer must not decay or move either is for `config.optim.frozen` to say: `(?!head/).*`.
    Parameters: those of the trunk (`encoder`), `projector`, and `head` with classes. In "batch_stats": those of the
    trunk and of `projector`, and `head_norm`.

    Attributes:
        trunk: gives "features" [B, D].
        norm: what the features go through before the head. "batch" is a batch normalisation without scale and bias
            (MAE, arXiv:2111.06377, section A.1), which does without tuning the learning rate to each trunk; "none" is
            the classifier of MoCo v3 and SimCLR.
        num_classes: outputs of the linear head, which starts with a standard deviation of 0.01 on a frozen trunk, and
            at zero on one that is trained; 0 for no head.
        frozen: whether only norm and head learn.
        projection: hidden layers of a projection head that the features go through first.
        hidden: their width; None for that of the features.
    """

    trunk: nn.Module
    norm: HeadNorm
    num_classes: int
    frozen: bool = True
    projection: int = 0
    hidden: int | None = None

    def setup(self):
        nn.share_scope(self, self.trunk)

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w c"], *, train: bool = False, maps: bool = False
    ) -> dict[str, Array | Maps]:
        """The trunk's outputs, with "features" [B, D] as the head sees them and "logits" [B, num_classes]."""
        moving = train and not self.frozen
        outputs = self.trunk(images, train=moving, maps=maps)
        x = outputs["features"]
        if self.projection:
            # One layer more than is run, so that the last one that is run is a hidden one.
            projector = ProjectionHead(self.projection + 1, out=0, hidden=self.hidden, name="projector")
            x = projector(x, moving, until=self.projection)
        x = jax.lax.stop_gradient(x) if self.frozen else x
        if self.norm == "batch":
            x = BatchNorm(epsilon=1e-6, use_scale=False, use_bias=False, name="head_norm")(x, train)
        outputs["features"] = x
        start = nn.initializers.normal(0.01) if self.frozen else nn.initializers.zeros
        return outputs | logits(x, self.num_classes, kernel_init=start)

    def layers(self) -> Layers:
        """Those of the trunk."""
        return self.trunk.layers()


def build(
    trunk: Mapping[str, Any],
    *,
    num_classes: int,
    norm: HeadNorm = "batch",
    frozen: bool = True,
    projection: Natural = 0,
    hidden: Count | None = None,
) -> Probed:
    """From the trunk's own model section.

    Raises:
        UserError: for an unknown trunk or norm.
    """
    if norm not in get_args(HeadNorm):
        raise UserError(f"Unknown norm {norm!r} before a linear probe", nearest(norm, get_args(HeadNorm)))
    module = build_named("model", trunk, "config.model.trunk", num_classes=0)
    return Probed(module, norm, num_classes, frozen, projection, hidden)


def downstream(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section of what goes on from a probe: its trunk, no longer frozen."""
    return {"name": "probed", **kwargs, "frozen": False} if kwargs.get("projection") else kwargs["trunk"]
