"""The labels that a source knows without reading its examples."""

import numpy as np
from jaxtyping import Int

from vit_jax.data.source import Source


def known_labels(source: Source) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]] | None:
    """The labels of a source and the index of the example that has each, in the order of the examples.

    An example with several labels is there with each of them, one without any with -1.

    Returns:
        None for a source that would have to read its examples for it.
    """
    labels = getattr(source, "labels", None)
    if labels is None:
        return None
    if isinstance(labels, np.ndarray):
        return labels, np.arange(len(labels))
    several = ((label,) if isinstance(label, int | np.integer) else label or (-1,) for label in labels)
    pairs = [(label, index) for index, of_one in enumerate(several) for label in of_one]
    labels, indices = np.array(pairs, np.int64).reshape(-1, 2).T
    return labels, indices
