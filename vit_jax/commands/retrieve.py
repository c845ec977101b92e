"""Rank pictures by a text, or texts by a picture, with a model that compares them, such as CLIP.

examples:
  vit_jax retrieve --checkpoint runs/clip "red heart" photos/ --output page.html
  vit_jax retrieve --checkpoint runs/clip "red heart" photos/ more/*.png --top 20 --cache embeddings/
  vit_jax retrieve --checkpoint runs/clip cat.jpg --texts captions.txt

The table says the cosine of the angle between the embeddings and what has it, the most similar first; the page shows
the pictures too. Embedding a large folder takes a while: --cache keeps it for the next text, until a file changes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from vit_jax.commands.arguments import add_checkpoint, open_loaded
from vit_jax.commands.image_files import expand, left_out, read_ahead
from vit_jax.commands.output import output_file
from vit_jax.commands.text_files import lines_of
from vit_jax.errors import UserError, printable

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Float32

    from vit_jax.checkpoints.load import Loaded

_OUTPUT = "image_embedding"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    parser.add_argument("query", metavar="QUERY", help="a text; or an image file, where texts are ranked")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="image files or directories, ranked by a text")
    parser.add_argument("--text", action="append", default=[], metavar="TEXT", help="a text to rank; repeatable")
    parser.add_argument("--texts", metavar="FILE", help="a file with a text a line to rank")
    parser.add_argument("--top", type=int, default=10, metavar="K", help="how many to name (default 10)")
    parser.add_argument("--output", metavar="FILE", help="the page to write, .html")
    parser.add_argument("--cache", metavar="DIR", help="keeps the embeddings of the images there")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="at a time (default 32)")


def run(arguments: argparse.Namespace) -> None:
    from vit_jax.training.compiling import keep_compiled

    for name in ("top", "batch_size"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(arguments, name)}", "Ask for at least 1")
    output = None if arguments.output is None else output_file(arguments.output, suffixes=(".html",))
    texts = arguments.text + (lines_of(Path(arguments.texts), "text") if arguments.texts is not None else [])
    query = arguments.query
    if bool(texts) == bool(arguments.images):
        raise UserError(
            "There are both images and texts to rank" if texts else "There is nothing to rank",
            "Give a text and then images, or an image and --texts FILE or --text TEXT",
        )
    if arguments.cache is not None and texts:
        raise UserError("--cache is of images to rank", "Leave it out")
    if not query.strip():
        raise UserError("The text to rank by is empty", "Say what to look for")
    paths = expand([query] if texts else arguments.images)
    loaded = open_loaded(arguments)
    loaded.check_two_towers()
    keep_compiled()
    if texts:
        ranked = _texts_by_image(loaded, paths, texts, arguments.top, output)
        print("\n".join(f"{cosine:6.3f}  {printable(text)}" for text, cosine in ranked))
        return
    kept, embeddings, unreadable = _embedded(loaded, paths, arguments.batch_size, arguments.cache)
    if not kept:
        raise left_out(unreadable, len(paths))
    cosines = embeddings @ loaded.embed_texts(query)[0]
    best = [(kept[i], float(cosines[i])) for i in _first(cosines, arguments.top)]
    print("\n".join(f"{cosine:6.3f}  {printable(path)}" for path, cosine in best))
    if output is not None:
        output.write_text(_page_of_images(loaded, query, len(kept), best), encoding="utf-8")
        print(f"Page: {printable(output)}", file=sys.stderr)
    if unreadable:
        raise left_out(unreadable, len(paths))


def embed_files(
    loaded: Loaded, paths: Sequence[Path], batch_size: int
) -> tuple[list[Path], Float32[np.ndarray, "N E"], list[UserError]]:
    """The images that can be read, the embedding of each, and why others cannot.

    Files are decoded in threads; the last batch is filled up, so that there is one program to compile.
    """
    import numpy as np
    from tqdm import tqdm

    kept, rows, unreadable, batch = [], [], [], []

    def embed() -> None:
        pixels = np.stack(batch + batch[:1] * (batch_size - len(batch)))
        rows.append(np.asarray(loaded.outputs({"image": pixels}, _OUTPUT)[_OUTPUT])[: len(batch)])
        batch.clear()

    batch_size = min(batch_size, len(paths))
    # On stderr, so that the table can go to a file or a pipe; left out where nobody would see it move.
    bar = tqdm(total=len(paths), unit="image", leave=False, disable=not sys.stderr.isatty())
    with bar, closing(read_ahead(loaded.preprocess.to_uint8, paths, 2 * batch_size)) as images:
        for path, image in images:
            bar.update()
            if isinstance(image, UserError):
                unreadable.append(image)
                continue
            kept.append(path)
            batch.append(image)
            if len(batch) == batch_size:
                embed()
        if batch:
            embed()
    return kept, np.concatenate(rows) if rows else np.zeros((0, 0), np.float32), unreadable


def _embedded(
    loaded: Loaded, paths: Sequence[Path], batch_size: int, cache: str | None
) -> tuple[list[Path], Float32[np.ndarray, "N E"], list[UserError]]:
    """`embed_files`, out of a directory where the same model has embedded the same files before."""
    if cache is None:
        return embed_files(loaded, paths, batch_size)
    import numpy as np

    from vit_jax.evaluators.features import FeatureCache, digest

    described = [loaded.metadata["task"], loaded.metadata["model"]]
    store = FeatureCache(cache, digest(loaded.variables, described))
    files = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
    images = json.dumps([files, loaded.preprocess.to_json()], default=str)
    found = store.read(_OUTPUT, images)
    if found is not None:
        return list(paths), found[0], []
    kept, embeddings, unreadable = embed_files(loaded, paths, batch_size)
    if kept and not unreadable:  # what cannot be read has to be said again the next time
        store.write(_OUTPUT, images, (embeddings, np.arange(len(kept))))
    return kept, embeddings, unreadable


def _texts_by_image(
    loaded: Loaded, paths: Sequence[Path], texts: Sequence[str], top: int, output: Path | None
) -> list[tuple[str, float]]:
    from vit_jax.commands import page
    from vit_jax.data.drawing import image_png

    if len(paths) > 1:
        raise UserError(f"{paths[0].parent} has {len(paths)} images", "Name one that texts are ranked by")
    image = loaded.preprocess.to_uint8(paths[0])
    embedding = loaded.outputs({"image": image[None]}, _OUTPUT)[_OUTPUT][0]
    cosines = loaded.embed_texts(list(texts)) @ embedding
    best = [(texts[i], float(cosines[i])) for i in _first(cosines, top)]
    if output is not None:
        parts = [
            page.figure(image_png(image), "The picture as the model sees it."),
            page.html_table(["text", "cosine"], [[text, f"{cosine:.3f}"] for text, cosine in best]),
            page.paragraph(_ranked_of(len(texts), "texts", loaded)),
        ]
        output.write_text(page.page(f"Texts for {paths[0].name}", parts), encoding="utf-8")
        print(f"Page: {printable(output)}", file=sys.stderr)
    return best


def _page_of_images(loaded: Loaded, query: str, count: int, best: Sequence[tuple[Path, float]]) -> str:
    from vit_jax.commands import page
    from vit_jax.data.drawing import image_png

    cards = [
        page.card(image_png(loaded.preprocess.to_uint8(path)), [f"{place}. {cosine:.3f}", path.name])
        for place, (path, cosine) in enumerate(best, 1)
    ]
    return page.page(query, [page.paragraph(_ranked_of(count, "pictures", loaded)), page.grid(cards)])


def _ranked_of(count: int, what: str, loaded: Loaded) -> str:
    return (
        f"The most similar of {count} {what}, by {loaded.path}: the numbers are the cosines of the angles between "
        "embeddings, of which only the order means something."
    )


def _first(cosines: Float[np.ndarray, " N"], top: int) -> list[int]:
    """The places of the largest, of equals the first ones first."""
    import numpy as np

    return np.argsort(-np.asarray(cosines), kind="stable")[:top].tolist()
