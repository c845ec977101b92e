"""What the metadata of a step must be, before anything is built from it."""

from collections.abc import Callable, Mapping
from typing import Any

from vit_jax.checkpoints.base import problem_with_bases
from vit_jax.checkpoints.steps import is_frozen_folder

_NAMES = {"name": lambda x: isinstance(x, str), "kwargs": lambda x: isinstance(x, Mapping)}


def _is_step(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_model(value: Any) -> bool:
    return value is None or (isinstance(value, Mapping) and all(fits(value.get(k)) for k, fits in _NAMES.items()))


def _is_size(value: Any) -> bool:
    return value is None or (
        isinstance(value, list) and len(value) == 2 and all(_is_step(side) and 0 < side < 2**15 for side in value)
    )


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _is_section(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_folder(value: Any) -> bool:
    return value is None or (isinstance(value, str) and is_frozen_folder(value))


# Keys that are not here belong to later versions of a format, or to a task.
_WANTED: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "format": ("a whole number", _is_step),
    "step": ("a whole number", _is_step),
    "config": ("a section", _is_section),
    "model": ("null or a name with kwargs", _is_model),
    "preprocess": ("null or a section", lambda x: x is None or _is_section(x)),
    "labels": ("a list of class names", _is_texts),
    "image_size": ("null or [height, width]", _is_size),
    "product": ("params or ema", lambda x: x in ("params", "ema")),
}
_WANTED_SINCE_2: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "task": ("null or a name with kwargs", _is_model),
    "fields": ("null or a section", lambda x: x is None or _is_section(x)),
}


def problem_with(metadata: Mapping[str, Any]) -> str:
    """Which of the keys that a step's metadata must have is missing or of another type, in words; '' for none."""
    wanted_here = _WANTED if metadata.get("format") == 1 else {**_WANTED, **_WANTED_SINCE_2}
    for key, (wanted, fits) in wanted_here.items():
        if key not in metadata:
            return f"its metadata have no {key!r}"
        if not fits(metadata[key]):
            return f"{key!r} of its metadata is not {wanted}"
    if not _is_folder(metadata.get("frozen_in")):
        return "'frozen_in' of its metadata is not the name of a folder"
    if problem_with_bases(metadata.get("bases", [])):
        return "'bases' of its metadata does not say where its frozen parameters are"
    if not _is_section(metadata.get("lora", {})):
        return "'lora' of its metadata is not a section"
    if not _is_texts(metadata.get("loaded_from", [])):
        return "'loaded_from' of its metadata is not a list of addresses"
    return ""
