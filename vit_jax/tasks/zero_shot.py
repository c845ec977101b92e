"""Classification by texts: the classes are the embeddings of what they are called, and nothing is trained.

Radford et al., "Learning transferable visual models from natural language supervision" (arXiv:2103.00020), section 3.1;
with subclasses that are mapped up to their classes, Novack et al., "CHiLS" (arXiv:2302.02551), algorithm 1. Such a task
is made of a checkpoint by `Loaded.zero_shot`, not by a config.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NoReturn

import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vit_jax.data.fields import Fields
from vit_jax.errors import UserError
from vit_jax.nn.classification_loss import probabilities
from vit_jax.nn.subclasses import mapped_up, reweighted
from vit_jax.tasks import Answer, Batch, Ranked, Task, Variables

CLASSES = "classes"  # beside "params": {"text_embedding": [K, E]} and of subclasses "finer_embedding" [S, E]


@dataclasses.dataclass(frozen=True)
class ZeroShot(Task):
    """`logits` [B, K] of images for classes that are texts, beside what the task below gives.

    Args:
        base: gives `image_embedding` [B, E].
        model: its model; its method `similarity` makes logits of embeddings.
        classes: names of the K classes.
        objective: what makes probabilities of the logits.
        parents: of each subclass the place of its class; None without subclasses.
        weighted: whether a subclass's probability is multiplied by its class's; otherwise it is mapped up as it is.
    """

    base: Task
    model: nn.Module
    classes: tuple[str, ...]
    objective: str = "softmax"
    parents: tuple[int, ...] | None = None
    weighted: bool = True
    answered_by: ClassVar[tuple[str, ...]] = ("logits",)

    def loss(self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]) -> NoReturn:
        raise UserError(
            "Zero-shot classes are not trained", "Train the checkpoint below, or prompts by the task 'coop'"
        )

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        below = {key: tree for key, tree in variables.items() if key != CLASSES}
        wanted = names - {"logits"} | ({"image_embedding"} if "logits" in names else frozenset())
        found = dict(self.base.outputs(below, batch, wanted, rng))
        if "logits" in names:
            found["logits"] = self._logits(below, variables[CLASSES], found["image_embedding"])
        return {name: found[name] for name in names}

    def _logits(
        self, variables: Variables, classes: Mapping[str, Array], images: Float[Array, "B E"]
    ) -> Float[Array, "B K"]:
        coarse = self._similarity(variables, images, classes["text_embedding"])
        if self.parents is None:
            return coarse
        finer = self._similarity(variables, images, classes["finer_embedding"])
        if self.weighted:
            return reweighted(finer, coarse, self.parents)
        return mapped_up(finer, self.parents, len(self.classes))

    def _similarity(
        self, variables: Variables, images: Float[Array, "B E"], texts: Float[Array, "K E"]
    ) -> Float[Array, "B K"]:
        collections = {"params": variables["params"], **variables.get("model_state", {})}
        return self.model.apply(collections, images, texts, method="similarity")

    def answers(self, outputs: Mapping[str, Any], fields: Fields) -> list[Answer]:
        rows = np.asarray(probabilities(outputs["logits"], self.objective))
        return [Ranked(self.classes, row) for row in rows]
