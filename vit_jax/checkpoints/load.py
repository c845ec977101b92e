"""`vit_jax.load`: a model with its parameters, labels and preprocessing from a path alone."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.checkpoints.channels import channels_of, fit_channels
from vit_jax.checkpoints.source import open_source
from vit_jax.checkpoints.transfer import fit_positions, resize_method
from vit_jax.data.preprocess import Preprocess
from vit_jax.errors import UserError
from vit_jax.naming import construct, named_module


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model ready to use.

    Args:
        path: the step directory or the file that it came from.
        model: the Linen module; `model.apply({"params": params, **model_state}, x, train=False)` returns a dict.
        params: nested dict of float32 arrays.
        model_state: further collections (batch statistics); empty for a ViT.
        labels: class names in the order of the logits.
        preprocess: path, bytes or uint8 [H, W, 3] -> float32 [H, W, 3], exactly as in training's evaluation.
        metadata: what the checkpoint says about itself, with the whole config of its run.
    """

    path: epath.Path
    model: nn.Module
    params: dict[str, Any]
    model_state: dict[str, Any]
    labels: tuple[str, ...]
    preprocess: Preprocess | None
    metadata: Mapping[str, Any]

    def outputs(self, images: Float[Array, "B H W 3"]) -> dict[str, Array]:
        """All outputs of the model by name, for preprocessed images."""
        images = images if isinstance(images, jax.Array) else np.asarray(images)
        if images.ndim != 4 or not np.issubdtype(images.dtype, np.floating):
            raise UserError(
                f"The model takes a float batch of images [B, H, W, 3], not {images.dtype} {list(images.shape)}",
                "Stack preprocessed images: np.stack([m.preprocess(path), ...])",
            )
        channels = channels_of(self.params)
        if channels not in (None, images.shape[-1]):
            raise UserError(
                f"The model takes images of {channels} channels, not {images.shape[-1]}",
                f"Prepare images [B, H, W, {channels}] yourself: `preprocess` makes those of RGB",
            )
        return self._apply(self.params, self.model_state, images)

    def features(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B D"]:
        """What the head sees, float32."""
        return self._output("features", images)

    def logits(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B K"]:
        """Class scores before softmax or sigmoid, float32."""
        return self._output("logits", images)

    def _output(self, name: str, images: Float[Array, "B H W 3"]) -> Array:
        outputs = self.outputs(images)
        if name not in outputs:
            raise UserError(f"This model has no {name}", f"It gives {', '.join(sorted(outputs))}")
        return outputs[name]

    @functools.cached_property
    def _apply(self) -> Callable[..., dict[str, Array]]:
        return jax.jit(lambda params, state, x: self.model.apply({"params": params, **state}, x, train=False))


def load(
    path: epath.PathLike,
    *,
    model: Callable[..., nn.Module] | None = None,
    image_size: int | tuple[int, int] | None = None,
    in_channels: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    sha256: str | None = None,
    allow_nonfinite: bool = False,
    checksums: bool = True,
) -> Loaded:
    """Loads a checkpoint, whoever wrote it: the README lists the families and formats.

    Args:
        path: a workdir of this project (its newest step) or a step directory `checkpoints/<step>`; a .safetensors or
            .npz file of published weights, or a folder with one; local, a URL, or 'hf://owner/name'.
        model: builds the module from the stored keyword arguments, for models that live outside vit_jax.
        image_size: pixels that the model is to see, instead of those that it was trained on: a side or (height,
            width). Learned position embeddings are interpolated, the way that goes with the weights.
        in_channels: channels of the images that the model is to take, which the caller prepares; the first kernel is
            summed for one and repeated for more, see `fit_channels`.
        overrides: arguments of a published model that its file does not say and vit_jax would guess, such as
            `num_heads`, `gelu` or `layer_norm_epsilon`.
        sha256: what a published file must hash to.
        allow_nonfinite: also load parameters that are NaN or infinite, which are an error otherwise.
        checksums: False skips comparing what is read from a checkpoint of this project with the checksums saved in it.

    Raises:
        UserError: no checkpoint there, damaged, newer than this version, of an unknown model, with a tensor missing or
            left over, or with another hash.
    """
    source = open_source(path, overrides=overrides, sha256=sha256, allow_nonfinite=allow_nonfinite, checksums=checksums)
    metadata = dict(source.metadata)
    spec = metadata["model"]
    if spec is None:
        raise UserError(
            f"{source.path} names no model to rebuild", "Read it with vit_jax.checkpoints.store.read_params"
        )
    build = model or named_module("model", spec["name"]).build
    module = construct(build, spec["kwargs"], "metadata.model")
    params, model_state = source.read()
    # A model of texts alone has none.
    preprocess = metadata["preprocess"] and Preprocess.from_json(metadata["preprocess"])
    if image_size is not None and preprocess is None:
        raise UserError(f"{source.path} takes no images", "Leave image_size out")
    if image_size is not None:
        preprocess = preprocess.resized(image_size)
        metadata["preprocess"], metadata["image_size"] = preprocess.to_json(), list(preprocess.image_size)
        params = fit_positions(params, module, preprocess.image_size, resize_method(spec))
    if in_channels is not None:
        params = fit_channels(params, in_channels)
    return Loaded(
        path=source.path,
        model=module,
        params=params,
        model_state=model_state,
        labels=tuple(metadata["labels"]),
        preprocess=preprocess,
        metadata=metadata,
    )
