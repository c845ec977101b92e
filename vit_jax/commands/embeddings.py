"""One vector for each image file, kept where asked for, and a page of the most similar ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from vit_jax.commands import page
from vit_jax.commands.image_files import in_batches
from vit_jax.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Float32

    from vit_jax.checkpoints.load import Loaded


def embed_files(
    loaded: Loaded, paths: Sequence[Path], batch_size: int, output: str
) -> tuple[list[Path], Float32[np.ndarray, "N E"], list[UserError]]:
    """The images that can be read, an output of each, and why others cannot.

    Raises:
        UserError: for an output that the model does not give, or that is not one vector an image.
    """
    import numpy as np
    from tqdm import tqdm

    kept, rows, unreadable = [], [], []
    # On stderr, so that the table can go to a file or a pipe; left out where nobody would see it move.
    bar = tqdm(total=len(paths), unit="image", leave=False, disable=not sys.stderr.isatty())
    batches = in_batches(loaded, paths, batch_size, lambda batch: loaded.outputs(batch, output)[output])
    with bar, closing(batches):
        for batch, outputs in batches:
            bar.update(len(batch))
            unreadable += [image for _, image in batch if isinstance(image, UserError)]
            readable = [path for path, image in batch if not isinstance(image, UserError)]
            kept += readable
            if outputs is not None:
                if getattr(outputs, "ndim", 0) != 2:
                    raise UserError(f"The output {output!r} is not one vector an image", "Use 'features'")
                rows.append(np.asarray(outputs, np.float32)[: len(readable)])
    return kept, np.concatenate(rows) if rows else np.zeros((0, 0), np.float32), unreadable


def embedded(
    loaded: Loaded, paths: Sequence[Path], batch_size: int, output: str, cache: str | None
) -> tuple[list[Path], Float32[np.ndarray, "N E"], list[UserError]]:
    """`embed_files`, out of a directory where the same model has embedded the same files before."""
    if cache is None:
        return embed_files(loaded, paths, batch_size, output)
    import numpy as np

    from vit_jax.evaluators.features import FeatureCache

    store = FeatureCache(cache, model_digest(loaded))
    images = json.dumps([described_files(paths), loaded.preprocess.to_json()], default=str)
    found = store.read(output, images)
    if found is not None:
        return list(paths), found[0], []
    kept, embeddings, unreadable = embed_files(loaded, paths, batch_size, output)
    if kept and not unreadable:  # what cannot be read has to be said again the next time
        store.write(output, images, (embeddings, np.arange(len(kept))))
    return kept, embeddings, unreadable


def model_digest(loaded: Loaded) -> str:
    """A name for what a checkpoint computes: its parameters, its task and its model."""
    from vit_jax.evaluators.features import digest

    return digest(loaded.variables, [loaded.metadata["task"], loaded.metadata["model"]])


def described_files(paths: Sequence[Path]) -> list[list[object]]:
    """What changes when one of the files does: where they are, how large, and when they were written."""
    return [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]


def most_similar(cosines: Float[np.ndarray, " N"], top: int) -> list[int]:
    """The places of the largest, of equals the first ones first."""
    import numpy as np

    return np.argsort(-np.asarray(cosines), kind="stable")[:top].tolist()


def page_of_images(
    loaded: Loaded, title: str, said: str, best: Sequence[tuple[Path, float]], before: Sequence[str] = ()
) -> str:
    """A page of pictures, each with its place and its cosine.

    Args:
        said: below the title.
        best: the files, the most similar first.
        before: parts of the page that come between.
    """
    from vit_jax.data.drawing import image_png

    cards = [
        page.card(image_png(loaded.preprocess.to_uint8(path)), [f"{place}. {cosine:.3f}", path.name])
        for place, (path, cosine) in enumerate(best, 1)
    ]
    return page.page(title, [*before, page.paragraph(said), page.grid(cards)])


def ranked_of(count: int, what: str, loaded: Loaded) -> str:
    """What the numbers mean."""
    return (
        f"The most similar of {count} {what}, by {loaded.path}: the numbers are the cosines of the angles between "
        "embeddings, of which only the order means something."
    )
