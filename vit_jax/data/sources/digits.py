"""The 1797 handwritten digits (8x8, ten classes) that ship inside scikit-learn: real data with no download."""

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vit_jax.data.sources.arrays import ArraySource
from vit_jax.errors import UserError
from vit_jax.ranges import Count

_TEST_EVERY = 5


def build(
    split: str, classes: Sequence[int] | None = None, per_class: Count | Sequence[Count] | None = None
) -> ArraySource:
    """The digits as uint8 [N, 8, 8, 3]; every fifth image of each class is the test split.

    Args:
        split: "train" (1442 images) or "test" (355).
        classes: digits to keep, all by default. Labels count from 0 in the order given.
        per_class: keep only the first so many images of each class; or a number for each, to make some of them rare.

    Raises:
        UserError: for another split, a class that is not a digit or given twice, or `per_class` below 1 or of another
            number of classes.
    """
    if split not in ("train", "test"):
        raise UserError(f"The digits have no split {split!r}", "Use 'train' or 'test'")
    kept = tuple(range(10)) if classes is None else tuple(classes)
    if not kept or len(set(kept)) != len(kept) or not set(kept) <= set(range(10)):
        raise UserError(f"classes={list(kept)} is not a choice of digits", "Give different digits from 0 to 9")
    most = list(per_class) if isinstance(per_class, (list, tuple)) else [per_class] * len(kept)
    if len(most) != len(kept):
        raise UserError(
            f"per_class has {len(most)} numbers for {len(kept)} classes", "Give one for each, or one for all"
        )
    if any(count is not None and count < 1 for count in most):
        raise UserError(f"per_class={per_class} leaves no images", "Give 1 or more, or None for all")
    grey, target = _read()
    rows, labels = [], []
    for label, digit in enumerate(kept):
        of_class = np.flatnonzero(target == digit)
        is_test = np.arange(len(of_class)) % _TEST_EVERY == _TEST_EVERY - 1
        chosen = of_class[is_test == (split == "test")][: most[label]]
        rows.append(chosen)
        labels.append(np.full(len(chosen), label))
    images = np.repeat(grey[np.concatenate(rows)][..., None], 3, axis=-1)
    return ArraySource(images, np.concatenate(labels), [str(digit) for digit in kept])


@functools.cache  # training, evaluation and every probe read the same file of text
def _read() -> tuple[np.ndarray, np.ndarray]:
    """All images [1797, 8, 8] in grey levels, and their digits."""
    # As sklearn.datasets.load_digits does, without importing scikit-learn, which takes 2 s.
    folder = Path(importlib.util.find_spec("sklearn").origin).parent
    table = np.loadtxt(folder / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    # The file counts ink in 0..16.
    grey = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return grey, table[:, -1].astype(int)
