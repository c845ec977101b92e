"""Image classification as EfficientViT is trained: Cai et al., "EfficientViT: Multi-Scale Linear Attention for
High-Resolution Dense Prediction" (arXiv:2205.14756), its ImageNet recipe as the authors' code has it.

Three things are added to plain classification: each class is decided by itself, and the loss is the mean over classes;
every step has a size of its own, to which its images are resized; and for the large models the moving average of the
parameters teaches (MESA: Du et al., "Sharpness-aware training for free", arXiv:2205.14083).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vit_jax.data.seeds import one_of
from vit_jax.errors import UserError
from vit_jax.naming import build_model, construct
from vit_jax.nn.classification_loss import classification_losses
from vit_jax.nn.flops import forward_flops
from vit_jax.nn.resize import resize_maps
from vit_jax.ranges import Count, Decay, Natural, Positive
from vit_jax.tasks import Batch, DataInfo, Metrics, Variables, in_training, model_outputs
from vit_jax.tasks.classify import Classify

_SIZES = 0x5152  # which size a step has depends on this and the step alone, as in the authors' code on the epoch


@dataclasses.dataclass(frozen=True)
class Mesa:
    """The `task.mesa` section.

    Args:
        ratio: weight of the loss against the average's answers, beside that against the labels.
        after: steps without it, in which the average has nothing to teach yet.
    """

    ratio: Positive
    after: Natural = 0


@dataclasses.dataclass(frozen=True)
class EfficientViT(Classify):
    """Classification with binary cross-entropy, the mean over classes and images, of images of several sizes.

    Labels are class indices, or shares as mixup and cutmix leave them; `label_smoothing` is as in `Classify`.

    Args:
        mesa: None for no teacher.
        sizes: one is drawn for each step with equal odds, and its images are resized to squares of so many pixels,
            after mixing; each is a compilation of its own. The first step has the largest, so that memory that is
            too small is noticed then. None for images as they come.
    """

    objective: str = "sigmoid"
    mesa: Mesa | None = None
    sizes: tuple[int, ...] = ()
    mixed_labels: ClassVar[bool] = True

    def static(self, step: int) -> int | None:
        """Pixels of a side in the step after so many."""
        if not self.sizes:
            return None
        return max(self.sizes) if step == 0 else one_of(self.sizes, _SIZES, step)

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""], *, static: int | None
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        images, keys = batch["image"], jax.random.split(rng)
        if static is not None:
            images = resize_maps(images, (static, static), "bicubic_antialias")
        outputs, new_state = in_training(self.model, variables["params"], variables["model_state"], keys, images)
        logits, one = outputs["logits"], jnp.float32(1)
        loss = self._mean(logits, self._targets(batch["label"]))
        metrics = {"loss": (loss, one), "accuracy": self._accuracy(logits, batch["label"])}
        if self.mesa is None:
            return loss, (metrics, new_state)
        teaches = step >= self.mesa.after
        taught = jnp.where(teaches, self._mean(logits, self._taught(variables, images, teaches)), 0.0)
        return loss + self.mesa.ratio * taught, ({**metrics, "mesa": (taught, one)}, new_state)

    def _mean(self, logits: Float[Array, "B K"], targets: Float[Array, "B K"]) -> Float[Array, ""]:
        return classification_losses(logits, targets, "sigmoid").mean() / self.num_classes

    def _taught(self, variables: Variables, images: Float[Array, "B H W 3"], teaches: Array) -> Float[Array, "B K"]:
        """What the moving average says of the same images, in evaluation with its own running statistics; where it does
        not teach yet nothing is computed."""
        if "ema" not in variables:
            raise UserError(
                "MESA learns from a moving average of the parameters, and this run has none",
                "Set config.ema.decay, for EfficientViT {'name': 'ramp', 'end': 0.9998, 'timescale': 2000}, or "
                "config.task.mesa=none",
            )
        average = {"params": variables["ema"], "model_state": variables["ema_model_state"]}

        def answers() -> Float[Array, "B K"]:
            logits = model_outputs(self.model, average, images, ("logits",))["logits"]
            return jax.nn.sigmoid(logits.astype(jnp.float32))

        nothing = jnp.zeros((images.shape[0], self.num_classes), jnp.float32)
        return jax.lax.stop_gradient(jax.lax.cond(teaches, answers, lambda: nothing))

    def flops(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> float | None:
        """See `Task`: the mean over the sizes, and with a teacher its forward pass too."""
        sizes = [(size, size) for size in self.sizes] or [batch["image"].shape[-3:-1]]
        forward = [forward_flops(self.model, size) for size in sizes]
        return None if None in forward else (3 if self.mesa is None else 4) * sum(forward) / len(forward)


def build(
    *,
    model: Mapping[str, Any],
    data: DataInfo,
    label_smoothing: Decay = 0.0,
    mesa: Mapping[str, Any] | None = None,
    sizes: Sequence[Count] | None = None,
) -> EfficientViT:
    """The task for the classes that the data names.

    Args:
        label_smoothing: see `vit_jax.tasks.classify.Classify`.
        mesa: see `Mesa`.
        sizes: see `EfficientViT`.
    """
    module, spec = build_model(model, num_classes=len(data.label_names))
    teacher = None if mesa is None else construct(Mesa, mesa, "config.task.mesa")
    return EfficientViT(
        module, spec, len(data.label_names), label_smoothing=label_smoothing, mesa=teacher, sizes=tuple(sizes or ())
    )
