"""CLIP: Radford et al., "Learning transferable visual models from natural language supervision" (arXiv:2103.00020).

Of the images and texts of a batch each is to find its own among those of the other kind (section 2.3, figure 3): the
mean of two cross-entropies over cosines times a learned factor. The same loss trains LiT (arXiv:2111.07991), whose
image tower is locked by `config.optim.frozen` and loaded by `config.init_from`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vit_jax.nn.contrastive_loss import softmax_loss
from vit_jax.tasks import Batch, DataInfo, Metrics, Variables
from vit_jax.tasks._image_text import ImageText, towers_of


@dataclasses.dataclass(frozen=True)
class CLIP(ImageText):
    """Contrastive learning on pairs, see `ImageText`; the negatives of each are the others of the batch.

    The factor is limited where it is used, not set back after a step as in other codes: see `at_most`.
    """

    whole_batch: ClassVar[str] = "every image is compared with every text of the batch"

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        """The loss of a pair is the mean of its two cross-entropies, half of their sum.

        Metrics are also `image_accuracy` and `text_accuracy`, how many images are nearest to their own text of all in
        the batch and how many texts to their image, and `logit_scale`, the factor.
        """
        del step
        images, texts, state = self._embedded(variables, batch, rng)
        factor = self.model.apply({"params": variables["params"]}, method="factor")
        losses, images_right, texts_right = softmax_loss(images, texts, factor)
        count = jnp.float32(losses.size)
        metrics = {
            "loss": (losses.sum(), count),
            "image_accuracy": (images_right.sum(), count),
            "text_accuracy": (texts_right.sum(), count),
            "logit_scale": (factor, jnp.float32(1)),
        }
        return losses.mean(), (metrics, state)


def build(*, model: Mapping[str, Any] | None, data: DataInfo) -> CLIP:
    """The task.

    Args:
        model: the section of a `clip`, or of another model of two towers; the size of its vocabulary and the end of a
            text are the tokenizer's to say.

    Raises:
        UserError: see `towers_of`.
    """
    return CLIP(*towers_of(model, data, "clip"))
