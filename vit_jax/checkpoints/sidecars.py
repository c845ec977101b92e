"""What the JSON files beside a weight file say about images and labels, read and written for timm and transformers."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.errors import UserError

# Pillow's numbers; what we do not have is read as the nearest that we have.
_INTERPOLATIONS = {0: "bilinear", 1: "bicubic", 2: "bilinear", 3: "bicubic", 4: "bilinear", 5: "bilinear"}
_HALF = {"mean": [127.5] * 3, "std": [127.5] * 3}


def google_published(
    model: str, kwargs: Mapping[str, Any], image_size: Sequence[int], layout: Mapping[str, Any], sidecar: Sidecar
) -> Published:
    """A model from an npz file of Google's code, which has no config, or of ours with the config.json that we wrote.

    Without a config the images are treated as the papers' code does: stretched to the size, pixels mapped to -1..1.

    Args:
        kwargs: what the tensors say, and for the rest how that code computes.
        image_size: [h, w] that the tensors say, or a default.
    """
    own = sidecar.config if sidecar.config.get("library_name") == "vit_jax" else {}
    preprocess = {"image_size": list(image_size), "resize": "squash", "interpolation": "bilinear", **_HALF}
    labels = tuple(own.get("labels", ()))
    return Published(model, {**kwargs, **own.get("kwargs", {})}, preprocess | own.get("preprocess", {}), layout, labels)


def google_config(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A config.json of ours beside an npz file, with what a reader of the tensors alone could not know."""
    return {
        "config.json": {
            "library_name": "vit_jax",
            "kwargs": dict(metadata["model"]["kwargs"]),
            "preprocess": dict(metadata.get("preprocess") or {"image_size": list(metadata["image_size"])}),
            "labels": list(metadata.get("labels") or ()),
        }
    }


def timm_preprocess(sidecar: Sidecar, **default: Any) -> dict[str, Any]:
    """The preprocessing that timm's config.json describes.

    Args:
        default: what timm's models of this family have where the file is silent: `image_size` [h, w], `crop_pct`,
            `interpolation`.
    """
    config = sidecar.config.get("pretrained_cfg", sidecar.config)
    size = [int(side) for side in config.get("input_size", (3, *default["image_size"]))[1:]]
    interpolation = config.get("interpolation", default["interpolation"])
    preprocess = {
        "image_size": size,
        "resize": "short_side",
        "interpolation": interpolation if interpolation == "bilinear" else "bicubic",
        "mean": _scaled(config.get("mean", (0.5,) * 3), 255.0),
        "std": _scaled(config.get("std", (0.5,) * 3), 255.0),
    }
    crop_pct = float(config.get("crop_pct") or default["crop_pct"])
    if config.get("crop_mode") == "squash" and crop_pct == 1.0:
        return preprocess | {"resize": "squash"}
    # timm scales both sides of an oblong; covering it is the same where nothing is cropped beyond that.
    return preprocess | ({"resize_to": math.floor(size[0] / crop_pct)} if size[0] == size[1] else {})


def timm_labels(sidecar: Sidecar) -> tuple[str, ...]:
    """Class names of timm's config.json: descriptions where there are some."""
    config = sidecar.config
    names = config.get("label_names") or config.get("pretrained_cfg", {}).get("label_names") or ()
    descriptions = config.get("label_descriptions") or config.get("pretrained_cfg", {}).get("label_descriptions") or {}
    return tuple(str(descriptions.get(name, name)) for name in names)


def timm_config(
    architecture: str, metadata: Mapping[str, Any], model_args: Mapping[str, Any], **pretrained: Any
) -> dict[str, Any]:
    """A config.json with which `timm.create_model("local-dir:...", pretrained=True)` builds the model.

    Args:
        architecture: a name in timm's registry.
        metadata: of our checkpoint, see `vit_jax.checkpoints.published.Family.sidecar`.
        model_args: arguments of the architecture's function that differ from its own.
        pretrained: what else timm wants to know: `first_conv`, `classifier`, `fixed_input_size`.
    """
    preprocess, size = metadata.get("preprocess") or {}, [int(side) for side in metadata["image_size"]]
    num_classes = metadata["model"]["kwargs"]["num_classes"]
    config = {
        "architecture": architecture,
        "num_classes": num_classes,
        "model_args": dict(model_args),
        "pretrained_cfg": {
            "num_classes": num_classes,
            "input_size": [3, *size],
            "interpolation": preprocess.get("interpolation", "bilinear"),
            "crop_pct": _crop_pct(min(size), preprocess.get("resize_to")),
            "crop_mode": "squash" if preprocess.get("resize", "squash") == "squash" else "center",
            "mean": _scaled(preprocess.get("mean", _HALF["mean"]), 1 / 255),
            "std": _scaled(preprocess.get("std", _HALF["std"]), 1 / 255),
            **pretrained,
        },
    }
    return config | ({"label_names": list(metadata["labels"])} if metadata.get("labels") else {})


