"""Supervised image classification: Dosovitskiy et al., "An Image is Worth 16x16 Words" (arXiv:2010.11929).

Softmax cross-entropy is the loss of fine-tuning and of ImageNet-1k training, the sigmoid loss that of
ImageNet-21k pretraining (section B.1), where it goes with a head bias near -log(num_classes).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vit_jax.data.fields import Fields
from vit_jax.errors import UserError
from vit_jax.naming import build_model, nearest
from vit_jax.nn.classification_loss import OBJECTIVES, classification_losses, probabilities
from vit_jax.nn.classification_loss import class_weights as weights_of
from vit_jax.ranges import Decay, NonNegative, Positive, Share
from vit_jax.tasks import Answer, Batch, DataInfo, Metrics, Ranked, Task, Variables, chosen, in_training, model_outputs


@dataclasses.dataclass(frozen=True)
class Classify(Task):
    """Classification of `batch["image"]` float [B, H, W, 3] into `batch["label"]`, int32 [B] or shares [B, K].

    Several labels an image come as multi-hot [B, K]. 'sigmoid' takes each class by itself. 'softmax' gives each of n
    labels a share of 1 / n, as in Mahajan et al. (arXiv:1805.00932, section 2.2), and an image without a label, from
    which it learns nothing, a loss of 0. `accuracy` counts an image as right whose most likely class is one of its
    labels, and leaves out those without any.

    Args:
        model: called as `model(images, train=...)`, returns a dict with `logits` [B, K] and `features` [B, D].
        model_spec: what rebuilds the model from a checkpoint.
        num_classes: K.
        objective: 'softmax' or 'sigmoid' cross-entropy; the sigmoid form sums over classes.
        label_smoothing: share of the target that is spread over all classes.
        class_weights: what each class's term of the loss is multiplied by; None for 1.
        focal_gamma: power of the focal factor, 2 in its paper (arXiv:1708.02002); 0 for plain cross-entropy. For both
            see `vit_jax.nn.classification_loss`.
        focal_alpha: with 'sigmoid', the share of what says yes, 0.25 in that paper; None for equal shares.
    """

    model: nn.Module
    model_spec: Mapping[str, Any] = dataclasses.field(hash=False)
    num_classes: int
    objective: str = "softmax"
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None
    focal_gamma: float = 0.0
    focal_alpha: float | None = None
    mixed_labels: ClassVar[bool] = True
    answered_by: ClassVar[tuple[str, ...]] = ("logits",)

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        variables = self.model.init({"params": rng}, batch["image"], train=False)
        return {"params": variables["params"], "model_state": {k: v for k, v in variables.items() if k != "params"}}

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        del step
        outputs, new_state, told = self._in_training(variables, batch["image"], rng)
        logits = outputs["logits"]
        targets = self._targets(batch["label"])
        weights = None if self.class_weights is None else jnp.array(self.class_weights, jnp.float32)
        losses = classification_losses(logits, targets, self.objective, weights, self.focal_gamma, self.focal_alpha)
        metrics = {
            "loss": (losses.sum(), jnp.float32(losses.shape[0])),
            "accuracy": self._accuracy(logits, batch["label"]),
        }
        return losses.mean(), (metrics | told, new_state)

    def _accuracy(self, logits: Float[Array, "B K"], label: Array) -> tuple[Array, Array]:
        """The answer is right if it is one of several labels, or of mixed ones the largest; no answer is right where
        there is no label."""
        label = self._shares(label)
        largest = label.max(axis=-1)
        correct = jnp.take_along_axis(label, logits.argmax(-1)[:, None], axis=-1)[:, 0] == largest
        labelled = (largest > 0).astype(jnp.float32)
        return (correct * labelled).sum(), labelled.sum()

    def _in_training(
        self, variables: Variables, images: Float[Array, "B H W 3"], rng: PRNGKeyArray
    ) -> tuple[dict[str, Array], Any, Metrics]:
        """What the model gives, its new state, and what else is to be told of it."""
        params, state = variables["params"], variables["model_state"]
        return *in_training(self.model, params, state, jax.random.split(rng), images), {}

    def _targets(self, label: Int[Array, " B"] | Float[Array, "B K"]) -> Float[Array, "B K"]:
        """Class indices, multi-hot or mixed labels as smoothed targets; for softmax each row sums to 1, or 0."""
        targets = self._shares(label)
        total = targets.sum(axis=-1, keepdims=True)
        if self.objective == "softmax" and label.ndim == 2:
            targets = targets / jnp.where(total > 0, total, 1)
        if self.label_smoothing:
            targets = optax.smooth_labels(targets, self.label_smoothing)
        return targets * (total > 0) if self.objective == "softmax" else targets

    def _shares(self, label: Int[Array, " B"] | Float[Array, "B K"]) -> Float[Array, "B K"]:
        """Class indices as one-hot; multi-hot and mixed labels as they are."""
        return label.astype(jnp.float32) if label.ndim == 2 else jax.nn.one_hot(label, self.num_classes)

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        del rng
        return chosen(names, model_outputs(self.model, variables, batch["image"], names))

    def answers(self, outputs: Mapping[str, Array], fields: Fields) -> list[Answer]:
        rows = np.asarray(probabilities(outputs["logits"], self.objective))
        names = fields["label"].names or tuple(map(str, range(rows.shape[1])))
        return [Ranked(names, row) for row in rows]


def build(
    *,
    model: Mapping[str, Any],
    data: DataInfo,
    objective: str = "softmax",
    label_smoothing: Decay = 0.0,
    class_weights: Mapping[str, Positive] | Sequence[Positive] | Literal["balanced"] | None = None,
    focal_gamma: NonNegative = 0.0,
    focal_alpha: Share | None = None,
) -> Classify:
    """The task for the classes that the data names.

    Args:
        class_weights: by class name, 1 for those left out; one for each class, in the order of the data's classes; or
            'balanced', by how rare each is in the training source.

    Raises:
        UserError: for an unknown objective, weights that are not those of the classes, 'balanced' with a source that
            does not know its labels, or `focal_alpha` with 'softmax'.
    """
    if objective not in OBJECTIVES:
        raise UserError(f"Unknown classification objective {objective!r}", nearest(objective, OBJECTIVES))
    if focal_alpha is not None and objective == "softmax":
        raise UserError(
            "config.task.focal_alpha weighs yes against no, which the objective 'softmax' does not ask",
            "Set config.task.class_weights, or the objective 'sigmoid'",
        )
    num_classes = len(data.label_names)
    module, spec = build_model(model, num_classes=num_classes)
    weights = weights_of(class_weights, data.label_names, data.class_counts)
    return Classify(module, spec, num_classes, objective, label_smoothing, weights, focal_gamma, focal_alpha)
