"""Semantic segmentation: a class for each pixel, by the cross-entropy of pixels (Long et al., arXiv:1411.4038)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vit_jax.data.fields import Fields
from vit_jax.data.fields.dense import class_map
from vit_jax.data.palettes import colors_for
from vit_jax.errors import UserError
from vit_jax.naming import build_model, named_module
from vit_jax.nn.classification_loss import class_weights as weights_of
from vit_jax.nn.resize import resize_maps
from vit_jax.ranges import NonNegative, Positive
from vit_jax.tasks import Answer, Batch, DataInfo, Metrics, Task, Variables, chosen, in_training, model_outputs


@dataclasses.dataclass(frozen=True)
class Segment(Task):
    """Classes of the pixels of `batch["image"]` float [B, H, W, 3], which `batch[labels]` int32 [B, H, W] has.

    The loss is the mean over images of the mean over the pixels of each that have a class, so that it does not depend
    on how a batch is divided. An image without such a pixel counts as a loss of 0, and for no metric.

    Outputs: those of the model, with `mask_logits` [B, h, w, K] at the stride of its head, and `class_map` int32
    [B, H, W]: the class of the largest logit, of logits that are resized bilinearly to the image.

    Args:
        model: gives `mask_logits`, and in training perhaps `auxiliary_logits`.
        model_spec: what rebuilds the model from a checkpoint.
        label_names: K of them.
        labels: the field of the classes.
        ignore: what stands where a pixel has no class.
        class_weights: what the term of each class is multiplied by; None for 1. See
            `vit_jax.nn.classification_loss.classification_losses`.
        auxiliary_weight: of the loss of `auxiliary_logits`.
    """

    model: nn.Module
    model_spec: Mapping[str, Any] = dataclasses.field(hash=False)
    label_names: tuple[str, ...]
    labels: str = "segmentation"
    ignore: int = 255
    class_weights: tuple[float, ...] | None = None
    auxiliary_weight: float = 0.4
    answered_by: ClassVar[tuple[str, ...]] = ("class_map",)

    @property
    def downstream(self) -> Mapping[str, Any]:
        """The trunk, which goes on to other tasks."""
        section = dict(named_module("model", self.model_spec["name"]).downstream(self.model_spec["kwargs"]))
        return {"name": section.pop("name"), "kwargs": section}

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        variables = self.model.init({"params": rng}, batch["image"], train=False)
        return {"params": variables["params"], "model_state": {k: v for k, v in variables.items() if k != "params"}}

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        del step
        params, state, label = variables["params"], variables["model_state"], batch[self.labels]
        outputs, new_state = in_training(self.model, params, state, jax.random.split(rng), batch["image"])
        logits = resize_maps(outputs["mask_logits"], label.shape[1:], "half_pixel")
        losses, known = self._of_images(logits, label)
        right = ((logits.argmax(-1) == label) & (label != self.ignore)).sum(dtype=jnp.float32)
        images = (known > 0).sum(dtype=jnp.float32)
        metrics = {"loss": (losses.sum(), images), "pixel_accuracy": (right, known.sum())}
        if "auxiliary_logits" in outputs:
            auxiliary = resize_maps(outputs["auxiliary_logits"], label.shape[1:], "half_pixel")
            second = self._of_images(auxiliary, label)[0]
            metrics["auxiliary_loss"] = (second.sum(), images)
            losses = losses + self.auxiliary_weight * second
        return losses.mean(), (metrics, new_state)

    def _of_images(
        self, logits: Float[Array, "B H W K"], label: Int[Array, "B H W"]
    ) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
        """The mean cross-entropy of each image's pixels with a class, 0 where there is none, and how many there are."""
        there = label != self.ignore
        there, classes = there.astype(jnp.float32), jnp.where(there, label, 0)
        picked = jnp.take_along_axis(logits, classes[..., None], axis=-1)[..., 0]
        terms = (jax.nn.logsumexp(logits, axis=-1) - picked) * there
        if self.class_weights is not None:
            terms = terms * jnp.array(self.class_weights, jnp.float32)[classes]
        known = there.sum(axis=(1, 2))
        return terms.sum(axis=(1, 2)) / jnp.maximum(known, 1), known

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        del rng
        given = model_outputs(self.model, variables, batch["image"], names)

        def classes() -> Int[Array, "B H W"]:
            logits = resize_maps(given["mask_logits"], batch["image"].shape[1:3], "half_pixel")
            return logits.argmax(-1).astype(jnp.int32)

        return chosen(names, {**given, "class_map": classes})

    def answers(self, outputs: Mapping[str, Array], fields: Fields) -> list[Answer]:
        """The class map in the colours of the classes."""
        colors = colors_for(self.label_names)
        return [colors[classes] for classes in np.asarray(outputs["class_map"])]


def build(
    *,
    model: Mapping[str, Any],
    data: DataInfo,
    class_weights: Mapping[str, Positive] | Sequence[Positive] | None = None,
    auxiliary_weight: NonNegative = 0.4,
) -> Segment:
    """The task for the classes of the data's field of classes, of which there is one.

    Args:
        class_weights: by class name, 1 for those left out; or one for each class, in their order.
        auxiliary_weight: of the loss of a head's second answer, where it has one: .4 in PSPNet (arXiv:1612.01105) and
            UPerNet.

    Raises:
        UserError: for data without such a field, of other classes than are named, or weights that do not fit.
    """
    name, field = class_map(data.fields)
    names = data.label_names or tuple(map(str, range(field.count)))
    if len(names) != field.count:
        raise UserError(
            f"The data names {len(names)} classes, and config.data.fields.{name} counts {field.count}",
            f"Set its count to {len(names)}",
        )
    module, spec = build_model(model, num_classes=len(names))
    weights = weights_of(class_weights, names)
    return Segment(module, spec, names, name, int(field.ignore), weights, auxiliary_weight)
