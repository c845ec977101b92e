"""A frozen trunk under a linear classifier: the linear probe of MAE, MoCo v3 and SimCLR."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.naming import build_named, nearest
from vit_jax.nn.batch_norm import BatchNorm
from vit_jax.nn.trunk import Layers, Maps, logits

HeadNorm = Literal["batch", "none"]


class Probed(nn.Module):
    """A model whose trunk stays as it is, in training too: no dropout, no new batch statistics, no gradient.

    What the optimizer must not decay or move either is for `config.optim.frozen` to say: `(?!head/).*`.
    Parameters: those of the trunk (`encoder`), and `head` with classes. In "batch_stats": those of the trunk, and
    `head_norm`.

    Attributes:
        trunk: gives "features" [B, D].
        norm: what the features go through before the head. "batch" is a batch normalisation without scale and bias
            (MAE, arXiv:2111.06377, section A.1), which does without tuning the learning rate to each trunk; "none" is
            the classifier of MoCo v3 and SimCLR.
        num_classes: outputs of the linear head, which starts with a standard deviation of 0.01; 0 for no head.
    """

    trunk: nn.Module
    norm: HeadNorm
    num_classes: int

    def setup(self):
        nn.share_scope(self, self.trunk)

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w c"], *, train: bool = False, maps: bool = False
    ) -> dict[str, Array | Maps]:
        """The trunk's outputs, with "features" [B, D] as the head sees them and "logits" [B, num_classes]."""
        outputs = self.trunk(images, train=False, maps=maps)
        x = jax.lax.stop_gradient(outputs["features"])
        if self.norm == "batch":
            x = BatchNorm(epsilon=1e-6, use_scale=False, use_bias=False, name="head_norm")(x, train)
        outputs["features"] = x
        return outputs | logits(x, self.num_classes, kernel_init=nn.initializers.normal(0.01))

    def layers(self) -> Layers:
        """Those of the trunk."""
        return self.trunk.layers()


def build(trunk: Mapping[str, Any], *, num_classes: int, norm: HeadNorm = "batch") -> Probed:
    """From the trunk's own model section.

    Raises:
        UserError: for an unknown trunk or norm.
    """
    if norm not in get_args(HeadNorm):
        raise UserError(f"There is no norm {norm!r} before a linear probe", nearest(norm, get_args(HeadNorm)))
    return Probed(build_named("model", trunk, "config.model.trunk", num_classes=0), norm, num_classes)


def downstream(kwargs: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and arguments of what goes on from a probe: its trunk, no longer frozen."""
    trunk = dict(kwargs["trunk"])
    return trunk.pop("name"), trunk
