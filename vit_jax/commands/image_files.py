"""Image files that a command was given, and their pixels, decoded ahead of whoever uses them."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from vit_jax.errors import UserError, printable

if TYPE_CHECKING:
    import numpy as np


def expand(names: Sequence[str]) -> list[Path]:
    """Files as they are, directories as all images below them, sorted; what is hidden below them is passed over.

    Other files below a directory are passed over and counted on stderr; links are followed as training follows them.

    Raises:
        UserError: for what does not exist, for a directory without images or one that cannot be listed, and for a link
            in it that leads to another part of it or above it.
    """
    from vit_jax.data.files import from_here
    from vit_jax.data.image_tree import SUFFIXES, ImageTree

    paths = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            tree = ImageTree(os.fspath(path))
            found = sorted(path / image for image in tree.images())
            if not found:
                others = f", only {tree.passed_over()}" if tree.passed_over() else ""
                raise UserError(f"There are no images below {path}{others}", f"Looked for {', '.join(SUFFIXES)}")
            if others := tree.passed_over():
                print(f"vit_jax: {printable(f'{others} below {path} passed over')}", file=sys.stderr)
            paths += found
        elif path.exists():
            paths.append(path)
        else:
            raise UserError(f"There is no image {from_here(path)}", "Check the path")
    return paths


def read_ahead(
    read: Callable[[Path], np.ndarray], paths: Sequence[Path], ahead: int
) -> Iterator[tuple[Path, np.ndarray | UserError]]:
    """Each path with what `read` made of it, in order, from threads that are at most `ahead` images in front.

    Decoding and resizing release the interpreter's lock, so that threads use all cores. An image that cannot be read
    comes as its error.
    """

    def attempt(path: Path) -> np.ndarray | UserError:
        try:
            return read(path)
        except UserError as error:
            return error

    with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
        rest = iter(paths)
        waiting: deque[tuple[Path, Future]] = deque((p, pool.submit(attempt, p)) for p in islice(rest, ahead))
        try:
            while waiting:
                path, future = waiting.popleft()
                result = future.result()
                waiting.extend((p, pool.submit(attempt, p)) for p in islice(rest, 1))
                yield path, result
        finally:  # whoever stops early does not wait for the rest
            pool.shutdown(wait=False, cancel_futures=True)


def left_out(unreadable: Sequence[UserError], count: int) -> UserError:
    """What a command that stepped over unreadable images says at its end: it names them, the first twenty at least."""
    reasons = [error.what for error in unreadable[:20]]
    if len(unreadable) > len(reasons):
        reasons.append(f"and {len(unreadable) - len(reasons)} more")
    return UserError(
        f"{len(unreadable)} of {count} images were left out: {'; '.join(reasons)}", unreadable[0].what_to_do
    )
