"""Images pixel by pixel, each colour of each pixel as a class after all before it: PixelCNN and PixelRNN
(arXiv:1601.06759, arXiv:1606.05328)."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.models.pixelcnn import PixelModel
from vit_jax.naming import build_model
from vit_jax.ranges import Decay, NonNegative
from vit_jax.tasks import Batch, DataInfo, Metrics, Task, Variables, chosen
from vit_jax.tasks._class_conditions import ClassConditions
from vit_jax.tasks._image_tokens import unit_range


@dataclasses.dataclass(frozen=True)
class PixelSampling:
    """How pixels are drawn.

    Args:
        temperature: that logits are divided by, 0 for the likeliest level.
    """

    temperature: NonNegative = 1.0


@dataclasses.dataclass(frozen=True)
class Pixels(ClassConditions, Task):
    """The cross-entropy of each colour of each pixel after all that comes before it.

    A batch has `image` float [B, H, W, 3] in -1..1, of which the model has `levels` of each colour, or of their mean
    where it has one colour; and `label` int32 [B], where there are classes.

    The scalar is the mean over all values, in nats. Metrics: `loss`, and `bits_per_dim`. Outputs: `token_losses` [B, T]
    in nats with `token_weights` and `token_bytes` for the evaluator `perplexity`; `original`, the image as its levels
    show it, and `samples` [B, H, W, 3] in 0..1.

    Args:
        model: of the values.
        model_spec: what rebuilds it from a checkpoint.
        image_size: height and width in pixels.
        classes: see `ClassConditions`, like `label_drop`.
    """

    model: PixelModel
    model_spec: Mapping[str, Any] = dataclasses.field(hash=False)
    image_size: tuple[int, int]
    classes: tuple[str, ...] = ()
    label_drop: float = 0.0
    answered_by: ClassVar[tuple[str, ...]] = ("samples",)
    sampling: ClassVar[type] = PixelSampling

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        images = jnp.zeros((1, *self.image_size, self.model.colours), jnp.int32)
        params = self.model.init({"params": rng}, images, self._known(jnp.zeros(1, jnp.int32)))["params"]
        return {"params": params, "model_state": {}}

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        del step
        losses = self._losses(variables, batch["image"], self._shown_labels(batch, rng))
        total, count = losses.sum(), jnp.float32(losses.size)
        metrics = {"loss": (total, count), "bits_per_dim": (total / math.log(2), count)}
        return losses.mean(), (metrics, variables["model_state"])

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        def losses() -> Array:
            return self._losses(variables, batch["image"], self._labels(batch))

        def samples() -> Array:
            labels = self._asked_labels(batch, len(rng))
            return self.sample(variables, {"label": labels}, rng, self.sampling())

        shape = (len(rng), math.prod(self.image_size) * self.model.colours)
        given = {
            "token_losses": losses,
            "token_weights": lambda: jnp.ones(shape),
            # A value of 256 levels is a byte: bits per byte are then bits per value.
            "token_bytes": lambda: jnp.full(shape, float(self.model.levels == 256)),
            "original": lambda: self._shown(self._levels(batch["image"])),
            "samples": samples,
        }
        return chosen(names, given)

    def sample(
        self, variables: Variables, conditions: Mapping[str, Array], keys: PRNGKeyArray, settings: PixelSampling
    ) -> Float[Array, "B H W 3"]:
        """One value after the other, each after a pass over the whole image."""
        height, width, colours = *self.image_size, self.model.colours
        rows, label = len(keys), self._known(conditions["label"])

        def draw(levels: Int[Array, "B H W C"], at: Int[Array, ""]) -> tuple[Int[Array, "B H W C"], None]:
            logits = self._logits(variables, levels, label).reshape(rows, -1, self.model.levels)
            found = jax.lax.dynamic_index_in_dim(logits, at, 1, keepdims=False)
            if settings.temperature:
                noise = jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, at), found.shape[1:]))(keys)
                found = found / settings.temperature + noise
            value = found.argmax(-1).astype(jnp.int32)
            flat = jax.lax.dynamic_update_index_in_dim(levels.reshape(rows, -1), value, at, 1)
            return flat.reshape(levels.shape), None

        empty = jnp.zeros((rows, height, width, colours), jnp.int32)
        return self._shown(jax.lax.scan(draw, empty, jnp.arange(height * width * colours))[0])

    def sampling_costs(self, settings: PixelSampling) -> dict[str, int]:
        """As many passes as values."""
        del settings
        count = math.prod(self.image_size) * self.model.colours
        return {"tokens": count, "passes": count}

    def _losses(
        self, variables: Variables, images: Float[Array, "B H W 3"], labels: Int[Array, " B"]
    ) -> Float[Array, "B T"]:
        levels = self._levels(images)
        logs = jax.nn.log_softmax(self._logits(variables, levels, self._known(labels)))
        return -jnp.take_along_axis(logs, levels[..., None], -1).reshape(len(levels), -1)

    def _logits(self, variables: Variables, levels: Array, label: Array | None) -> Float[Array, "B H W C L"]:
        return self.model.apply({"params": variables["params"]}, levels, label)

    def _known(self, labels: Int[Array, " B"]) -> Int[Array, " B"] | None:
        return labels if self.model.num_conditions else None

    def _levels(self, images: Float[Array, "B H W 3"]) -> Int[Array, "B H W C"]:
        """Bytes, in as many equal ranges."""
        values = unit_range(images)
        if self.model.colours == 1:
            values = values.mean(-1, keepdims=True)
        return jnp.round(255 * values).astype(jnp.int32) * self.model.levels // 256

    def _shown(self, levels: Int[Array, "B H W C"]) -> Float[Array, "B H W 3"]:
        values = levels.astype(jnp.float32) / (self.model.levels - 1)
        return jnp.broadcast_to(values, (*levels.shape[:3], 3))


def build(*, model: Mapping[str, Any], data: DataInfo, conditional: bool = False, label_drop: Decay = 0.0) -> Pixels:
    """The task.

    Args:
        conditional: whether images are generated of the classes that the data have.
        label_drop: share of training examples that are shown without their class.

    Raises:
        UserError: for another model, or data without size.
    """
    if data.image_size is None:
        raise UserError("The data says no size of images", "Set config.data.image_size")
    classes = tuple(data.label_names) if conditional else ()
    label_drop = label_drop if classes else 0.0
    if model.get("name") not in _MODELS:
        raise UserError(f"The model {model.get('name')!r} makes no pixels", f"Name {' or '.join(_MODELS)}")
    module, spec = build_model(model, num_conditions=len(classes) + (label_drop > 0))
    return Pixels(module, spec, tuple(data.image_size), classes, label_drop)


_MODELS = ("pixelcnn", "pixelrnn")
