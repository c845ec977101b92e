"""A small encoder learns to give what a large one gives: how EfficientViT-SAM is made of SAM (Zhang et al.,
arXiv:2402.05008, section 3.2), before it is trained on masks.

The loss is the mean squared difference of the embeddings of an image, the teacher's being frozen. No mask is needed.
Prompts and decoder are the teacher's and, where the config freezes them, stay so: what comes out answers prompts.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.naming import build_model
from vit_jax.nn.flops import forward_flops
from vit_jax.nn.resize import resize_maps
from vit_jax.ranges import Count
from vit_jax.tasks import Batch, DataInfo, Metrics, Variables, chosen, in_training
from vit_jax.tasks._teacher import TEACHER, apart, with_teacher
from vit_jax.tasks.sam import SegmentAnything


@dataclasses.dataclass(frozen=True)
class DistilEncoder(SegmentAnything):
    """The student's `encoder`, `neck`, `prompts` and `decoder`, and below `teacher` the teacher's encoder and neck.

    How a config freezes and loads the teacher says `vit_jax.tasks._teacher`.

    Args:
        teacher: a model of prompts, of which the embedding is taken.
        student_size: height and width to which images are resized for the student (bicubic, antialiased); None for
            the images as the teacher sees them.
    """

    teacher: nn.Module = dataclasses.field(kw_only=True)
    student_size: tuple[int, int] | None = None
    takes: ClassVar[tuple[str, ...]] = ("teacher_embedding",)
    takes_beside: ClassVar[tuple[str, ...]] = ("image",)
    locked_when_loaded: ClassVar[tuple[str, ...]] = (TEACHER,)

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        student = super().init(rng, self._seen(batch))
        taught, teacher = self.teacher.init_with_output({"params": rng}, batch["image"], method="embed")
        of_student = {"params": student["params"], **student["model_state"]}
        found = jax.eval_shape(lambda: self.model.apply(of_student, self._seen(batch)["image"], method="embed"))
        if found.shape != taught.shape:
            of_teacher, own = ("x".join(map(str, x.shape[1:])) for x in (taught, found))
            raise UserError(
                f"The teacher's embedding has {of_teacher} numbers, the student's {own}",
                "Give config.model another width or embedding_size",
            )
        return with_teacher(student, teacher)

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        del step
        taught = batch.get("teacher_embedding")
        taught = jax.lax.stop_gradient(self._taught(variables, batch) if taught is None else taught)
        own, teacher = apart(variables)
        keys, image = jax.random.split(rng), self._seen(batch)["image"]
        found, state = in_training(self.model, own["params"], own["model_state"], keys, image, method="embed")
        taught = taught.astype(jnp.float32)
        error = jnp.square(found.astype(jnp.float32) - taught).mean((1, 2, 3))
        spread = taught.var((1, 2, 3))
        size = jnp.float32(error.size)
        # Of the variance within the teacher's embedding of an image, the share that the student misses.
        metrics = {"loss": (error.sum(), size), "missed": ((error / jnp.maximum(spread, 1e-12)).sum(), size)}
        return error.mean(), (metrics, with_teacher({**own, "model_state": state}, teacher)["model_state"])

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        """See `SegmentAnything`, of what the student makes of images; and `teacher_embedding [B, h, w, C]`."""
        of_teacher = {"teacher_embedding"} & names
        found = chosen(of_teacher, {"teacher_embedding": lambda: self._taught(variables, batch)})
        if names == of_teacher:
            return found
        return found | super().outputs(variables, self._seen(batch), names - of_teacher, rng)

    def forward_flops(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> float | None:
        """Those of the student."""
        return forward_flops(self.model, self.student_size or batch["image"].shape[1:3])

    def flops(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> float | None:
        """Those of the student's training, and of the teacher's pass forward."""
        student, teacher = self.forward_flops(batch), forward_flops(self.teacher, batch["image"].shape[1:3])
        return None if student is None or teacher is None else 3 * student + teacher

    def _seen(self, batch: Batch) -> dict[str, Array]:
        """The batch with its images as the student sees them."""
        if self.student_size is None or "image" not in batch:
            return dict(batch)
        return {**batch, "image": resize_maps(batch["image"], self.student_size, "bicubic_antialias")}

    def _taught(self, variables: Variables, batch: Batch) -> Float[Array, "B h w C"]:
        """The teacher's embedding."""
        return self.teacher.apply(apart(variables)[1], batch["image"], method="embed")


def build(
    *,
    model: Mapping[str, Any],
    data: DataInfo,
    teacher: Mapping[str, Any],
    student_size: Sequence[Count] | None = None,
) -> DistilEncoder:
    """The task.

    Args:
        model: the student's section, such as `efficientvit_sam`.
        teacher: the teacher's section, such as `sam`.
        student_size: see `DistilEncoder`.
    """
    del data
    student, spec = build_model(model, num_classes=0)
    taught = build_model(teacher, num_classes=0)[0]
    for what, module in (
        (f"config.model {model.get('name')!r}", student),
        (f"teacher {teacher.get('name')!r}", taught),
    ):
        if not hasattr(module, "embed"):
            raise UserError(f"The {what} gives no embedding for prompts", "Use sam or efficientvit_sam")
    size = None if student_size is None else tuple(student_size)
    return DistilEncoder(student, spec, 1, teacher=taught, student_size=size)
