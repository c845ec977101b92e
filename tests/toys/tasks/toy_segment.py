"""Whether each pixel belongs to an object, by its colour alone; boxes and points are looked at in the metrics."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vit_jax.tasks import Task, chosen


@dataclasses.dataclass(frozen=True)
class Segment(Task):
    model: nn.Module = nn.Dense(2)
    answered_by: tuple[str, ...] = ("mask_logits",)

    def init(self, rng, batch):
        return {"params": {"encoder": self.model.init(rng, batch["image"])["params"]}, "model_state": {}}

    def loss(self, variables, batch, rng, step):
        logits = jax.nn.log_softmax(self._logits(variables, batch))
        known = batch["segmentation"] != 255
        labels = jnp.where(known, batch["segmentation"], 0)
        losses = -jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0] * known
        total, weight = losses.sum(), known.sum(dtype=jnp.float32)
        return total / weight, ({"loss": (total, weight), **fits(batch)}, {})

    def outputs(self, variables, batch, names, rng):
        return chosen(names, {"mask_logits": lambda: self._logits(variables, batch)})

    def answers(self, outputs, fields):
        labels = np.asarray(outputs["mask_logits"]).argmax(-1)
        return [np.repeat(label[..., None] * 255, 3, axis=2).astype(np.uint8) for label in labels]

    def _logits(self, variables, batch):
        return self.model.apply({"params": variables["params"]["encoder"]}, batch["image"])


def fits(batch):
    """Shares of pixels, points and boxes that lie where the image says: (sum, weight) of each."""
    red = batch["image"][..., 0] > 0
    known = batch["segmentation"] != 255
    rows = jnp.arange(red.shape[0])[:, None]
    x, y = (jnp.clip(batch["points"][..., k].astype(int), 0, red.shape[2 - k] - 1) for k in (0, 1))
    left, top, right, bottom = jnp.moveaxis(batch["boxes"][:, 0], -1, 0)[..., None, None]
    columns, lines = jnp.arange(red.shape[2]) + 0.5, jnp.arange(red.shape[1])[:, None] + 0.5
    boxed = (columns > left - 1) & (columns < right + 1) & (lines > top - 1) & (lines < bottom + 1)
    there = {
        "pixels_fit": ((batch["segmentation"] == 1) == red, known),
        "points_fit": (red[rows, y, x], batch["points_valid"]),
        "boxes_fit": (boxed, red & known),
    }
    return {name: ((fit & of).sum(dtype=jnp.float32), of.sum(dtype=jnp.float32)) for name, (fit, of) in there.items()}


def build(*, model, data):
    return Segment()
