"""What the families of transformers have in common: names, and the JSON files config and preprocessor_config."""

from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.checkpoints.families import vit_parts as parts
from vit_jax.checkpoints.json_file import JsonObject, shown
from vit_jax.checkpoints.name_map import Entry, Shapes, conv, norm, same
from vit_jax.checkpoints.published import Sidecar
from vit_jax.checkpoints.sidecars import in_pixels, in_unit, label_names, names_by_id
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
    config: JsonObject, patch: Sequence[int], width: int, depth: int, mlp_dim: int, defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Size, GELU and epsilon: sizes from shapes, the rest from the config, else from the family's `defaults`.

    Args:
        defaults: 'hidden_act', 'layer_norm_eps' and, if it is not `vit_parts.heads_of`, 'num_attention_heads'.

    Raises:
        UserError: the config contradicts the shapes.
    """
    for key, found in {"hidden_size": width, "num_hidden_layers": depth, "intermediate_size": mlp_dim}.items():
        config.must_agree(key, found)
    if patch[0] == patch[1]:
        config.must_agree("patch_size", patch[0])
    heads = defaults.get("num_attention_heads") or parts.heads_of(width)
    size = Variant(width, depth, mlp_dim, config.integer("num_attention_heads", heads, at_least=1, at_most=width))
    return parts.size_kwargs(size, patch) | {
        "gelu": parts.gelu_of(config.text("hidden_act", defaults["hidden_act"])),
        "layer_norm_epsilon": config.number("layer_norm_eps", defaults["layer_norm_eps"], at_least=0),
    }


def grid(config: JsonObject, positions: int, patch: int, name: str) -> list[int]:
    """Rows and columns of the positions.

    Raises:
        UserError: they are no grid, or another one than that of the image size in config.json; it names the tensor.
    """
    image_hw = config.sides("image_size")
    found = parts.grid_of(positions, image_hw, patch)
    if found is None or (image_hw and found != [side // patch for side in image_hw]):
        raise UserError(
            f"The tensor {name!r} has {positions} positions of patches, which are no square or not the grid of the "
            "image size in config.json",
            "Check that the file and its config belong together",
        )
    return found


def image_size(processor: JsonObject, default: Sequence[int]) -> list[int]:
    """[h, w] that an image processor makes, for models that take images of any size."""
    size = _sides(processor, "crop_size") if processor.boolean("do_center_crop") else None
    size = size or _sides(processor, "size") or {"height": default[0], "width": default[1]}
    return [size["height"], size["width"]] if "height" in size else [size["shortest_edge"]] * 2


def preprocess(processor: JsonObject, image_size: Sequence[int], default: Mapping[str, Any]) -> dict[str, Any]:
    """Values for `Preprocess` from an image processor.

    Args:
        image_size: what the model is for, [h, w].
        default: values for what the processor does not say, or where there is none.

    Raises:
        UserError: for a size that the file gives in a way that is not known here.
    """
    values = {"image_size": list(image_size)} | dict(default)
    scale = 1.0
    if processor.boolean("do_rescale", True):
        scale = 1.0 / processor.number("rescale_factor", 1 / 255, at_least=1e-6)
    if not processor.boolean("do_normalize", True):
        values |= {"mean": [0.0] * 3, "std": in_pixels([1.0] * 3, scale)}
    else:
        said = {key: processor.numbers(f"image_{key}", 3) for key in ("mean", "std")}
        values |= {key: in_pixels(value, scale) for key, value in said.items() if value}
    resample = processor.integer("resample")
    if resample is not None:
        values["interpolation"] = _RESAMPLES.get(resample, values["interpolation"])
    size = _sides(processor, "size")
    if size is None:
        return values
    crop = _sides(processor, "crop_size") if processor.boolean("do_center_crop") else None
    if "height" in size and crop is None:
        values.pop("resize_to", None)
        return values | {"resize": "squash"}
    # DeiT's processor squashes to 256x256 before its crop; what the weights were trained for keeps the ratio.
    # DINOv2's processor crops 224 pixels although the positions are for 518: the proportion is what counts.
    cropped = max(crop.values()) if crop else max(image_size)
    resize_to = round(max(size.values()) * max(image_size) / cropped)
    return values | {"resize": "short_side", "resize_to": max(resize_to, *image_size)}


def _sides(processor: JsonObject, key: str) -> dict[str, int] | None:
    """A size as {"height", "width"} or {"shortest_edge"}, None where there is none; old files have numbers."""
    if not isinstance(processor.get(key), Mapping):
        size = processor.sides(key)
        kind = processor.text("image_processor_type") or processor.text("feature_extractor_type") or ""
        if size and key == "size" and isinstance(processor[key], int) and kind.startswith(_SHORT_EDGE):
            return {"shortest_edge": size[0]}
        return size and {"height": size[0], "width": size[1]}
    size = processor.object(key)
    for keys in (("height", "width"), ("shortest_edge",)):
        sides = {side: size.integer(side, at_least=1, at_most=2**15 - 1) for side in keys}
        if None not in sides.values():
            return sides
    raise processor.error(key, f"has the keys {shown(list(size))}", "Give height and width, or a shortest_edge")


def labels(sidecar: Sidecar, num_classes: int) -> tuple[str, ...]:
    """Names in id2label, whose keys are numbers as strings."""
    return label_names(names_by_id(sidecar.config.names("id2label")), num_classes)


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
