"""What the families of whole latent diffusion models have in common."""

from collections.abc import Mapping
from typing import Any


def controls(kwargs: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The sections of what adds to the U-Net, of which a config may have one by itself."""
    given = kwargs.get("control", ())
    return [given] if isinstance(given, Mapping) else list(given)


def section(kwargs: Mapping[str, Any], part: str) -> dict[str, Any]:
    """One network of a `latent_diffusion` by itself, as `{"name": ..., "kwargs": ...}`, by its subtree; of
    the controls 'control_0' is the first."""
    number = part.partition("_")[2]
    own = dict(controls(kwargs)[int(number)] if number else kwargs[part])
    name = own.pop("name")
    if part == "text":
        own |= {key: kwargs[key] for key in ("vocab_size", "end_id") if key in kwargs}
    return {"name": name, "kwargs": own}
