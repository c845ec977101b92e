"""What the families of transformers have in common: names, and the JSON files config and preprocessor_config."""

from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.checkpoints.families import vit_parts as parts
from vit_jax.checkpoints.name_map import Entry, Shapes, conv, norm, same
from vit_jax.checkpoints.published import Sidecar
from vit_jax.checkpoints.sidecars import in_pixels, in_unit, label_names
from vit_jax.errors import UserError
from vit_jax.models.vit_variants import Variant

VIT_LAYER = "encoder.layer.{}."
VIT_NAMES = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
}
MAE_DECODER = "decoder.decoder_embed.weight"  # only a ViTMAEForPreTraining has it

# Pillow's numbers; filters that we lack are read as the nearest that we have.
_RESAMPLES = {0: "bilinear", 1: "bicubic", 2: "bilinear", 3: "bicubic", 4: "bilinear", 5: "bilinear"}
# Image processors to which a number is the short side, not both.
_SHORT_EDGE = ("Bit", "CLIP")


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


def image_size(processor: Mapping[str, Any], default: Sequence[int]) -> list[int]:
    """[h, w] that an image processor makes, for models that take images of any size."""
    size = processor.get("crop_size") if processor.get("do_center_crop") else None
    size = _sides(size or processor.get("size") or list(default), processor)
    return [size["height"], size["width"]] if "height" in size else [size["shortest_edge"]] * 2


def preprocess(processor: Mapping[str, Any], image_size: Sequence[int], default: Mapping[str, Any]) -> dict[str, Any]:
    """Values for `Preprocess` from an image processor.

    Args:
        image_size: what the model is for, [h, w].
        default: values for what the processor does not say, or where there is none.

    Raises:
        UserError: for a size that the file gives in a way that is not known here.
    """
    values = {"image_size": list(image_size)} | dict(default)
    scale = 1.0 / float(processor.get("rescale_factor", 1 / 255)) if processor.get("do_rescale", True) else 1.0
    if not processor.get("do_normalize", True):
        values |= {"mean": [0.0] * 3, "std": in_pixels([1.0] * 3, scale)}
    else:
        values |= {k: in_pixels(processor[f"image_{k}"], scale) for k in ("mean", "std") if f"image_{k}" in processor}
    if processor.get("resample") in _RESAMPLES:
        values["interpolation"] = _RESAMPLES[processor["resample"]]
    if not processor.get("size"):
        return values
    size = _sides(processor["size"], processor)
    crop = _sides(processor["crop_size"], {}) if processor.get("do_center_crop") and "crop_size" in processor else None
    if "height" in size and crop is None:
        values.pop("resize_to", None)
        return values | {"resize": "squash"}
    # DeiT's processor squashes to 256x256 before its crop; what the weights were trained for keeps the ratio.
    # DINOv2's processor crops 224 pixels although the positions are for 518: the proportion is what counts.
    cropped = max(crop.values()) if crop else max(image_size)
    resize_to = round(max(size.values()) * max(image_size) / cropped)
    return values | {"resize": "short_side", "resize_to": max(resize_to, *image_size)}


def _sides(size: Any, processor: Mapping[str, Any]) -> dict[str, int]:
    """A size as {"height", "width"} or {"shortest_edge"}; old files have a number for either."""
    if isinstance(size, int):
        kind = str(processor.get("image_processor_type") or processor.get("feature_extractor_type") or "")
        size = {"shortest_edge": size} if kind.startswith(_SHORT_EDGE) else [size, size]
    if isinstance(size, Sequence) and len(size) == 2:
        size = {"height": size[0], "width": size[1]}
    for keys in (("height", "width"), ("shortest_edge",)):
        if isinstance(size, Mapping) and all(size.get(key) for key in keys):
            return {key: int(size[key]) for key in keys}
    raise UserError(f"preprocessor_config.json has the size {size}", "Give height and width, or a shortest_edge")


def labels(sidecar: Sidecar, num_classes: int) -> tuple[str, ...]:
    """Names in id2label, whose keys are numbers as strings."""
    named = sidecar.config.get("id2label") or {}
    try:
        ordered = [named[key] for key in sorted(named, key=int)]
    except ValueError:
        return ()
    return label_names(ordered, num_classes)


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
    height, width = preprocess["image_size"]
    values = {
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": in_unit(preprocess, "mean"),
        "image_std": in_unit(preprocess, "std"),
        "resample": 3 if preprocess.get("interpolation") == "bicubic" else 2,
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


def vit_entries(
    kwargs: Mapping[str, Any], prefix: str, grid: Sequence[int] | None, names: Mapping[str, str] = VIT_NAMES
) -> list[Entry]:
    """The trunk as transformers' ViT names it, from which its DeiT, MAE and DINOv2 are copied.

    Args:
        prefix: what stands before all names.
        grid: rows and columns of the positions, see `vit_parts.position_entry`.
        names: see `block_names`.
    """
    embeddings = f"{prefix}embeddings."
    return [
        conv("encoder/embedding/kernel", f"{embeddings}patch_embeddings.projection.weight"),
        same("encoder/embedding/bias", f"{embeddings}patch_embeddings.projection.bias"),
        same("encoder/cls", f"{embeddings}cls_token"),
        parts.position_entry(kwargs, f"{embeddings}position_embeddings", grid),
        *parts.block_entries(kwargs, block_names(prefix + VIT_LAYER, names)),
        *norm("encoder/norm", f"{prefix}layernorm"),
    ]


def block_names(layer: str, names: Mapping[str, str] = VIT_NAMES) -> parts.BlockNames:
    """The names in a layer.

    Args:
        layer: what stands before them, with `{}` for the number.
        names: of what is not the attention, see `vit_parts.BlockNames`.
    """
    return parts.BlockNames(
        qkv=tuple(layer + f"attention.attention.{part}" for part in ("query", "key", "value")),
        out=layer + "attention.output.dense",
        **{field: layer + name for field, name in names.items()},
    )


def prefix_of(tensors: Shapes, known: Sequence[str], name: str) -> str | None:
    """The one of the `known` prefixes with which a tensor `name` is there."""
    return next((prefix for prefix in known if prefix + name in tensors), None)
