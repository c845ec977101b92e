"""What the JSON files beside weight files have in common, whichever library writes them: pixels, labels, arguments."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Of pixels in 0..255, as `Preprocess` has them: ImageNet's statistics, and what maps them to -1..1.
IMAGENET = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
INCEPTION = {"mean": [127.5, 127.5, 127.5], "std": [127.5, 127.5, 127.5]}


def in_pixels(values: Sequence[float], scale: float = 255.0) -> list[float]:
    """Means or deviations for pixels in 0..255 from those that a file gives for pixels divided by `scale`.

    With six digits here and nine in `in_unit`, either way back gives the same number again, and 0.485 stays 0.485.
    """
    return [round(scale * float(value), 6) for value in values]


def in_unit(preprocess: Mapping[str, Any], key: str) -> list[float]:
    """`mean` or `std` of `Preprocess` for pixels in 0..1."""
    return [round(float(value) / 255, 9) for value in preprocess.get(key, INCEPTION[key])]


def label_names(names: Sequence[str] | None, num_classes: int) -> tuple[str, ...]:
    """The labels where they are as many as classes and real names, else none."""
    names = list(names or ())
    if len(names) != num_classes or all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        return ()
    return tuple(names)


def names_by_id(named: Mapping[str, str]) -> list[str]:
    """The names of an object whose keys are the numbers from 0 on, in their order; none where they are not."""
    names = [named.get(str(number)) for number in range(len(named))]
    return [] if None in names else names


def is_of(metadata: Mapping[str, Any], model: str) -> bool:
    """Whether a checkpoint of ours holds a model of this module in `vit_jax.models`."""
    return metadata["model"] is not None and metadata["model"]["name"] == model


def complete(build: Callable[..., Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """`kwargs` with the defaults of `build` for what they leave out."""
    parameters = inspect.signature(build).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty} | dict(kwargs)
