"""What files of segmenters have in common."""

from collections.abc import Mapping
from typing import Any

from vit_jax.data.palettes import PALETTES, palette


def task_and_fields(num_classes: int) -> dict[str, Mapping[str, Any]]:
    """The arguments `task` and `fields` of `Published` for a model that gives each pixel one of so many classes."""
    segmentation = {"name": "dense", "count": num_classes}
    return {
        "task": {"name": "segment", "kwargs": {}, "given": ["num_classes"]},
        "fields": {"image": {"name": "image"}, "segmentation": segmentation},
    }


def names_for(num_classes: int) -> tuple[str, ...]:
    """The classes of the published set that has so many; none where there is no such set."""
    return next((palette(name).names for name, count in PALETTES.items() if count == num_classes), ())
