"""transformers' image processors: preprocessor_config.json, read and written."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.checkpoints.json_file import JsonObject, shown
from vit_jax.checkpoints.parts.sidecars import in_pixels, in_unit

# Pillow's numbers.
_RESAMPLES = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
_CLIP = {
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "resample": 3,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
# What each class of processors does where its file leaves it out, and whether to it one number is both sides.
_CLASSES = {
    "ViT": ({"size": {"height": 224, "width": 224}, "resample": 2, **_HALF}, True),
    "DeiT": (
        {
            "size": {"height": 256, "width": 256},
            "crop_size": {"height": 224, "width": 224},
            "do_center_crop": True,
            "resample": 3,
            **_HALF,
        },
        True,
    ),
    "Bit": (_CLIP, False),
    "CLIP": (_CLIP, False),
    "Segformer": (
        {
            "size": {"height": 512, "width": 512},
            "resample": 2,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        },
        True,
    ),
    "Siglip": ({"size": {"height": 224, "width": 224}, "resample": 3, **_HALF}, False),
}


def image_size(processor: JsonObject, default: Sequence[int], kind: str) -> list[int]:
    """[h, w] that an image processor makes, `default` where there is none; see `preprocess` for `kind`."""
    if not processor:
        return list(default)
    return _made(*_steps(processor, kind)) or list(default)


def preprocess(
    processor: JsonObject, image_size: Sequence[int], default: Mapping[str, Any], kind: str, patch: int = 1
) -> dict[str, Any]:
    """Values for `Preprocess` from an image processor, to the pixel what it does.

    Where it makes images of another size than the model's own, what it cuts off is kept in proportion, and `remarks`
    says so.

    Args:
        image_size: what the model is for, [h, w].
        default: values where there is no processor.
        kind: the class of processors that transformers takes for this model: 'ViT', 'DeiT', 'Bit', 'Siglip',
            'Segformer'.
        patch: side of the model's patches, which may leave out the last pixels of what the processor makes.

    Raises:
        UserError: for a processor of another class, or a value that is not known here.
    """
    if not processor:
        return {"image_size": list(image_size)} | dict(default)
    said, _ = _said(processor, kind)
    scale = 1.0
    if said.boolean("do_rescale", True):
        scale = 1.0 / said.number("rescale_factor", 1 / 255, at_least=1e-6)
    resample = _RESAMPLES.get(said.integer("resample"))
    if resample is None:
        raise said.error("resample", f"is {said['resample']}, not one of Pillow's numbers")
    values = {"image_size": list(image_size), "interpolation": resample}
    if said.boolean("do_normalize", True):
        values |= {key: in_pixels(said.numbers(f"image_{key}", 3), scale) for key in ("mean", "std")}
    else:
        values |= {"mean": [0.0] * 3, "std": in_pixels([1.0] * 3, scale)}
    size, crop = _steps(processor, kind)
    made = _made(size, crop)
    if made is not None and all(0 <= a - b < patch for a, b in zip(made, image_size, strict=True)):
        if made != list(image_size):
            values["trim"] = [a - b for a, b in zip(made, image_size, strict=True)]
        factors = (1.0, 1.0)
    else:
        factors = tuple(b / a for a, b in zip(made or image_size, image_size, strict=True))
        made = list(image_size)
    if crop is not None:
        values["crop"] = "floor"
    if "shortest_edge" in size:
        resize_to = round(size["shortest_edge"] * max(factors))
        return values | {"resize": "short_side", "resize_to": max(resize_to, *made), "crop": "floor"}
    resize_to = [max(round(s * f), m) for s, f, m in zip(size.values(), factors, made, strict=True)]
    return values | {"resize": "squash"} | ({} if crop is None or resize_to == made else {"resize_to": resize_to})


def remarks(processor: JsonObject, image_size: Sequence[int], kind: str, patch: int = 1) -> tuple[str, ...]:
    """Sentences on what the processor does otherwise than `preprocess`; see there for the arguments."""
    if not processor:
        return ("no preprocessor_config.json: pixels are prepared as the family's usually are",)
    said, _ = _said(processor, kind)
    size, crop = _steps(processor, kind)
    made = _made(size, crop)
    found = []
    if not said.boolean("do_resize", True):
        found.append("its image processor leaves the size of images as it is; here they are resized")
    elif crop is None and "shortest_edge" in size:
        found.append("its image processor does not crop, so that images keep their shape; here the centre is cropped")
    elif made is not None and not all(0 <= a - b < patch for a, b in zip(made, image_size, strict=True)):
        found.append(
            f"its image processor makes {made[0]}x{made[1]} pixels, for which transformers interpolates the positions; "
            f"here they are {image_size[0]}x{image_size[1]}, as the positions are stored: load with "
            f"image_size={made[0] if made[0] == made[1] else tuple(made)} for the former"
        )
    return tuple(found)


def processor(preprocess: Mapping[str, Any]) -> dict[str, Any]:
    """preprocessor_config.json for values of `Preprocess`."""
    made = [side + more for side, more in zip(preprocess["image_size"], preprocess.get("trim", (0, 0)), strict=True)]
    names = {name: number for number, name in _RESAMPLES.items()}
    values = {
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": in_unit(preprocess, "mean"),
        "image_std": in_unit(preprocess, "std"),
        "resample": names.get(preprocess.get("interpolation"), 2),
    }
    resize_to, crop = preprocess.get("resize_to"), {"height": made[0], "width": made[1]}
    if preprocess.get("resize", "squash") != "squash":
        short = resize_to if isinstance(resize_to, int) else min(resize_to or [max(made)])
        size = {"shortest_edge": max(short, *made)}
    elif resize_to is None or list(resize_to) == made:
        return {"image_processor_type": "ViTImageProcessor", **values, "size": crop}
    else:
        size = {"height": resize_to[0], "width": resize_to[1]}
    kind = "BitImageProcessor" if "shortest_edge" in size else "DeiTImageProcessor"
    crops = {"size": size, "do_center_crop": True, "crop_size": crop, "do_convert_rgb": True}
    return {"image_processor_type": kind, **values, **crops}


def _said(processor: JsonObject, kind: str) -> tuple[JsonObject, bool]:
    """The processor with what else its class does, and whether one number is both sides to it."""
    keys = ("image_processor_type", "feature_extractor_type")
    key, name = next(((k, name) for k in keys if (name := processor.text(k))), (keys[0], f"{kind}ImageProcessor"))
    known = re.fullmatch(r"(\w+?)(ImageProcessor|FeatureExtractor)(Fast|Pil)?", name, re.ASCII)
    if not known or known[1] not in _CLASSES:
        classes = ", ".join(f"{name}ImageProcessor" for name in _CLASSES)
        raise processor.error(key, f"is {shown(name)}, whose pixels vit_jax does not make", f"Known: {classes}")
    if processor.boolean("do_pad"):
        raise processor.error("do_pad", "is true", "Only processors that resize and crop can be read")
    defaults, square = _CLASSES[known[1]]
    own = {key: value for key, value in processor.items() if value is not None}
    return JsonObject({**defaults, **own}, processor.where), square


def _steps(processor: JsonObject, kind: str) -> tuple[dict[str, int], dict[str, int] | None]:
    """The sizes to which a processor resizes and crops, None where it does not crop."""
    said, square = _said(processor, kind)
    crop = _sides(said, "crop_size", True) if said.boolean("do_center_crop") and "crop_size" in said else None
    if not said.boolean("do_resize", True):
        return crop or {"shortest_edge": 0}, crop
    return _sides(said, "size", square), crop


def _made(size: Mapping[str, int], crop: Mapping[str, int] | None) -> list[int] | None:
    """[h, w] of every result; a square for results whose shape is the image's, None where nothing is said."""
    if crop is not None or "height" in size:
        return list((crop or size).values())
    return [size["shortest_edge"]] * 2 if size["shortest_edge"] else None


def _sides(said: JsonObject, key: str, square: bool) -> dict[str, int]:
    """A size as {"height", "width"} or {"shortest_edge"}; old files have a number for either, or a list of two."""
    if not isinstance(said.get(key), Mapping):
        height, width = said.sides(key)
        one = isinstance(said[key], int)
        return {"height": height, "width": width} if square or not one else {"shortest_edge": height}
    size = said.object(key)
    given = {side for side in size if size[side] is not None}
    for keys in (("height", "width"), ("shortest_edge",)):
        if given == set(keys) and (key == "size" or len(keys) == 2):
            return {side: size.integer(side, at_least=1, at_most=2**15 - 1) for side in keys}
    raise said.error(key, f"has the keys {shown(sorted(given))}", "Give height and width, or a shortest_edge")
