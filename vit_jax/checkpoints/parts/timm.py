"""What the families of timm have in common: config.json, read and written."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.checkpoints.config_keys import TIMM, TIMM_OLD, TIMM_PRETRAINED, Keys
from vit_jax.checkpoints.json_file import JsonObject, shown
from vit_jax.checkpoints.parts.sidecars import IMAGENET, INCEPTION, in_pixels, in_unit, label_names, names_by_id
from vit_jax.checkpoints.published import Sidecar
from vit_jax.data.resample import FILTERS
from vit_jax.spelling import nearest

# What timm does with pixels where a config.json leaves it out, whichever the model.
_UNSAID = {"crop_pct": 0.875, "interpolation": "bicubic", "crop_mode": "center", **IMAGENET}
_CROP_MODES = {"center": "short_side", "squash": "squash", "border": "pad"}


def settings(sidecar: Sidecar) -> JsonObject:
    """What timm calls `pretrained_cfg`; in its old files that is the whole of config.json."""
    config = sidecar.config
    return config.object("pretrained_cfg") if "pretrained_cfg" in config else config


def check(sidecar: Sidecar, arguments: Keys, assumed: str) -> tuple[str, ...]:
    """Refuses a config.json with a key that vit_jax neither reads nor knows to be harmless.

    Args:
        arguments: what may be in `model_args`.
        assumed: how models are understood that have no config.json.

    Returns:
        For a file without a config.json the sentence that says so.
    """
    config = sidecar.config
    if not config:
        return (f"no config.json: {assumed} are assumed, as timm's models of this kind mostly have them",)
    if "pretrained_cfg" in config:
        TIMM.check(config)
        TIMM_PRETRAINED.check(settings(sidecar))
    else:
        TIMM_OLD.check(config)
    arguments.check(config.object("model_args"))
    return ()


def architecture(sidecar: Sidecar, pattern: str) -> None:
    """Refuses a config.json that names an architecture whose tensors only look like those of the `pattern`."""
    said = sidecar.config.text("architecture")
    if said is not None and not re.match(pattern, said):
        raise sidecar.config.error(
            "architecture", f"is {shown(said)}, which is not what its tensors look like", "Load another architecture"
        )


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
    made: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Values for `Preprocess`: what timm's `create_transform` does for evaluation.

    Args:
        image_size: [h, w] that the model sees.
        crop_pct: what timm's models of this family have, for a file without a config.json; the same for `interpolation`
            and `stats`.
        made: [h, w] that timm makes, where patches do not divide it; `image_size` by default.

    Raises:
        UserError: for an interpolation or a crop that timm does not have.
    """
    said, made = settings(sidecar), list(made or image_size)
    unsaid = _UNSAID if said else {**_UNSAID, "crop_pct": crop_pct, "interpolation": interpolation, **stats}
    crop_pct = said.number("crop_pct", at_least=0.01) if said.get("crop_pct") else unsaid["crop_pct"]
    interpolation = said.text("interpolation") or unsaid["interpolation"]
    crop_mode = said.text("crop_mode") or unsaid["crop_mode"]
    for key, value, known in (("interpolation", interpolation, FILTERS), ("crop_mode", crop_mode, _CROP_MODES)):
        if value not in known:
            raise said.error(key, f"is {shown(value)}, which vit_jax does not have", nearest(value, known))
    values = {
        "image_size": list(image_size),
        "interpolation": interpolation,
        **{
            key: in_pixels(numbers) if (numbers := said.numbers(key, 3)) else list(unsaid[key])
            for key in ("mean", "std")
        },
    }
    if made != list(image_size):
        values["trim"] = [a - b for a, b in zip(made, image_size, strict=True)]
    resize_to = [math.floor(side / crop_pct) for side in made]
    if crop_mode != "center":
        own = {} if resize_to == made else {"resize_to": resize_to}
        return values | {"resize": _CROP_MODES[crop_mode], **own}
    if resize_to[0] == resize_to[1]:
        return values | {"resize": "short_side", "resize_to": resize_to[0]}
    return values | {"resize": "cover", "resize_to": resize_to}


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
        pretrained: what else timm needs to know: `first_conv`, `classifier`, `fixed_input_size`.
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
            "input_size": [3, *(int(side) for side in _made(preprocess))],
            "interpolation": preprocess["interpolation"] if preprocess.get("interpolation") in FILTERS else "bilinear",
            **_crop(preprocess),
            "mean": in_unit(preprocess, "mean"),
            "std": in_unit(preprocess, "std"),
            **pretrained,
        },
    }
    return {"config.json": values | ({"label_names": list(metadata["labels"])} if metadata.get("labels") else {})}


def _crop(preprocess: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of what `preprocess` does with the crop; timm rounds down what it makes of `crop_pct`."""
    made, resize, resize_to = _made(preprocess), preprocess.get("resize", "squash"), preprocess.get("resize_to")
    mode = next((theirs for theirs, ours in _CROP_MODES.items() if ours == resize), "center")
    if resize == "short_side":  # for an oblong timm has only what covers it, which is the same for images like it
        resize_to = [math.floor(side * (resize_to or max(made)) / max(made)) for side in made]
    resize_to = resize_to or made
    # One share for both sides, which must give both numbers.
    low = max(side / (to + 1) for side, to in zip(made, resize_to, strict=True))
    high = min(side / to for side, to in zip(made, resize_to, strict=True))
    exact = [pct for pct in (high, (low + high) / 2) if [math.floor(side / pct) for side in made] == list(resize_to)]
    return {"crop_mode": mode, "crop_pct": exact[0] if exact else high}


def _made(preprocess: Mapping[str, Any]) -> list[int]:
    """[h, w] before what patches do not divide is left out."""
    return [side + more for side, more in zip(preprocess["image_size"], preprocess.get("trim", (0, 0)), strict=True)]
