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
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vit_jax.commands.arguments import add_checkpoint, open_loaded
from vit_jax.commands.embeddings import embedded, most_similar, page_of_images, ranked_of
from vit_jax.commands.image_files import expand, left_out
from vit_jax.commands.output import output_file
from vit_jax.commands.text_files import lines_of
from vit_jax.errors import UserError, printable

if TYPE_CHECKING:
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
    kept, embeddings, unreadable = embedded(loaded, paths, arguments.batch_size, _OUTPUT, arguments.cache)
    if not kept:
        raise left_out(unreadable, len(paths))
    cosines = embeddings @ loaded.embed_texts(query)[0]
    best = [(kept[i], float(cosines[i])) for i in most_similar(cosines, arguments.top)]
    print("\n".join(f"{cosine:6.3f}  {printable(path)}" for path, cosine in best))
    if output is not None:
        output.write_text(
            page_of_images(loaded, query, ranked_of(len(kept), "pictures", loaded), best), encoding="utf-8"
        )
        print(f"Page: {printable(output)}", file=sys.stderr)
    if unreadable:
        raise left_out(unreadable, len(paths))


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
    best = [(texts[i], float(cosines[i])) for i in most_similar(cosines, top)]
    if output is not None:
        parts = [
            page.figure(image_png(image), "The picture as the model sees it."),
            page.html_table(["text", "cosine"], [[text, f"{cosine:.3f}"] for text, cosine in best]),
            page.paragraph(ranked_of(len(texts), "texts", loaded)),
        ]
        output.write_text(page.page(f"Texts for {paths[0].name}", parts), encoding="utf-8")
        print(f"Page: {printable(output)}", file=sys.stderr)
    return best
