"""The pictures that are most like one picture, as a model's features see them.

examples:
  vit_jax neighbours cat.jpg photos/ --checkpoint runs/mine --output page.html
  vit_jax neighbours cat.jpg photos/ more/*.png --checkpoint runs/mine --top 20 --cache embeddings/
  vit_jax neighbours cat.jpg --features features.npz --checkpoint runs/mine --output page.html

The table says the cosine of the angle between the features and the file, the most similar first; the page shows the
pictures. The picture itself is left out where it lies among the others. --features takes what 'vit_jax features' wrote
with the same checkpoint, so that nothing but the picture is computed; --cache keeps the features for the next picture,
until a file changes. Texts are compared with pictures by 'vit_jax retrieve'.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vit_jax.commands.arguments import add_checkpoint, open_loaded
from vit_jax.commands.image_files import expand, left_out
from vit_jax.commands.output import output_file
from vit_jax.errors import UserError, printable

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float32

    from vit_jax.checkpoints.load import Loaded


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    parser.add_argument("query", metavar="IMAGE", help="an image file")
    parser.add_argument("images", nargs="*", metavar="IMAGES", help="image files or directories to look in")
    parser.add_argument("--features", metavar="FILE", help="look in these instead, an .npz of 'vit_jax features'")
    parser.add_argument(
        "--what", default="features", metavar="NAME", help="the output that is compared, such as image_embedding"
    )
    parser.add_argument("--top", type=int, default=10, metavar="K", help="how many to name (default 10)")
    parser.add_argument("--output", metavar="FILE", help="the page to write, .html")
    parser.add_argument("--cache", metavar="DIR", help="keeps the features of the images there")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="at a time (default 32)")


def run(arguments: argparse.Namespace) -> None:
    from vit_jax.commands import page
    from vit_jax.commands.embeddings import embed_files, embedded, most_similar, page_of_images, ranked_of
    from vit_jax.data.drawing import image_png
    from vit_jax.training.compiling import keep_compiled

    for name in ("top", "batch_size"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(arguments, name)}", "Ask for at least 1")
    output = None if arguments.output is None else output_file(arguments.output, suffixes=(".html",))
    if bool(arguments.images) == (arguments.features is not None):
        raise UserError(
            "There are both images and --features to look in" if arguments.images else "There is nothing to look in",
            "Name images or directories behind the first image, or --features FILE",
        )
    if arguments.cache is not None and arguments.features is not None:
        raise UserError("--cache is of images to look in", "Leave it out")
    queries = expand([arguments.query])
    if len(queries) > 1:
        raise UserError(f"{arguments.query} has {len(queries)} images", "Name one")
    [query] = queries
    paths = expand(arguments.images)
    loaded = open_loaded(arguments)
    keep_compiled()
    _, asked, unreadable = embed_files(loaded, [query], 1, arguments.what)
    if unreadable:
        raise unreadable[0]
    if arguments.features is not None:
        kept, features = _stored(loaded, Path(arguments.features), arguments.what)
    else:
        kept, features, unreadable = embedded(loaded, paths, arguments.batch_size, arguments.what, arguments.cache)
    cosines = _unit(features) @ _unit(asked)[0] if kept else []
    others = (i for i in most_similar(cosines, len(kept)) if not _same(kept[i], query))  # each asks the disk
    places = list(itertools.islice(others, arguments.top))
    if not places:
        raise left_out(unreadable, len(paths)) if unreadable else UserError("There is no other image", "Name more")
    best = [(kept[i], float(cosines[i])) for i in places]
    print("\n".join(f"{cosine:6.3f}  {printable(path)}" for path, cosine in best))
    if output is not None:
        shown = page.figure(image_png(loaded.preprocess.to_uint8(query)), "The picture as the model sees it.")
        said = ranked_of(len(kept), "pictures", loaded)
        there = [(path, cosine) for path, cosine in best if path.is_file()]  # files of --features may have moved
        output.write_text(page_of_images(loaded, f"Like {query.name}", said, there, [shown]), encoding="utf-8")
        print(f"Page: {printable(output)}", file=sys.stderr)
    if unreadable:
        raise left_out(unreadable, len(paths))


def _stored(loaded: Loaded, path: Path, what: str) -> tuple[list[Path], Float32[np.ndarray, "N D"]]:
    """Features that `vit_jax features` wrote.

    Raises:
        UserError: for another file, one of another model, or one without this output.
    """
    import numpy as np

    from vit_jax.commands.embeddings import model_digest
    from vit_jax.commands.feature_files import about_in
    from vit_jax.data.npz import read_npz

    if not path.is_file():
        raise UserError(f"There is no file {path}", "Make one: vit_jax features photos/ --output features.npz")
    about = about_in(path) if path.suffix == ".npz" else None
    if about is None:
        raise UserError(f"{path} is no .npz of features", "Make one: vit_jax features photos/ --output features.npz")
    if json.loads(about)["model"] != model_digest(loaded):
        raise UserError(
            f"{path} was made with {json.loads(about)['checkpoint']}, another model than {loaded.path}",
            "Give that as the --checkpoint",
        )
    found = read_npz(path, ("paths", what))
    if what not in found or found[what].ndim != 2:
        raise UserError(f"{path} has no {what!r} of one vector an image", f"Make it with --what {what}")
    return [Path(str(name)) for name in found["paths"]], np.asarray(found[what], np.float32)


def _unit(rows: Float32[np.ndarray, "N D"]) -> Float32[np.ndarray, "N D"]:
    import numpy as np

    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _same(path: Path, query: Path) -> bool:
    return path.resolve() == query.resolve()
