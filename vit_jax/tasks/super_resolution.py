"""Super-resolution: the mean absolute difference between an enlarged image and the photo that it was made from."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from vit_jax.data.fields import Fields
from vit_jax.data.fields.high_resolution import HighResolution
from vit_jax.data.preprocess import Preprocess
from vit_jax.errors import UserError
from vit_jax.naming import build_model
from vit_jax.tasks import Batch, DataInfo, Metrics, Task, Variables, chosen, in_training, model_outputs


@dataclasses.dataclass(frozen=True)
class SuperResolution(Task):
    """The photo `batch["high"]` [B, scale * h, scale * w, 3] from `batch["image"]` [B, h, w, 3].

    Args:
        model: gives "restored" and "bicubic".
        model_spec: what rebuilds it from a checkpoint.
        preprocess: how pixels were normalised.
    """

    model: nn.Module
    model_spec: Mapping[str, Any] = dataclasses.field(hash=False)
    preprocess: Preprocess
    answered_by: tuple[str, ...] = ("restored",)

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        variables = dict(self.model.init({"params": rng}, batch["image"], train=False))
        return {"params": variables.pop("params"), "model_state": variables}

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        del step
        images, high = batch["image"], batch["high"]
        scale, sides = self.model.scale, tuple(high.shape[1:3])
        if sides != tuple(scale * side for side in images.shape[1:3]):
            raise UserError(
                f"The model enlarges {images.shape[2]}x{images.shape[1]} pixels by {scale}, which are not the "
                f"{sides[1]}x{sides[0]} of the photo",
                "Give the model, the transform and the field one scale",
            )
        outputs, state = in_training(
            self.model, variables["params"], variables["model_state"], jax.random.split(rng), images
        )
        errors = jnp.abs(outputs["restored"] - high).mean(axis=(1, 2, 3))
        return errors.mean(), ({"loss": (errors.sum(), jnp.float32(len(errors)))}, state)

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        """Those of the model; "restored", "bicubic" and "original", the photo itself, in values from 0 to 255."""
        del rng
        given: dict[str, Any] = {}
        if "high" in batch:
            given["original"] = lambda: self.preprocess.denormalize(batch["high"])
        found = model_outputs(self.model, variables, batch["image"], names)
        given |= found | {
            name: lambda x=found[name]: self.preprocess.denormalize(x) for name in ("restored", "bicubic")
        }
        return chosen(names, given)

    def answers(self, outputs: Mapping[str, Array], fields: Fields) -> list[UInt8[np.ndarray, "h w 3"]]:
        """The enlarged images."""
        del fields
        return list(np.round(np.asarray(outputs["restored"])).astype(np.uint8))


def build(*, model: Mapping[str, Any], data: DataInfo) -> SuperResolution:
    """The task for images as the data normalises them.

    Raises:
        UserError: for a model that enlarges nothing or by another scale than the data, or data without images.
    """
    module, spec = build_model(model)
    scale = getattr(module, "scale", None)
    if not isinstance(scale, int):
        raise UserError(f"The model '{model['name']}' does not enlarge images", "Set config.model.name=efficientvit_sr")
    preprocess = getattr(data.fields.get("image"), "preprocess", None)
    if preprocess is None:
        raise UserError("There are no images to enlarge", "Add config.data.fields.image with the name 'image'")
    high = data.fields.get("high")
    if isinstance(high, HighResolution) and high.scale != scale:
        raise UserError(
            f"The model enlarges by {scale}, and the photos are larger by {high.scale}",
            "Set config.model.scale and config.data.fields.high.scale to the same",
        )
    return SuperResolution(module, spec, preprocess)
