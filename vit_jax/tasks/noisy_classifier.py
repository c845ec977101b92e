"""A classifier that knows images with any noise, by which the samples of a diffusion are led: Dhariwal and Nichol,
"Diffusion models beat GANs on image synthesis" (arXiv:2105.05233, ADM), section 4.

The task `ddpm` takes it as its `classifier`, with the same noise.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vit_jax.data.fields import Fields
from vit_jax.errors import UserError
from vit_jax.naming import build_model
from vit_jax.nn.classification_loss import probabilities
from vit_jax.nn.diffusion import BetaSchedule, Noising, add_noise, betas, check_betas
from vit_jax.ranges import Count, Positive
from vit_jax.tasks import Answer, Batch, DataInfo, Metrics, Ranked, Task, Variables, chosen, in_training
from vit_jax.tasks._tenths import by_tenths


@dataclasses.dataclass(frozen=True)
class NoisyClassifier(Task):
    """Cross-entropy of `label` int32 [B] given `image` float [B, H, W, 3] in -1..1 with the noise of a step, which is
    drawn evenly from all.

    Metrics: `loss`, `accuracy`, and `accuracy_t0` to `accuracy_t9` by tenths of the steps, least noise first.

    Outputs: `logits` [B, K] and `features` [B, D] of images as they are.

    Args:
        model: called as `model(images, times, train=...)`.
        model_spec: what rebuilds it from a checkpoint.
        schedule: of the noise, with `first` and `last`, see `vit_jax.nn.diffusion.betas`.
        steps: T.
    """

    model: nn.Module
    model_spec: Mapping[str, Any] = dataclasses.field(hash=False)
    schedule: BetaSchedule = "linear"
    steps: int = 1000
    first: float = 1e-4
    last: float = 0.02
    answered_by: ClassVar[tuple[str, ...]] = ("logits",)

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        return {"params": self.model.init({"params": rng}, batch["image"])["params"], "model_state": {}}

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        del step
        timing, noising, *keys = jax.random.split(rng, 4)
        images, labels = batch["image"], batch["label"]
        times = jax.random.randint(timing, (len(images),), 0, self.steps)
        table = Noising.of(betas(self.schedule, self.steps, self.first, self.last))
        noisy = add_noise(table, images, jax.random.normal(noising, images.shape), times)
        found, _ = in_training(self.model, variables["params"], {}, keys, noisy, times)
        losses = optax.softmax_cross_entropy_with_integer_labels(found["logits"], labels)
        right = (found["logits"].argmax(axis=-1) == labels).astype(jnp.float32)
        count = jnp.float32(len(images))
        metrics: Metrics = {"loss": (losses.sum(), count), "accuracy": (right.sum(), count)}
        metrics |= by_tenths("accuracy", right, times, self.steps)
        return losses.mean(), (metrics, variables["model_state"])

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        del rng
        return chosen(names, self.model.apply({"params": variables["params"]}, batch["image"]))

    def answers(self, outputs: Mapping[str, Array], fields: Fields) -> Sequence[Answer]:
        rows = np.asarray(probabilities(outputs["logits"], "softmax"))
        names = fields["label"].names or tuple(map(str, range(rows.shape[1])))
        return [Ranked(names, row) for row in rows]


def build(
    *,
    model: Mapping[str, Any],
    data: DataInfo,
    schedule: BetaSchedule = "linear",
    steps: Count = 1000,
    first: Positive = 1e-4,
    last: Positive = 0.02,
) -> NoisyClassifier:
    """The task for the classes that the data names.

    Args:
        model: the section of a classifier that is told the time, such as `unet_classifier`.
        schedule: see `NoisyClassifier`, like all others.

    Raises:
        UserError: for data without classes or size, noise that does not grow below 1, or a size that the model cannot
            take.
    """
    if not data.label_names:
        raise UserError("The data names no classes", "Use a source with labels")
    if data.image_size is None:
        raise UserError("The data says no size of images", "Set config.data.image_size")
    check_betas(first, last)
    module, spec = build_model(model, num_classes=len(data.label_names))
    module.check_size(data.image_size)
    return NoisyClassifier(module, spec, schedule, steps, first, last)
