"""CoCoOp: Zhou et al., "Conditional prompt learning for vision-language models" (arXiv:2203.05557).

CoOp's context fits the classes that it was learned on. Here a small network, the Meta-Net, makes of each image a vector
that is added to every vector of the context, so that each image has prompts of its own (section 3.2).
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.ranges import Count
from vit_jax.tasks import DataInfo, Variables
from vit_jax.tasks._prompts import Classes, Position, PromptTask, prompted

# PyTorch's layers start so, kernels and biases: uniform within one over the square root of the inputs.
_UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class MetaNet(nn.Module):
    """Linear, ReLU, linear: from an embedded image to what is added to the context.

    Parameters: `fc1` with kernel [E, E / 16], `fc2` with kernel [E / 16, D], and their biases.

    Attributes:
        width: D, of the text tower.
    """

    width: int

    @nn.compact
    def __call__(self, images: Float[Array, "*b e"]) -> Float[Array, "*b d"]:
        """Of embedded images, of length 1."""
        hidden = nn.relu(self._linear("fc1", images, max(images.shape[-1] // 16, 1)))
        return self._linear("fc2", hidden, self.width)

    def _linear(self, name: str, x: Array, features: int) -> Array:
        bound = x.shape[-1] ** -0.5
        bias = lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)  # noqa: E731
        return nn.Dense(features, kernel_init=_UNIFORM, bias_init=bias, name=name)(x)


@dataclasses.dataclass(frozen=True)
class CoCoOp(PromptTask):
    """See `PromptTask`; beside `context` [M, D] `prompt` holds `meta_net`.

    A step encodes a prompt for every class and image, so many images at a time, and keeps of them for the backward pass
    no more than what it started from: memory depends on `images_at_once`, not on the batch.

    Args:
        images_at_once: whose prompts are encoded together.
    """

    images_at_once: int = 1

    def _more(self, rng: PRNGKeyArray) -> dict[str, Any]:
        return {"meta_net": self._meta_net.init(rng, jnp.zeros((1, self.model.embed_dim)))["params"]}

    def _logits(self, variables: Variables, images: Float[Array, "B E"], classes: int) -> Float[Array, "B K"]:
        context = self._context(variables)
        shifts = self._meta_net.apply({"params": variables["params"]["prompt"]["meta_net"]}, images)

        @jax.checkpoint
        def of_one(image: Float[Array, " E"], shift: Float[Array, " D"]) -> Float[Array, " K"]:
            texts = self._texts(variables, context + shift, classes)
            collections = {"params": variables["params"], **variables["model_state"]}
            return self.model.apply(collections, image, texts, method="similarity")

        return jax.lax.map(lambda pair: of_one(*pair), (images, shifts), batch_size=self.images_at_once)

    @functools.cached_property
    def _meta_net(self) -> MetaNet:
        return MetaNet(self.context_shape[-1])

    def _text_flops(self, classes: int, batch: int) -> float:
        return super()._text_flops(classes, 1)


def build(
    *,
    model: Mapping[str, Any] | None,
    data: DataInfo,
    tokenizer: str | Mapping[str, Any],
    context: str = "unified",
    context_length: Count | None = None,
    words: str | None = "a photo of a",
    position: Position = "end",
    classes: Classes = "all",
    images_at_once: Count = 1,
) -> CoCoOp:
    """The task for the classes that the data names.

    Args:
        context: "unified": there is one, which each image shifts.
        context_length: as for CoOp; without words 4.
        images_at_once: see `CoCoOp`; the other arguments are those of `vit_jax.tasks.coop.build`.

    Raises:
        UserError: for a context for each class, which classes that are new would not have; see `prompted`.
    """
    if context != "unified":
        raise UserError(
            f"CoCoOp has one context for all classes, which each image shifts, and config.task.context is {context!r}",
            "Leave it out, or use the task 'coop'",
        )
    made = prompted(
        model, data, tokenizer, context_length=context_length, usual=4, words=words, position=position, classes=classes
    )
    return CoCoOp(**made, images_at_once=images_at_once)
