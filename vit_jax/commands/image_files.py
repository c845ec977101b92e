"""Image files that a command was given, and their pixels, decoded ahead of whoever uses them."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from vit_jax.errors import UserError, printable

if TYPE_CHECKING:
    import numpy as np

    from vit_jax.checkpoints.load import Loaded

Outputs = TypeVar("Outputs")


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


def in_batches(
    loaded: Loaded,
    paths: Sequence[Path],
    batch_size: int,
    start: Callable[[dict[str, np.ndarray]], Outputs],
    first: int = 0,
) -> Iterator[tuple[list[tuple[Path, np.ndarray | UserError]], Outputs | None]]:
    """Images with what is computed of them, `batch_size` at a time, in the order of `paths`.

    The last batch is filled up, so that there is one program to compile. The device works on one batch while the next
    is decoded and whoever asks deals with the one before; memory holds about three of them.

    Args:
        start: is given a batch, "image" [B, h, w, C] as evaluation prepares it, uint8 for RGB, and "index" int32 [B],
            the places in the list; what it returns need not be computed yet.
        first: the place of the first of `paths` in a longer list.

    Yields:
        The paths of a batch, each with its image or why it cannot be read; and what `start` returned, whose rows are
        those of the images that could be read, None where there are none.
    """
    import numpy as np

    batch_size = min(batch_size, len(paths))
    if loaded.preprocess is None:
        raise UserError(f"{loaded.path} does not take images", "Use evaluate, or vit_jax.load")

    def started(at: int, batch: Sequence[tuple[Path, np.ndarray | UserError]]) -> Outputs | None:
        readable = [(at + i, image) for i, (_, image) in enumerate(batch) if not isinstance(image, UserError)]
        if not readable:
            return None
        # Bytes travel, and become floats there, of the same bits as on the host.
        filled = readable + [(0, readable[0][1])] * (batch_size - len(readable))
        index = np.array([place for place, _ in filled], np.int32)
        return start({"image": np.stack([image for _, image in filled]), "index": index})

    kind = loaded.fields["image"]
    read = loaded.preprocess.to_uint8 if kind.is_rgb else kind.prepared
    with closing(read_ahead(read, paths, 2 * batch_size)) as images:
        before: tuple | None = None
        batch: list = []
        for i, pair in enumerate(images, 1):
            batch.append(pair)
            if len(batch) < batch_size and i < len(paths):
                continue
            # Starts the model and comes back, so that the host deals with the batch before meanwhile.
            now = (batch, started(first + i - len(batch), batch))
            if before:
                yield before
            before, batch = now, []
        if before:
            yield before


def left_out(unreadable: Sequence[UserError], count: int) -> UserError:
    """What a command that stepped over unreadable images says at its end: it names them, the first twenty at least."""
    reasons = [error.what for error in unreadable[:20]]
    if len(unreadable) > len(reasons):
        reasons.append(f"and {len(unreadable) - len(reasons)} more")
    return UserError(
        f"{len(unreadable)} of {count} images were left out: {'; '.join(reasons)}", unreadable[0].what_to_do
    )
