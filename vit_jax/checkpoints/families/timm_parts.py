"""What the families of timm have in common: config.json, read and written."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.checkpoints.json_file import JsonObject
from vit_jax.checkpoints.published import Sidecar
from vit_jax.checkpoints.sidecars import INCEPTION, in_pixels, in_unit, label_names, names_by_id

# Pillow's filters that we lack are read as the nearest that we have.
_INTERPOLATIONS = {"bicubic": "bicubic", "lanczos": "bicubic"}


def settings(sidecar: Sidecar) -> JsonObject:
    """What timm calls `pretrained_cfg`; in its old files that is the whole of config.json."""
    config = sidecar.config
    return config.object("pretrained_cfg") if "pretrained_cfg" in config else config


def image_size(sidecar: Sidecar) -> list[int] | None:
    """[h, w], None where the file does not say."""
    size = settings(sidecar).integers("input_size", 3, at_least=1, at_most=2**15 - 1)
    return size[1:] if size else None


def preprocess(
    sidecar: Sidecar,
    image_size: Sequence[int],
    *,
    crop_pct: float,
    interpolation: str = "bicubic",
    stats: Mapping[str, Sequence[float]] = INCEPTION,
) -> dict[str, Any]:
    """Values for `Preprocess`.

    Args:
        image_size: [h, w] that the model is for.
        crop_pct: what timm's models of this family have where the file is silent, like `interpolation` and `stats`.
    """
    said = settings(sidecar)
    values = {
        "image_size": list(image_size),
        "interpolation": _INTERPOLATIONS.get(said.text("interpolation") or interpolation, "bilinear"),
        **{key: in_pixels(said.numbers(key, 3) or [v / 255 for v in stats[key]]) for key in ("mean", "std")},
    }
    if said.text("crop_mode") == "squash":  # the few that crop a little after it are not quite what timm does
        return values | {"resize": "squash"}
    # For an oblong timm makes the image cover both sides; that is the same for images that are no longer than it.
    resize_to = math.floor(max(image_size) / said.number("crop_pct", crop_pct, at_least=0.01))
    return values | {"resize": "short_side", "resize_to": max(resize_to, *image_size)}


def labels(sidecar: Sidecar, num_classes: int) -> tuple[str, ...]:
    """Names of the classes: descriptions where there are some."""
    said = settings(sidecar)
    names = _names(sidecar.config, "label_names") or _names(said, "label_names") or _names(said, "labels")
    described = sidecar.config.names("label_descriptions") or said.names("label_descriptions")
    return label_names([described.get(name, name) for name in names], num_classes)


def _names(said: JsonObject, key: str) -> list[str]:
    """A list of names, or an object of them by number."""
    if isinstance(said.get(key), Mapping):
        return names_by_id(said.names(key))
    return said.texts(key) or []


def config(
    architecture: str,
    metadata: Mapping[str, Any],
    model_args: Mapping[str, Any],
    pretrained: Mapping[str, Any],
    **more: Any,
) -> dict[str, dict[str, Any]]:
    """A config.json with which `timm.create_model("local-dir:...", pretrained=True)` builds the model.

    Args:
        architecture: a name in timm's registry.
        metadata: of our checkpoint, see `vit_jax.checkpoints.published.Family.sidecar`.
        model_args: arguments of the architecture's function that differ from its own.
        pretrained: what else timm wants to know: `first_conv`, `classifier`, `fixed_input_size`.
        more: further keys at the top.
    """
    preprocess, num_classes = metadata["preprocess"], metadata["model"]["kwargs"]["num_classes"]
    values = {
        "architecture": architecture,
        "num_classes": num_classes,
        **more,
        "model_args": dict(model_args),
        "pretrained_cfg": {
            "num_classes": num_classes,
            "input_size": [3, *(int(side) for side in preprocess["image_size"])],
            "interpolation": "bicubic" if preprocess.get("interpolation") == "bicubic" else "bilinear",
            **_crop(preprocess),
            "mean": in_unit(preprocess, "mean"),
            "std": in_unit(preprocess, "std"),
            **pretrained,
        },
    }
    return {"config.json": values | ({"label_names": list(metadata["labels"])} if metadata.get("labels") else {})}


def _crop(preprocess: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of what `preprocess` does with the crop; timm rounds down what it makes of `crop_pct`."""
    if preprocess.get("resize", "squash") == "squash":
        return {"crop_mode": "squash", "crop_pct": 1.0}
    side = max(preprocess["image_size"])
    resize_to = preprocess.get("resize_to") or side
    exact = side / resize_to
    return {
        "crop_mode": "center",
        "crop_pct": exact if math.floor(side / exact) == resize_to else side / (resize_to + 0.5),
    }
