"""What the families of npz files have in common: the config.json that we write beside them, read and written."""

from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.checkpoints.json_file import JsonObject
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.checkpoints.sidecars import INCEPTION, label_names


def own_config(sidecar: Sidecar) -> JsonObject:
    """The config.json where it is one of ours: Google's code writes none."""
    return sidecar.config if sidecar.config.get("library_name") == "vit_jax" else JsonObject()


def own_image_size(sidecar: Sidecar) -> list[int] | None:
    """[h, w] in our own config.json."""
    return own_config(sidecar).object("preprocess").sides("image_size")


def published(
    model: str, kwargs: Mapping[str, Any], image_size: Sequence[int], layout: Mapping[str, Any], sidecar: Sidecar
) -> Published:
    """A model from an npz file, with what our config.json says about it where there is one.

    Without, the images are treated as the papers' code does: stretched to the size, pixels mapped to -1..1.

    Args:
        kwargs: what the tensors say, and for the rest how that code computes.
        image_size: [h, w] that the tensors say, or a default.
    """
    own = own_config(sidecar)
    kwargs = {**kwargs, **own.object("kwargs")}
    preprocess = {"image_size": list(image_size), "resize": "squash", "interpolation": "bilinear", **INCEPTION}
    labels = label_names(own.texts("labels"), kwargs["num_classes"])
    return Published(model, kwargs, {**preprocess, **own.object("preprocess")}, layout, labels)


def config(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A config.json of ours, with what a reader of the tensors alone could not know."""
    return {
        "config.json": {
            "library_name": "vit_jax",
            "kwargs": dict(metadata["model"]["kwargs"]),
            "preprocess": dict(metadata["preprocess"]),
            "labels": list(metadata.get("labels") or ()),
        }
    }
