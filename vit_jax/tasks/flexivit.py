"""One ViT for all patch sizes: Beyer et al., "FlexiViT: one model for all patch sizes" (arXiv:2212.08013).

Each step has a patch size of its own, drawn on the host and static in what is compiled. The model's `underlying_patch`
and `underlying_grid` say what its parameters are for; the patch size in its variant is the one that it is evaluated at.
With a teacher it is distilled at every patch size, as the published ImageNet-1k models are (section 3.5).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vit_jax.data.fields import Fields
from vit_jax.data.seeds import one_of
from vit_jax.errors import UserError
from vit_jax.naming import construct
from vit_jax.ranges import Count
from vit_jax.tasks import Answer, Batch, DataInfo, Metrics, Task, Variables, classify, distil
from vit_jax.tasks.classify import Classify

TRAINING_ONLY = distil.TRAINING_ONLY
_SIZES = 0xF1E2  # which patch size a step has depends on this and the step alone


@dataclasses.dataclass(frozen=True)
class FlexiViT(Task):
    """Another task of a ViT, with a patch size for each step.

    Args:
        inner: what is learned at any patch size: classification, from labels or a teacher.
        patch_sizes: in pixels, one is drawn for each step with equal odds; each is a compilation of its own. The first
            step has the smallest, so that memory that is too small is noticed then.
    """

    inner: Classify
    patch_sizes: tuple[int, ...]
    mixed_labels: ClassVar[bool] = True
    answered_by: ClassVar[tuple[str, ...]] = ("logits",)

    @property
    def model(self) -> Any:
        """At the patch size of evaluation."""
        return self.inner.model

    @property
    def model_spec(self) -> Mapping[str, Any]:
        """See `Task`."""
        return self.inner.model_spec

    @property
    def objective(self) -> str:
        """See `Task`."""
        return self.inner.objective

    @property
    def locked_when_loaded(self) -> tuple[str, ...]:
        """See `Task`."""
        return self.inner.locked_when_loaded

    def static(self, step: int) -> int:
        """The patch size in the step after so many."""
        return min(self.patch_sizes) if step == 0 else one_of(self.patch_sizes, _SIZES, step)

    def _at(self, patch_size: int) -> Classify:
        """The same task at one patch size, on the same parameters."""
        model = self.inner.model
        encoder = model.encoder.clone(patch_size=(patch_size, patch_size))
        return dataclasses.replace(self.inner, model=model.clone(encoder=encoder))

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        return self.inner.init(rng, batch)

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""], *, static: int
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        return self._at(static).loss(variables, batch, rng, step)

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        """Those of the inner task, at the patch size of evaluation."""
        return self.inner.outputs(variables, batch, names, rng)

    def answers(self, outputs: Mapping[str, Array], fields: Fields) -> list[Answer]:
        return self.inner.answers(outputs, fields)

    def flops(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> float | None:
        """See `Task`: the mean over the patch sizes."""
        each = [self._at(patch_size).flops(batch) for patch_size in self.patch_sizes]
        return None if None in each else sum(each) / len(each)


def build(
    *,
    model: Mapping[str, Any],
    data: DataInfo,
    patch_sizes: Sequence[Count],
    **inner: Any,
) -> FlexiViT:
    """The task for the classes that the data names.

    Args:
        model: a ViT's section, with `underlying_patch`, and with `underlying_grid` where it learns positions.
        patch_sizes: see `FlexiViT`.
        inner: the arguments of `vit_jax.tasks.distil.build` with a `teacher` among them, else those of
            `vit_jax.tasks.classify.build`.

    Raises:
        UserError: for a model of one patch size, or patches that do not tile the images.
    """
    if model.get("name") != "vit" or not model.get("underlying_patch"):
        raise UserError(
            "The model has parameters for one patch size alone",
            "Set config.model.name=vit and config.model.underlying_patch, 32 in the paper",
        )
    if model.get("posemb", "learn") == "learn" and not model.get("underlying_grid"):
        raise UserError(
            "The model learns positions for one grid alone", "Set config.model.underlying_grid, 7 in the paper"
        )
    if not patch_sizes:
        raise UserError("config.task.patch_sizes is empty", "Give at least one patch size in pixels")
    for patch_size in patch_sizes:
        if any(side % patch_size for side in data.image_size):
            height, width = data.image_size
            raise UserError(
                f"Images of {height}x{width} pixels do not divide into patches of {patch_size}x{patch_size}",
                "Take it out of config.task.patch_sizes, or change config.data.image_size",
            )
    task = distil if "teacher" in inner else classify
    return FlexiViT(construct(task.build, inner, "config.task", model=model, data=data), tuple(patch_sizes))


def inflexible(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The task of a plain ViT that was trained so: what is stored of it, from what is stored of this one."""
    own = {name: kwargs[name] for name in ("model", "objective", "label_smoothing") if name in kwargs}
    return {"name": "classify", "kwargs": own}