def transformers_preprocess(sidecar: Sidecar, **default: Any) -> dict[str, Any]:
    """The preprocessing that transformers' preprocessor_config.json describes.

    Args:
        default: `image_size` [h, w], `interpolation` and `resize_to` where there is no such file.

    Raises:
        UserError: for a size that the file gives in a way that is not known here.
    """
    config = sidecar.preprocessor
    if not config:
        return {"resize": "short_side", **_HALF, **default}
    scale = 1.0 / float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0
    normalises = config.get("do_normalize", True)
    preprocess = {
        "interpolation": _INTERPOLATIONS.get(config.get("resample", 2), "bicubic"),
        "mean": _scaled(config.get("image_mean", (0.5,) * 3) if normalises else (0.0,) * 3, scale),
        "std": _scaled(config.get("image_std", (0.5,) * 3) if normalises else (1.0,) * 3, scale),
    }
    size, crop = config.get("size") or default["image_size"], config.get("crop_size")
    crop = _pair(crop) if crop and config.get("do_center_crop", False) else None
    short_side = size.get("shortest_edge") if isinstance(size, Mapping) else size if isinstance(size, int) else None
    if short_side is None:
        return preprocess | {"resize": "squash", "image_size": _pair(size)}
    crop = crop or [int(short_side)] * 2
    return preprocess | {"resize": "short_side", "image_size": crop, "resize_to": max(int(short_side), *crop)}


def transformers_labels(sidecar: Sidecar) -> tuple[str, ...]:
    """Class names of transformers' config.json; none where it has only the placeholders LABEL_0, LABEL_1, ..."""
    labels = {int(i): str(name) for i, name in (sidecar.config.get("id2label") or {}).items()}
    names = tuple(labels[i] for i in sorted(labels))
    return () if names == tuple(f"LABEL_{i}" for i in range(len(names))) else names


def transformers_label_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a transformers config.json that hold the classes."""
    count = metadata["model"]["kwargs"]["num_classes"]
    names = list(metadata.get("labels") or ()) or [f"LABEL_{i}" for i in range(count)]
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


def transformers_preprocessor(image_processor_type: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A preprocessor_config.json for our preprocessing."""
    preprocess, (height, width) = metadata.get("preprocess") or {}, metadata["image_size"]
    squashes = preprocess.get("resize", "squash") == "squash"
    both = {"height": int(height), "width": int(width)}
    return {
        "image_processor_type": image_processor_type,
        "do_resize": True,
        "size": both if squashes else {"shortest_edge": int(preprocess.get("resize_to") or min(height, width))},
        "resample": 3 if preprocess.get("interpolation") == "bicubic" else 2,
        "do_center_crop": not squashes,
        "crop_size": both,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": _scaled(preprocess.get("mean", _HALF["mean"]), 1 / 255),
        "image_std": _scaled(preprocess.get("std", _HALF["std"]), 1 / 255),
    }


def is_of(metadata: Mapping[str, Any], model: str) -> bool:
    """Whether a checkpoint of ours holds a model of this module in `vit_jax.models`."""
    return metadata["model"] is not None and metadata["model"]["name"] == model


def complete(build: Callable[..., Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """`kwargs` with the defaults of `build` for what they leave out."""
    parameters = inspect.signature(build).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty} | dict(kwargs)


def _scaled(values: Sequence[float], factor: float) -> list[float]:
    """Rounded, so that there and back gives the digits that people know: 0.485 and not 0.48500000000000004."""
    return [round(factor * float(value), 6) for value in values]


def _crop_pct(side: int, resize_to: int | None) -> float:
    """What timm, which rounds down, turns into `resize_to` again."""
    if not resize_to:
        return 1.0
    exact = side / resize_to
    return exact if math.floor(side / exact) == resize_to else side / (resize_to + 0.5)


def _pair(size: Any) -> list[int]:
    if isinstance(size, Mapping) and {"height", "width"} <= size.keys():
        return [int(size["height"]), int(size["width"])]
    if isinstance(size, int):
        return [size, size]
    if isinstance(size, Sequence) and len(size) == 2:
        return [int(side) for side in size]
    raise UserError(f"preprocessor_config.json has the size {size}", "Give height and width, or a shortest_edge")
