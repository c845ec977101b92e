"""CoOp: Zhou et al., "Learning to prompt for vision-language models" (arXiv:2109.01134).

The words around a class's name are vectors, learned from a few images of each class while both towers stay as they are
(section 3.2): one context for all classes ("unified"), or one for each ("csc").
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from jaxtyping import Array, Float

from vit_jax.ranges import Count
from vit_jax.tasks import DataInfo, Variables
from vit_jax.tasks._prompts import Classes, Position, PromptTask, prompted


@dataclasses.dataclass(frozen=True)
class CoOp(PromptTask):
    """See `PromptTask`; the prompts are encoded once a step, whatever the batch."""

    def _logits(self, variables: Variables, images: Float[Array, "B E"], classes: int) -> Float[Array, "B K"]:
        texts = self._texts(variables, self._context(variables), classes)
        collections = {"params": variables["params"], **variables["model_state"]}
        return self.model.apply(collections, images, texts, method="similarity")


def build(
    *,
    model: Mapping[str, Any] | None,
    data: DataInfo,
    tokenizer: str | Mapping[str, Any],
    context: Literal["unified", "csc"] = "unified",
    context_length: Count | None = None,
    words: str | None = None,
    position: Position = "end",
    classes: Classes = "all",
) -> CoOp:
    """The task for the classes that the data names.

    Args:
        model: the section of a `clip`, or of another model with two towers.
        tokenizer: that of the checkpoint: the name of a module in `vit_jax.data.tokenizers`, or its section.
        context: one for all classes, or class-specific.
        context_length: M, the number of learned vectors; None for as many as the words are, or 16.
        words: what they start from, such as "a photo of a"; None for N(0, 0.02).
        position: where the class's name stands: after the context, in its middle, or in front of it.
        classes: whether all classes are trained on, or the first half ("base"); prompts are made for all.

    Raises:
        UserError: see `prompted`.
    """
    made = prompted(
        model, data, tokenizer, context_length=context_length, usual=16, words=words, position=position,
        classes=classes, for_each_class=context == "csc",
    )  # fmt: skip
    return CoOp(**made)
