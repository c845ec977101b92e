"""What the families of transformers have in common: config.json and preprocessor_config.json, read and written."""

from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.checkpoints.families import vit_parts as parts
from vit_jax.checkpoints.name_map import Shapes
from vit_jax.checkpoints.published import Sidecar
from vit_jax.errors import UserError
from vit_jax.models.vit_variants import Variant

_RESAMPLES = {2: "bilinear", 3: "bicubic"}  # PIL's numbers


def encoder_kwargs(
    config: Mapping[str, Any], patch: Sequence[int], width: int, depth: int, mlp_dim: int, defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Size, GELU and epsilon: sizes from shapes, the rest from the config, else from the family's `defaults`.

    Args:
        defaults: 'hidden_act' and 'layer_norm_eps'.
    """
    said = dict(defaults) | {key: value for key, value in config.items() if value is not None}
    heads = said.get("num_attention_heads") or parts.heads_of(width)
    size = Variant(width, said.get("num_hidden_layers") or depth, mlp_dim, heads)
    return parts.size_kwargs(size, patch) | {
        "gelu": parts.gelu_of(said["hidden_act"]),
        "layer_norm_epsilon": float(said["layer_norm_eps"]),
    }


def grid(config: Mapping[str, Any], positions: int, patch: int, name: str) -> list[int]:
    """Rows and columns of the positions.

    Raises:
        UserError: they are no grid; it names the tensor.
    """
    image_size = config.get("image_size")
    image_hw = [image_size] * 2 if isinstance(image_size, int) else image_size
    found = parts.grid_of(positions, image_hw, patch)
    if found is None:
        raise UserError(
            f"The tensor {name!r} has {positions} positions of patches, which are no square and not the grid of the "
            "image size in config.json",
            "Check that the file and its config belong together",
        )
    return found


def preprocess(processor: Mapping[str, Any], image_size: Sequence[int], default: Mapping[str, Any]) -> dict[str, Any]:
    """Values for `Preprocess` from an image processor.

    Args:
        image_size: what the model's positions are for, [h, w].
        default: values where there is no processor.
    """
    values = {"image_size": list(image_size)} | dict(default)
    if not processor:
        return values
    if "image_mean" in processor and "image_std" in processor:
        values |= parts.pixel_stats(processor["image_mean"], processor["image_std"])
    if processor.get("resample") in _RESAMPLES:
        values["interpolation"] = _RESAMPLES[processor["resample"]]
    size, crop = processor.get("size"), processor.get("crop_size")
    # DeiT's processor squashes to 256x256 before its crop; what the weights were trained for keeps the ratio.
    edge = size.get("shortest_edge", _longest(size)) if isinstance(size, Mapping) else size
    cropped = _longest(crop) if processor.get("do_center_crop") else None
    keeps_ratio = isinstance(size, Mapping) and "shortest_edge" in size
    if not edge or not (keeps_ratio or cropped):
        values.pop("resize_to", None)
        return values | {"resize": "squash"}
    # DINOv2's processor crops 224 pixels although the positions are for 518: the proportion is what counts.
    resize_to = round(edge * max(image_size) / (cropped or max(image_size)))
    return values | {"resize": "short_side", "resize_to": max(resize_to, *image_size)}


def _longest(size: Any) -> int | None:
    return max(size.get("height", 0), size.get("width", 0)) if isinstance(size, Mapping) else size


def labels(sidecar: Sidecar, num_classes: int) -> tuple[str, ...]:
    """Names in id2label, whose keys are numbers as strings."""
    named = sidecar.config.get("id2label") or {}
    try:
        ordered = [named[key] for key in sorted(named, key=int)]
    except ValueError:
        return ()
    return parts.label_names(ordered, num_classes)


def size_config(kwargs: Mapping[str, Any], image_size: Sequence[int]) -> dict[str, Any]:
    """The config.json entries that all of these families share."""
    size, patch = parts.size_of(kwargs)
    square = image_size[0] == image_size[1]
    return {
        "hidden_size": size.width,
        "num_hidden_layers": size.depth,
        "num_attention_heads": size.num_heads,
        "hidden_act": {"exact": "gelu", "tanh": "gelu_pytorch_tanh"}[kwargs.get("gelu", "tanh")],
        "layer_norm_eps": kwargs.get("layer_norm_epsilon", 1e-6),
        "image_size": image_size[0] if square else list(image_size),
        "patch_size": patch,
        "num_channels": 3,
        "dtype": "float32",
    }


def label_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """id2label and label2id: our labels, or what transformers calls unknown ones."""
    count = metadata["model"]["kwargs"]["num_classes"]
    names = list(metadata.get("labels") or ()) or [f"LABEL_{i}" for i in range(count)]
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }


def processor(preprocess: Mapping[str, Any]) -> dict[str, Any]:
    """preprocessor_config.json for values of `Preprocess`."""
    mean, std = parts.unit_stats(preprocess)
    height, width = preprocess["image_size"]
    numbers = {name: number for number, name in _RESAMPLES.items()}
    values = {
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
        "resample": numbers[preprocess.get("interpolation", "bilinear")],
    }
    if preprocess.get("resize", "squash") == "squash":
        return {"image_processor_type": "ViTImageProcessor", **values, "size": {"height": height, "width": width}}
    return {
        "image_processor_type": "BitImageProcessor",
        **values,
        "size": {"shortest_edge": preprocess.get("resize_to") or max(height, width)},
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_convert_rgb": True,
    }


def prefix_of(tensors: Shapes, known: Sequence[str], name: str) -> str | None:
    """The one of the `known` prefixes with which a tensor `name` is there."""
    return next((prefix for prefix in known if prefix + name in tensors), None)
