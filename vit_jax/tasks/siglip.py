"""SigLIP: Zhai et al., "Sigmoid loss for language image pre-training" (arXiv:2303.15343).

Of every image and every text of a batch the model is to say whether they belong together (section 3.2): n positive and
n^2 - n negative pairs, weighed alike, which is why the logits start at a bias of -10.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.nn.contrastive_loss import sigmoid_loss
from vit_jax.tasks import Batch, DataInfo, Metrics, Variables
from vit_jax.tasks._image_text import ImageText, towers_of


@dataclasses.dataclass(frozen=True)
class SigLIP(ImageText):
    """Pairs that belong together and pairs that do not, see `ImageText`."""

    whole_batch: ClassVar[str] = "every image is compared with every text of the batch"
    objective: ClassVar[str] = "sigmoid"

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        """The sum over all pairs divided by the number of images. Metrics are also `logit_scale`, what cosines are
        multiplied by, and `logit_bias`."""
        del step
        images, texts, state = self._embedded(variables, batch, rng)
        factor, bias = (self.model.apply({"params": variables["params"]}, method=name) for name in ("factor", "bias"))
        loss, count = sigmoid_loss(images, texts, factor, bias), jnp.float32(images.shape[0])
        metrics = {
            "loss": (loss * count, count),
            "logit_scale": (factor, jnp.float32(1)),
            "logit_bias": (bias, jnp.float32(1)),
        }
        return loss, (metrics, state)


def build(*, model: Mapping[str, Any] | None, data: DataInfo) -> SigLIP:
    """The task.

    Args:
        model: the section of a `siglip`, or of another model of two towers with a `logit_bias`; the size of its
            vocabulary is the tokenizer's to say.

    Raises:
        UserError: for a model without a bias of the logits, and as `towers_of` does.
    """
    module, spec = towers_of(model, data, "siglip")
    if module.logit_bias_init is None:
        raise UserError(
            "The sigmoid loss adds a learned bias to the logits, which this model does not have",
            "Set config.model.logit_bias=-10, or config.task.name=clip",
        )
    return SigLIP(module, spec)
