"""What is exported of a loaded checkpoint: a pure function of its parameters and a batch of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Float, Shaped, UInt8

from vit_jax.checkpoints.channels import channels_of
from vit_jax.checkpoints.load import Loaded
from vit_jax.checkpoints.source import nested
from vit_jax.checkpoints.transfer import flat_arrays
from vit_jax.data import traced_resize
from vit_jax.data.batch import NotedBatch
from vit_jax.errors import UserError
from vit_jax.spelling import nearest
from vit_jax.tasks import example_keys

# What of the preparation of an image is in the program: nothing (it takes normalised floats of the model's size), the
# normalising (bytes of the model's size), or all but the decoding (bytes of any size).
PREPROCESSING = ("none", "normalize", "resize")


@dataclass(frozen=True)
class Program:
    """Outputs of a checkpoint's task as one traceable function of flat parameters and images.

    Args:
        loaded: the checkpoint.
        names: of the task's outputs; by default what the task answers by (logits of a classifier), or else features.
        preprocessing: one of `PREPROCESSING`.
        batch_size: of the images; None for any.

    Raises:
        UserError: a checkpoint that takes no images or is asked to draw some, an output that its task does not give,
            a preparation that the program cannot hold.
    """

    loaded: Loaded
    names: tuple[str, ...] = ()
    preprocessing: str = "none"
    batch_size: int | None = None

    def __post_init__(self):
        loaded = self.loaded
        object.__setattr__(self, "names", tuple(self.names) or loaded.task.answered_by or ("features",))
        if self.preprocessing not in PREPROCESSING:
            raise UserError(
                f"There is no preprocessing {self.preprocessing!r}", nearest(self.preprocessing, PREPROCESSING)
            )
        if loaded.preprocess is None:
            raise UserError(f"{loaded.path} takes no images", "Export a checkpoint of a model of images")
        if "samples" in self.names:
            raise UserError("Samples are drawn with a seed, which no exported program takes", "Use 'vit_jax sample'")
        if self.preprocessing != "none" and self.channels != 3:
            raise UserError(
                f"The model takes images of {self.channels} channels, and only those of 3 are prepared",
                "Use preprocessing 'none'",
            )
        if self.preprocessing == "resize":
            traced_resize.check_traceable(loaded.preprocess)
        jax.eval_shape(self.__call__, self.parameters, self.example(1))  # names what the task does not give

    @property
    def channels(self) -> int:
        """Of the images."""
        return channels_of(self.loaded.params) or 3

    @cached_property
    def parameters(self) -> dict[str, Shaped[np.ndarray, "..."]]:
        """All variables by their path, as 'params/encoder/...'."""
        return flat_arrays(self.loaded.variables)

    @property
    def shape(self) -> tuple[int | str, ...]:
        """Of the images: numbers, and names of what may be any number."""
        size = ("height", "width") if self.preprocessing == "resize" else self.loaded.preprocess.image_size
        return (self.batch_size or "batch", *size, self.channels)

    @property
    def dtype(self) -> np.dtype:
        """Of the images."""
        return np.dtype(np.float32 if self.preprocessing == "none" else np.uint8)

    def symbolic(self) -> jax.ShapeDtypeStruct:
        """The images, with symbols where their shape is open."""
        return jax.ShapeDtypeStruct(export.symbolic_shape(", ".join(map(str, self.shape))), self.dtype)

    def example(self, batch_size: int) -> jax.ShapeDtypeStruct:
        """Images of a size that the program takes."""
        size = self.loaded.preprocess.image_size
        return jax.ShapeDtypeStruct((self.batch_size or batch_size, *size, self.channels), self.dtype)

    def described(self) -> dict[str, Any]:
        """What export.json says of it."""
        outputs = jax.eval_shape(self.__call__, self.parameters, self.example(1))
        return {
            "input": {"name": "image", "shape": list(self.shape), "dtype": self.dtype.name},
            "outputs": {
                name: {"shape": [self.shape[0], *x.shape[1:]], "dtype": x.dtype.name} for name, x in outputs.items()
            },
            "labels": list(self.loaded.labels),
            "objective": self.loaded.task.objective,
            "preprocessing": self.preprocessing,
            "preprocess": self.loaded.preprocess.to_json(),
        }

    def __call__(
        self, parameters: Mapping[str, Shaped[Array, "..."]], images: Float[Array, "B h w C"] | UInt8[Array, "B H W C"]
    ) -> dict[str, Shaped[Array, "B ..."]]:
        """Outputs by name; of several maps each by itself, as 'maps_16'. Traced."""
        if self.preprocessing == "resize":
            images = traced_resize.to_uint8(self.loaded.preprocess, images)
        if self.preprocessing != "none":
            images = self.loaded.fields.on_device({"image": images})["image"]
        variables = {"params": {}, "model_state": {}, **nested(parameters)}
        batch = NotedBatch({"image": images})
        found = self.loaded.task.outputs(variables, batch, frozenset(self.names), example_keys(np.uint32(0), batch))
        return named(found, self.names)


def named(found: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Outputs in the order of `names`, a pyramid of maps as 'maps_4', 'maps_8', ..."""
    flat: dict[str, Any] = {}
    for name in names:
        value = found[name]
        several = isinstance(value, Mapping)
        flat |= {f"{name}_{key}": value[key] for key in sorted(value)} if several else {name: value}
    return {name: jnp.asarray(value) for name, value in flat.items()}
