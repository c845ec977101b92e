"""A few examples of each class of another source."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from vit_jax.data.classes import base_classes
from vit_jax.data.source import Source
from vit_jax.data.subset import Subset
from vit_jax.errors import UserError
from vit_jax.naming import build_named
from vit_jax.ranges import Count, Natural


def build(
    *,
    source: Mapping[str, Any],
    shots: Count,
    seed: Natural = 0,
    classes: Literal["all", "base", "new"] = "all",
) -> Subset:
    """So many examples of each class, drawn by a seeded permutation of each as the evaluator `fewshot` draws them.

    Args:
        source: the section of the other source.
        shots: examples of each class.
        classes: of the first half of the classes ("base"), of the others ("new"), or of all; see `base_classes`.

    Raises:
        UserError: for a class that has fewer examples, and a source whose examples have no class.
    """
    if not isinstance(source, Mapping):
        raise UserError(f"few_shot takes examples of a source, and got {source!r}", "Give the section of a source")
    whole = build_named("source", source, "few_shot.source")
    names = whole.label_names
    labels = _labels(whole)
    rng = np.random.default_rng(seed)
    # Drawn for all classes, so that the base ones are the same examples whether or not the others are taken.
    drawn = [rng.permutation(np.flatnonzero(labels == label)) for label in range(len(names))]
    base = base_classes(len(names))
    wanted = {"all": range(len(names)), "base": range(base), "new": range(base, len(names))}[classes]
    for label in wanted:
        if len(drawn[label]) < shots:
            raise UserError(
                f"The class {names[label]!r} has {len(drawn[label])} examples, fewer than the {shots} shots asked for",
                "Lower shots, or leave the class out",
            )
    indices = np.concatenate([drawn[label][:shots] for label in wanted])
    return Subset(whole, indices, labels[indices].astype(np.int32))


def _labels(source: Source) -> Int[np.ndarray, " N"]:
    found = getattr(source, "labels", None)
    if found is None:
        found = [source[index].get("label") for index in range(len(source))]
    found = np.asarray(found) if all(isinstance(label, int | np.integer) for label in found) else None
    if found is None or not source.label_names:
        raise UserError("few_shot needs a source whose examples have one class each", "Use a source with labels")
    return found
