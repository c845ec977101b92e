"""Supervised image classification: Dosovitskiy et al., "An Image is Worth 16x16 Words" (arXiv:2010.11929).

Softmax cross-entropy is the loss of fine-tuning and of ImageNet-1k training, the sigmoid loss that of
ImageNet-21k pretraining (section B.1), where it goes with a head bias near -log(num_classes).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.naming import build_model, nearest
from vit_jax.ranges import Decay
from vit_jax.tasks import Batch, DataInfo, Metrics, Variables

LOSSES = ("softmax", "sigmoid")


@dataclasses.dataclass(frozen=True)
class Classify:
    """Classification of `batch["image"]` float [B, H, W, 3] into `batch["label"]`, int32 [B] or shares [B, K].

    Args:
        model: called as `model(images, train=...)`, returns a dict with `logits` [B, K] and `features` [B, D].
        model_spec: what rebuilds the model from a checkpoint.
        num_classes: K.
        objective: 'softmax' or 'sigmoid' cross-entropy; the sigmoid form sums over classes.
        label_smoothing: share of the target that is spread over all classes.
    """

    model: nn.Module
    model_spec: Mapping[str, Any] = dataclasses.field(hash=False)
    num_classes: int
    objective: str = "softmax"
    label_smoothing: float = 0.0
    mixed_labels: ClassVar[bool] = True

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        variables = self.model.init({"params": rng}, batch["image"], train=False)
        return {"params": variables["params"], "model_state": {k: v for k, v in variables.items() if k != "params"}}

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        del step
        dropout, drop_path = jax.random.split(rng)
        state = variables["model_state"]
        outputs, new_state = self.model.apply(
            {"params": variables["params"], **state},
            batch["image"],
            train=True,
            rngs={"dropout": dropout, "drop_path": drop_path},
            mutable=list(state),
        )
        logits = outputs["logits"]
        targets = self.targets(batch["label"])
        if self.objective == "softmax":
            losses = optax.softmax_cross_entropy(logits, targets)
        else:
            losses = optax.sigmoid_binary_cross_entropy(logits, targets).sum(axis=-1)
        correct = (logits.argmax(-1) == targets.argmax(-1)).astype(jnp.float32)
        count = jnp.float32(losses.shape[0])
        return losses.mean(), ({"loss": (losses.sum(), count), "accuracy": (correct.sum(), count)}, new_state)

    def targets(self, label: Int[Array, " B"] | Float[Array, "B K"]) -> Float[Array, "B K"]:
        """Class indices, multi-hot or mixed labels as smoothed float32 targets."""
        targets = label.astype(jnp.float32) if label.ndim == 2 else jax.nn.one_hot(label, self.num_classes)
        return optax.smooth_labels(targets, self.label_smoothing) if self.label_smoothing else targets

    def outputs(self, variables: Variables, batch: Batch) -> dict[str, Array]:
        return self.model.apply(
            {"params": variables["params"], **variables["model_state"]}, batch["image"], train=False
        )


def probabilities(logits: Float[Array, "B K"], objective: str) -> Float[Array, "B K"]:
    """What a model trained with `objective` says: classes that sum to 1, or each by itself."""
    return jax.nn.softmax(logits) if objective == "softmax" else jax.nn.sigmoid(logits)


def build(
    *, model: Mapping[str, Any], data: DataInfo, objective: str = "softmax", label_smoothing: Decay = 0.0
) -> Classify:
    """The task for the classes that the data names."""
    if objective not in LOSSES:
        raise UserError(f"There is no classification objective named {objective!r}", nearest(objective, LOSSES))
    num_classes = len(data.label_names)
    module, spec = build_model(model, num_classes=num_classes)
    return Classify(module, spec, num_classes, objective, label_smoothing)
