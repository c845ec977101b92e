"""A small classifier learns from a large one that stays as it is: Hinton et al., "Distilling the knowledge in a neural
network" (arXiv:1503.02531); DeiT's hard labels and distillation token (Touvron et al., arXiv:2012.12877, section 4);
and with `alpha=1` and mixup the patient and consistent teacher of Beyer et al. (arXiv:2106.05237).

The teacher sees the very images that the student sees, cropped, mixed and erased: its answers are computed in the step.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vit_jax.data.classes import class_positions
from vit_jax.errors import UserError
from vit_jax.naming import build_model, build_named, construct
from vit_jax.nn.classification_loss import classification_losses
from vit_jax.nn.distillation_loss import Form, distillation_losses
from vit_jax.nn.flops import forward_flops
from vit_jax.nn.resize import resize_maps
from vit_jax.ranges import Count, Decay, Positive, Share
from vit_jax.tasks import Batch, DataInfo, Metrics, Variables, chosen, in_training
from vit_jax.tasks._teacher import TEACHER, apart, with_teacher
from vit_jax.tasks.classify import Classify

TRAINING_ONLY = (TEACHER,)  # what `convert` leaves out of a student for other libraries


@dataclasses.dataclass(frozen=True)
class Sees:
    """The `task.teacher_sees` section: the teacher's images.

    Args:
        image_size: their height and width; others are resized (bicubic, antialiased) on the device.
        mean: per channel, in pixel values 0..255.
        std: the same for the standard deviation.
    """

    image_size: tuple[Count, Count]
    mean: tuple[float, float, float]
    std: tuple[Positive, Positive, Positive]


@dataclasses.dataclass(frozen=True)
class Distil(Classify):
    """Classification, of which `alpha` of the loss is how far the answers are from the teacher's.

    Parameters: the student's, and below `teacher` the teacher's; how a config freezes and loads it says
    `vit_jax.tasks._teacher`. A student with DeiT's distillation token (`pooling="distilled"`) learns the labels with
    the class token's head and the teacher's answers with the other.

    Args:
        teacher: a classifier of the same classes.
        sees: its images.
        pixels: mean and standard deviation of the student's, as in `Sees`.
        places: of the student's classes among the teacher's; None where they are the same in the same order.
        form: see `vit_jax.nn.distillation_loss`, like `temperature`.
        alpha: the teacher's share of the loss; the labels have the rest. They alone are smoothed.
    """

    teacher: nn.Module = dataclasses.field(kw_only=True)
    sees: Sees = dataclasses.field(kw_only=True)
    pixels: tuple[tuple[float, ...], tuple[float, ...]] = dataclasses.field(kw_only=True)
    places: tuple[int, ...] | None = None
    form: Form = "soft"
    temperature: float = 1.0
    alpha: float = 0.5
    locked_when_loaded: ClassVar[tuple[str, ...]] = (TEACHER,)

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        student = super().init(rng, batch)
        return with_teacher(student, self.teacher.init({"params": rng}, self._shown(batch["image"]), train=False))

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        del step
        own, teacher = apart(variables)
        taught = jax.lax.stop_gradient(self._taught(variables, batch))
        keys = jax.random.split(rng)
        outputs, state = in_training(self.model, own["params"], own["model_state"], keys, batch["image"])
        logits = outputs["logits"]
        each = outputs.get("head_logits")
        of_labels, of_teacher = (logits, logits) if each is None else (each[:, 0], each[:, 1])

        label = classification_losses(of_labels, self._targets(batch["label"]), self.objective)
        distillation = distillation_losses(of_teacher, taught, self.form, self.temperature)
        losses = (1 - self.alpha) * label + self.alpha * distillation
        agreed = (logits.argmax(-1) == taught.argmax(-1)).sum(dtype=jnp.float32)
        size = jnp.float32(losses.size)
        metrics = {
            "loss": (losses.sum(), size),
            "label_loss": (label.sum(), size),
            "distillation": (distillation.sum(), size),
            "accuracy": self._accuracy(logits, batch["label"]),
            "teacher_accuracy": self._accuracy(taught, batch["label"]),
            "agreement": (agreed, size),
        }
        return losses.mean(), (metrics, with_teacher({**own, "model_state": state}, teacher)["model_state"])

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        """See `Classify`, of the student; and `teacher_logits [B, K]`, in the order of the student's classes."""
        asked = {"teacher_logits"} & names
        found = chosen(asked, {"teacher_logits": lambda: self._taught(variables, batch)})
        if names == asked:
            return found
        return found | super().outputs(variables, batch, names - asked, rng)

    def flops(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> float | None:
        """Those of the student's training, and of the teacher's pass forward."""
        student, teacher = self.forward_flops(batch), forward_flops(self.teacher, self.sees.image_size)
        return None if student is None or teacher is None else 3 * student + teacher

    def _shown(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B h w 3"]:
        """The student's normalised images as the teacher's."""
        mean, std = self.pixels
        if (mean, std) != (self.sees.mean, self.sees.std):
            per_channel = zip(mean, std, self.sees.mean, self.sees.std, strict=True)
            scale, shift = zip(*((s / to_s, (m - to_m) / to_s) for m, s, to_m, to_s in per_channel), strict=True)
            images = images * jnp.float32(scale) + jnp.float32(shift)
        return resize_maps(images, self.sees.image_size, "bicubic_antialias")

    def _taught(self, variables: Variables, batch: Batch) -> Float[Array, "B K"]:
        """The teacher's logits, as in evaluation."""
        logits = self.teacher.apply(apart(variables)[1], self._shown(batch["image"]), train=False)["logits"]
        return logits if self.places is None else logits[:, jnp.array(self.places)]


def build(
    *,
    model: Mapping[str, Any],
    data: DataInfo,
    teacher: Mapping[str, Any],
    teacher_sees: Mapping[str, Any],
    teacher_classes: Sequence[str] | None = None,
    form: Form = "soft",
    temperature: Positive = 1.0,
    alpha: Share = 0.5,
    objective: Literal["softmax", "sigmoid"] = "softmax",
    label_smoothing: Decay = 0.0,
) -> Distil:
    """The task for the classes that the data names.

    Args:
        model: the student's section.
        teacher: the teacher's section, with its `num_classes`. This and the two after it are what
            `vit_jax.checkpoints.transfer.teacher_sections` says of any checkpoint that `load` reads.
        teacher_sees: see `Sees`.
        teacher_classes: names of its classes; None for those of the data in their order.
        form: see `Distil`, like `temperature` and `alpha`.
        objective: of the labels, see `vit_jax.tasks.classify.Classify`, like `label_smoothing`. The teacher's answers
            are compared as probabilities that sum to 1, whatever it was trained with.

    Raises:
        UserError: for a teacher that is no classifier, or one of other classes.
    """
    count = len(data.label_names)
    if not teacher.get("num_classes"):
        raise UserError(f"The teacher {teacher.get('name')!r} is no classifier", "Give one with classes to learn from")
    if form == "hard" and temperature != 1:
        raise UserError("Hard labels have no temperature", "Leave config.task.temperature out, or set form='soft'")
    student, spec = build_model(model, num_classes=count)
    sees = construct(Sees, teacher_sees, "config.task.teacher_sees")
    own = data.fields["image"].preprocess
    return Distil(
        student,
        spec,
        count,
        objective,
        label_smoothing,
        teacher=build_named("model", teacher, "config.task.teacher"),
        sees=Sees(*(tuple(getattr(sees, field.name)) for field in dataclasses.fields(Sees))),
        pixels=(tuple(own.mean), tuple(own.std)),
        places=_places(data.label_names, teacher_classes, teacher["num_classes"]),
        form=form,
        temperature=temperature,
        alpha=alpha,
    )


def _places(names: Sequence[str], known: Sequence[str] | None, count: int) -> tuple[int, ...] | None:
    """Of the data's classes among the teacher's, which must be the same ones."""
    advice = "Distil on the data that the teacher was trained for, or fine-tune the teacher on this first"
    if count != len(names):
        raise UserError(f"The teacher has {count} classes, and the data {len(names)}", advice)
    if not known:
        return None
    try:
        places = tuple(class_positions(names, known))
    except UserError as error:
        raise UserError(f"The teacher's classes are not the data's: {error.what}", advice) from error
    return None if places == tuple(range(count)) else places
