"""The contract of a data source."""

import os
from typing import Any, NotRequired, Protocol, TypedDict

import numpy as np
from jaxtyping import UInt8

from vit_jax.errors import UserError

# More than any set of images has; a number above it in a file is damage, and its names alone would fill the memory.
MAX_CLASSES = 1_000_000


class Example(TypedDict):
    """One example as a source gives it; it may have any other fields, see `vit_jax.data.fields`, and lack these.

    Attributes:
        image: encoded bytes (JPEG, PNG or WebP), or an already decoded array [H, W, 3].
        label: class index.
        path: where the image came from, for error messages.
    """

    image: bytes | UInt8[np.ndarray, "h w 3"]
    label: int
    path: NotRequired[str]


class Source(Protocol):
    """A finite, indexable collection of examples.

    It must be picklable (worker processes get a copy), safe to read from several threads, and it must give the same
    example for the same index every time: that the batches are a pure function of seed and step rests on it.

    It may have `remarks`, sentences for whoever starts a run: about files that were passed over, for example.
    """

    label_names: tuple[str, ...]
    # Optional: `field_names`, a frozenset of the keys of its examples except for "path", so that a mixture can compare
    # its parts.
    # Optional: `in_memory`, true where examples lie ready in memory, so that processes to read them are not worth it.
    # Optional, for sources that know it without reading examples: `labels`, the class index of each, an array [N], or
    # a sequence with any number of them for each. Balanced training asks for it.
    # Optional, of the same kind: `texts`, the text or the list of texts of each. Retrieval asks for it.

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example | dict[str, Any]: ...


def check_class_count(path: str | os.PathLike, count: int) -> int:
    """`count`, a number of classes that a file claims.

    Raises:
        UserError: when it is more than `MAX_CLASSES`.
    """
    if count > MAX_CLASSES:
        raise UserError(
            f"{os.fspath(path)} would have {count} classes, more than {MAX_CLASSES}", "Number the classes from 0"
        )
    return count
