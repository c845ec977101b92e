"""The 19 tasks of VTAB (arXiv:1910.04867): their data sets, splits and labels, as its code has them.

Source: github.com/google-research/task_adaptation at commit d7630d3, `task_adaptation/data/`. The tasks are called as
the folders of lists in which VTAB-1k is passed around.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from vit_jax.errors import UserError
from vit_jax.naming import nearest

SPLITS = ("train800", "val200", "train1000", "test")
TRAINING, VALIDATION = 800, 200


class VtabTask(NamedTuple):
    """One task.

    Args:
        group: 'natural', 'specialised' or 'structured'.
        dataset: in TFDS.
        classes: how many.
        validation: the split whose first 200 examples choose, or the per cent of "train" at which they begin.
        test: the split that is measured on, or the per cent of "train" of what is trained and validated on before it.
        labels: the features that the label is made of, by names that `label` takes.
        label: makes it of them; None: it is the feature.
        pixels: what the images' numbers are multiplied with.
    """

    group: str
    dataset: str
    classes: int
    validation: str | int
    test: str | tuple[int, int]
    labels: Mapping[str, str] = MappingProxyType({"label": "label"})
    label: Callable[..., int] | None = None
    pixels: int = 1


def _interval(value: float, bounds: tuple[float, ...]) -> int:
    """The last bound below a value."""
    return int(np.flatnonzero(np.array(bounds) < value).max())


def _clevr_distance(coords: np.ndarray) -> int:
    """Of the nearest object, from its depth in pixel coordinates."""
    return _interval(np.reshape(coords, (-1, 3))[:, 2].min(), (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0))


def _kitti_distance(places: np.ndarray, kinds: np.ndarray) -> int:
    """Of the nearest car, van or truck (the first three kinds), in metres; 3 where there is none."""
    depths = np.reshape(places, (-1, 3))[:, 2][np.atleast_1d(kinds) < 3]
    return _interval(min([*depths, 1000.0]), (-100.0, 8.0, 20.0, 999.0))


def _joined(count: int, wanted: int) -> Callable[[int], int]:
    """Neighbouring values of so many joined to fewer."""
    return lambda label: int(np.float32(label) // np.float32(count / wanted))


_NATURAL, _SPECIALISED, _STRUCTURED = GROUPS = ("natural", "specialised", "structured")
TASKS: dict[str, VtabTask] = {
    "caltech101": VtabTask(_NATURAL, "caltech101", 102, 90, "test"),
    "cifar": VtabTask(_NATURAL, "cifar100", 100, 90, "test"),
    "dtd": VtabTask(_NATURAL, "dtd", 47, "validation", "test"),
    "oxford_flowers102": VtabTask(_NATURAL, "oxford_flowers102", 102, "validation", "test"),
    "oxford_iiit_pet": VtabTask(_NATURAL, "oxford_iiit_pet", 37, 80, "test"),
    "svhn": VtabTask(_NATURAL, "svhn_cropped", 10, 90, "test"),
    "sun397": VtabTask(_NATURAL, "sun397/tfds", 397, "validation", "test"),
    "patch_camelyon": VtabTask(_SPECIALISED, "patch_camelyon", 2, "validation", "test"),
    "eurosat": VtabTask(_SPECIALISED, "eurosat/rgb", 10, 60, (60, 20)),
    "resisc45": VtabTask(_SPECIALISED, "resisc45", 45, 60, (60, 20)),
    "diabetic_retinopathy": VtabTask(
        _SPECIALISED, "diabetic_retinopathy_detection/btgraham-300", 5, "validation", "test"
    ),
    "clevr_count": VtabTask(
        _STRUCTURED, "clevr", 8, 90, "validation", {"sizes": "objects/size"}, lambda sizes: int(np.size(sizes)) - 3
    ),
    "clevr_dist": VtabTask(
        _STRUCTURED, "clevr", 6, 90, "validation", {"coords": "objects/pixel_coords"}, _clevr_distance
    ),
    "dmlab": VtabTask(_STRUCTURED, "dmlab", 6, "validation", "test"),
    "kitti": VtabTask(
        _STRUCTURED, "kitti", 4, "validation", "test", {"places": "objects/location", "kinds": "objects/type"},
        _kitti_distance,
    ),
    # The sprites are ones on zeros.
    "dsprites_loc": VtabTask(
        _STRUCTURED, "dsprites", 16, 80, (80, 10), {"label": "label_x_position"}, _joined(32, 16), 255
    ),
    "dsprites_ori": VtabTask(
        _STRUCTURED, "dsprites", 16, 80, (80, 10), {"label": "label_orientation"}, _joined(40, 16), 255
    ),
    "smallnorb_azi": VtabTask(_STRUCTURED, "smallnorb", 18, "test", "test[50%:]", {"label": "label_azimuth"}),
    "smallnorb_ele": VtabTask(_STRUCTURED, "smallnorb", 9, "test", "test[50%:]", {"label": "label_elevation"}),
}  # fmt: skip


def task_of(name: Any) -> VtabTask:
    """
    Raises:
        UserError: there is none of that name.
    """
    if name not in TASKS:
        raise UserError(f"VTAB has no task {name!r}", nearest(str(name), TASKS))
    return TASKS[name]


def tfds_split(task: VtabTask, split: str, train: int) -> str:
    """What of a TFDS data set a split of VTAB-1k is.

    Args:
        split: one of `SPLITS`.
        train: examples that the data set's "train" has.
    """
    if isinstance(task.validation, int):
        start = train * task.validation // 100
        validation = f"train[{start}:{start + VALIDATION}]"
    else:
        validation = f"{task.validation}[:{VALIDATION}]"
    training = f"train[:{TRAINING}]"
    if split == "test":
        return task.test if isinstance(task.test, str) else f"train[{sum(train * of // 100 for of in task.test)}:]"
    return {"train800": training, "val200": validation, "train1000": f"{training}+{validation}"}[split]


def group_means(scores: Mapping[str, float]) -> dict[str, float]:
    """The mean over the tasks of each group that there are scores of; and "mean", that over the tasks where all 19 are
    there, which is VTAB's score."""
    found = {}
    for group in GROUPS:
        own = [score for name, score in scores.items() if TASKS[name].group == group]
        if own:
            found[group] = float(np.mean(own))
    if len(scores) == len(TASKS):
        found["mean"] = float(np.mean(list(scores.values())))
    return found
