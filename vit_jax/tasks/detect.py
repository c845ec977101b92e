"""Detection of a set of boxes (DETR, arXiv:2005.12872, as YOLOS, arXiv:2106.00666, uses it).

Each image's boxes are given to as many of the model's detections, one to one, so that the sum of the costs is least;
these learn their class and box, and the others that there is no object. All losses are means of each image, where the
authors' are of the batch's boxes, so that an image counts the same in any batch.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from vit_jax.data.fields import Fields
from vit_jax.data.fields.boxes import Boxes
from vit_jax.errors import UserError
from vit_jax.models.yolos import Yolos
from vit_jax.naming import build_model
from vit_jax.nn.box_loss import centred, corners, generalized_iou
from vit_jax.ranges import NonNegative, Share
from vit_jax.tasks import Batch, DataInfo, Metrics, Task, Variables, chosen, in_training, model_outputs

_WORST = 1e6  # the cost of what is not a number, which would keep the matching going for ever


@dataclasses.dataclass(frozen=True)
class Weights:
    """What the parts of the cost and of the loss count for.

    Args:
        l1: of the mean distance between the sides of boxes, as shares of the image.
        giou: of one less the generalised intersection over union.
        no_object: of the cross-entropy of a detection without an object, beside 1 of one with.
    """

    l1: NonNegative = 5.0
    giou: NonNegative = 2.0
    no_object: Share = 0.1


def matched(
    logits: Float[Array, "n k"],
    boxes: Float[Array, "n 4"],
    wanted: Float[Array, "m 4"],
    classes: Int[Array, " m"],
    valid: Bool[Array, " m"],
    weights: Weights,
) -> Int[Array, " n"]:
    """Of each detection of one image which box it is to be, m for none.

    Args:
        logits: the last of no object.
        boxes: centres and sizes, like `wanted`.
        valid: which boxes are there; the others are given to nobody.
    """
    distance = jnp.abs(boxes[:, None] - wanted[None]).sum(-1)
    overlap = generalized_iou(corners(boxes)[:, None], corners(wanted)[None])
    cost = weights.l1 * distance - weights.giou * overlap - jax.nn.softmax(logits)[:, classes]
    cost = jnp.nan_to_num(jnp.where(valid[None], cost, 0.0), nan=_WORST, posinf=_WORST, neginf=-_WORST)
    rows, columns = optax.assignment.hungarian_algorithm(cost)
    found = jnp.full(logits.shape[0], wanted.shape[0])
    return found.at[rows].set(jnp.where(valid[columns], columns, wanted.shape[0]))


@dataclasses.dataclass(frozen=True)
class Detect(Task):
    """Boxes `batch["boxes"]` [B, M, 4] with classes and validity on `batch["image"]` [B, H, W, 3].

    Args:
        model: gives "detection_logits" and "detection_boxes".
        model_spec: what rebuilds it from a checkpoint.
        label_names: of the classes.
        weights: see `Weights`.
    """

    model: Yolos
    model_spec: Mapping[str, Any] = dataclasses.field(hash=False)
    label_names: tuple[str, ...]
    weights: Weights = Weights()
    answered_by: tuple[str, ...] = ("boxes", "scores", "classes")

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        params = self.model.init({"params": rng}, batch["image"], train=False)["params"]
        return {"params": params, "model_state": {}}

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        del step
        images = batch["image"]
        outputs, state = in_training(
            self.model, variables["params"], variables["model_state"], jax.random.split(rng), images
        )
        sides = jnp.float32([images.shape[2], images.shape[1]] * 2)
        parts = jax.vmap(self._of_image)(
            outputs["detection_logits"], outputs["detection_boxes"], centred(batch["boxes"] / sides),
            batch["boxes_class"], batch["boxes_valid"],
        )  # fmt: skip
        total = parts["class_loss"] + self.weights.l1 * parts["l1"] + self.weights.giou * parts["giou"]
        count = jnp.float32(len(total))
        metrics = {"loss": (total.sum(), count)} | {name: (part.sum(), count) for name, part in parts.items()}
        return total.mean(), (metrics, state)

    def _of_image(
        self,
        logits: Float[Array, "n k"],
        boxes: Float[Array, "n 4"],
        wanted: Float[Array, "m 4"],
        classes: Int[Array, " m"],
        valid: Bool[Array, " m"],
    ) -> dict[str, Float[Array, ""]]:
        given = jax.lax.stop_gradient(matched(logits, boxes, wanted, classes, valid, self.weights))
        has = given < len(wanted)
        box = wanted[jnp.where(has, given, 0)]
        kind = jnp.where(has, classes[jnp.where(has, given, 0)], logits.shape[1] - 1)
        weight = jnp.where(has, 1.0, self.weights.no_object)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, kind)
        most = jnp.maximum(has.sum(), 1)
        overlap = generalized_iou(corners(boxes), corners(box))
        return {
            "class_loss": (weight * losses).sum() / jnp.maximum(weight.sum(), 1e-6),
            "l1": jnp.where(has, jnp.abs(boxes - box).sum(-1), 0).sum() / most,
            "giou": jnp.where(has, 1 - overlap, 0).sum() / most,
        }

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        """Those of the model; and of each detection, the surest first, "boxes" [B, n, 4] (left, top, right, bottom) in
        pixels of the image, "scores" [B, n] of its likeliest class of an object, and "classes" int32 [B, n]."""
        del rng
        images = batch["image"]
        found = model_outputs(self.model, variables, images, names)
        shares = jax.nn.softmax(found["detection_logits"])[..., :-1]
        order = jnp.argsort(-shares.max(-1), axis=1)
        sides = jnp.float32([images.shape[2], images.shape[1]] * 2)
        edges = jnp.clip(corners(found["detection_boxes"]), 0, 1) * sides

        def sorted_by_score(values: Array) -> Array:
            return jnp.take_along_axis(values, order.reshape(*order.shape, *[1] * (values.ndim - 2)), axis=1)

        made = {"boxes": edges, "scores": shares.max(-1), "classes": shares.argmax(-1).astype(jnp.int32)}
        return chosen(names, found | {name: sorted_by_score(values) for name, values in made.items()})

    def answers(self, outputs: Mapping[str, Array], fields: Fields) -> list[str]:
        """What is on each image with more than even odds, and where in the view that the model sees."""
        del fields
        texts = []
        for boxes, scores, classes in zip(*(np.asarray(outputs[name]) for name in self.answered_by), strict=True):
            seen = [
                f"{self.label_names[kind]} {score:.0%} at {', '.join(f'{side:.0f}' for side in box)}"
                for box, score, kind in zip(boxes, scores, classes, strict=True)
                if score > 0.5
            ]
            texts.append("; ".join(seen) or "nothing")
        return texts


def build(
    *, model: Mapping[str, Any], data: DataInfo, l1: NonNegative = 5.0, giou: NonNegative = 2.0, no_object: Share = 0.1
) -> Detect:
    """The task for the boxes of the data's field "boxes", or for the classes that the data names without one.

    Args:
        l1: see `Weights`, like `giou` and `no_object`.

    Raises:
        UserError: for a model that detects nothing or less than an image may have, and boxes without classes.
    """
    boxes = data.fields.get("boxes")
    count = boxes.classes if isinstance(boxes, Boxes) else len(data.label_names)
    if not count:
        raise UserError("The boxes have no classes to detect", "Set config.data.fields.boxes.classes")
    module, spec = build_model(model, num_classes=count)
    if not isinstance(module, Yolos):
        raise UserError(f"The model '{model['name']}' does not detect", "Set config.model.name=yolos")
    if isinstance(boxes, Boxes) and boxes.count > module.num_detections:
        raise UserError(
            f"An image may have {boxes.count} boxes, and the model has {module.num_detections} tokens for them",
            "Set config.data.fields.boxes.count to less, or config.model.num_detections to more",
        )
    names = tuple(data.label_names)[:count] if len(data.label_names) >= count else tuple(map(str, range(count)))
    return Detect(module, spec, names, Weights(l1, giou, no_object))
