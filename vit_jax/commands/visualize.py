"""Look inside a model: filters, positions, and what it attends to in images or texts of yours.

examples:
  vit_jax visualize --checkpoint runs/mine cat.jpg
  vit_jax visualize --checkpoint runs/mine photos/ dog.png --output inside-mine
  vit_jax visualize --checkpoint hf://timm/vit_base_patch16_224.augreg_in21k_ft_in1k cat.jpg
  vit_jax visualize --checkpoint runs/clip cat.jpg dog.png --text "a cat" --text "a dog"
  vit_jax visualize --checkpoint runs/coop --output prompt
  vit_jax visualize --checkpoint runs/bert --text "The animal was tired because it had run" --word it
  vit_jax visualize --checkpoint runs/diffusion digits/ --output steps
  vit_jax visualize --checkpoint stable-diffusion-v1-5 --prompt "a cat on a red chair" --output words

The directory receives report.html, which needs nothing but a browser and says how to read each picture, and the same
pictures as PNG files. What a model does not have is left out: an MLP-Mixer has no attention, a ResNet neither that nor
patches. The pictures are those of the ViT paper (figures 6 and 7), attention rollout, and what a masked autoencoder
reconstructs; of a Swin the windows and what is attended to in them, of a SparseViT which of them it computes, of an
EfficientViT the attention that it never writes out; of a SAM what a click into the middle may mean, and where its
tokens look for that; of a diffusion the way from noise to its samples (of each --text that it can follow), its
schedule, where in a sample each word of its prompt is looked for, and what each step is worth for images, where there
are some; of a text it is which words a word attends to, in every layer and head (of a translation's encoder); of images
and texts together it is how similar a model of both finds them. Of a learned prompt, without images and texts, the
tokens nearest to its vectors are printed, and the directory receives the vectors (prompt.safetensors) and what they
mean (prompt.json). As arrays and figures they are in vit_jax.inspection: arrays, layers, linear, reconstruction, texts,
clicks, diffusion, prompt_maps; figures, window_figures, text_figures, pair_figures and diffusion_figures.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vit_jax.commands.arguments import add_checkpoint, open_loaded
from vit_jax.commands.image_files import expand, left_out
from vit_jax.commands.output import output_folder
from vit_jax.commands.picture import Picture
from vit_jax.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from vit_jax.checkpoints.load import Loaded

_MOST = 50  # images; a report with more cannot be read, nor opened by every browser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="image files or directories")
    parser.add_argument(
        "--text", "--prompt", action="append", metavar="TEXT",
        help="a text instead, or to compare; what a diffusion is to draw; repeatable",
    )  # fmt: skip
    parser.add_argument("--word", metavar="WORD", help="whose attention is drawn (default: the last of each text)")
    parser.add_argument("--output", default="inside", metavar="DIR", help="made if need be (default inside)")


def run(arguments: argparse.Namespace) -> None:
    from vit_jax.commands import page
    from vit_jax.commands.figures import png
    from vit_jax.inspection.diffusion import can_diffuse
    from vit_jax.training.compiling import keep_compiled

    texts = arguments.text or []
    if arguments.word and (arguments.images or not texts):
        raise UserError("--word is of a text alone", "Give one with --text, and no images")
    paths = expand(arguments.images) if arguments.images else []
    for some, what in ((texts, "texts"), (paths, "images")):
        if len(some) > _MOST:
            raise UserError(f"These are {len(some)} {what}", f"Name at most {_MOST}")
    output = output_folder(arguments.output)
    loaded = open_loaded(arguments)
    diffuses = can_diffuse(loaded)
    if not texts and not arguments.images and not diffuses:
        _learned(loaded, output)
        return
    keep_compiled()
    images, unreadable = {}, []
    if diffuses:
        from vit_jax.commands.diffusion_pictures import diffusion_sections

        images, unreadable = _read(loaded, paths)
        if paths and not images:
            raise left_out(unreadable, len(paths))
        sections = diffusion_sections(loaded, images, texts)
    elif texts and not paths:
        from vit_jax.commands.text_pictures import text_sections

        sections = text_sections(loaded, texts, arguments.word)
    else:
        if loaded.preprocess is None:
            raise UserError(f"{arguments.checkpoint} takes no images", "Give texts with --text")
        images, unreadable = _read(loaded, paths)
        if not images:
            raise left_out(unreadable, len(paths))
        sections = _of_pairs(loaded, images, texts) if texts else _sections(loaded, images)

    parts: list[str] = []
    count = 0
    for title, note, pictures in sections:
        parts += [page.heading(title), *([page.paragraph(note)] if note else [])]
        for picture in pictures:
            count += 1
            data = png(picture.figure)
            # After the first picture is made: a model with nothing to look at leaves no directory behind.
            output.mkdir(exist_ok=True)
            (output / f"{picture.name}.png").write_bytes(data)
            parts.append(page.figure(data, picture.caption))
    report = output / "report.html"
    report.write_text(page.page(f"Inside {arguments.checkpoint}", parts), encoding="utf-8")
    print(f"Report: {report}, and {count} pictures beside it")
    if unreadable:
        raise left_out(unreadable, len(paths))


def _learned(loaded: Loaded, output: Path) -> None:
    """What there is to see of a checkpoint by itself."""
    from vit_jax.commands.prompt_words import write_prompt
    from vit_jax.inspection.prompts import has_prompt

    if not has_prompt(loaded):
        raise UserError("There is nothing to look at", "Name images, or give texts with --text")
    write_prompt(loaded, output)


def _read(loaded: Loaded, paths: list[Path]) -> tuple[dict[Path, np.ndarray], list[UserError]]:
    """The images as the model sees them, uint8, and the errors of those that cannot be read."""
    images, unreadable = {}, []
    for path in paths:
        try:
            images[path] = loaded.preprocess.to_uint8(path)
        except UserError as error:
            unreadable.append(error)
    return images, unreadable


def _sections(loaded: Loaded, images: dict[Path, np.ndarray]) -> Iterator[tuple[str, str, list[Picture]]]:
    """Title, note and pictures of each part of the report.

    Raises:
        UserError: for a model that has nothing of all this.
    """
    import numpy as np

    from vit_jax.inspection import arrays, extract, figures, layers, linear
    from vit_jax.inspection.clicks import takes_clicks

    of_model = _of_weights(loaded)
    names = {path: f"{number:02d}_{_plain(path.stem)}" for number, path in enumerate(images, 1)}
    if takes_clicks(loaded):
        from vit_jax.commands.click_pictures import click_sections

        yield from click_sections(loaded, images, names)
    if layers.has_windows(loaded):
        from vit_jax.commands.window_pictures import window_sections

        yield from [("The weights", "", of_model)] if of_model else []
        yield from window_sections(loaded, images, names)
        return
    attends = extract.has_attention(loaded)
    if not attends and linear.has_linear_attention(loaded):
        from vit_jax.commands.window_pictures import linear_sections

        yield from linear_sections(loaded, images, names)
        return
    if not of_model and not attends:
        # The sentence names the model.
        extract.attention_weights(loaded, np.zeros((1, *loaded.preprocess.image_size, 3), np.float32))
    if of_model:
        yield "The weights", "", of_model
    if not attends:
        yield "Attention", "This model has no attention, so that the images have nothing to show.", []
        return

    grid, size = extract.patch_grid(loaded), loaded.preprocess.image_size
    distances, sections = [], []
    for path, image in images.items():
        x = loaded.preprocess.normalize(image)[None]
        weights = extract.attention_weights(loaded, x)
        distances.append(arrays.mean_attention_distance(weights, grid, extract.patch_pixels(loaded)))
        sections.append((path.name, "", _of_image(loaded, names[path], image, x, weights)))
    of_images = "this image" if len(images) == 1 else f"these {len(images)} images"
    figure = figures.distance_figure({"mean attention distance": np.mean(distances, axis=0)}, size)
    caption = (
        "How far each head looks: the distance between a patch and the patches that it attends to, weighted by the "
        f"attention, in pixels, a mean over the patches of {of_images}. Low dots are heads that work locally, like a "
        "small convolution; high ones mix the whole image. Trained models have both in their first layers and only "
        "high ones in their last."
    )
    yield "How far it looks", "", [Picture("attention_distance", figure, caption)]
    yield from sections


def _of_pairs(
    loaded: Loaded, images: dict[Path, np.ndarray], texts: list[str]
) -> Iterator[tuple[str, str, list[Picture]]]:
    from vit_jax.commands.pair_pictures import pair_sections

    return pair_sections(loaded, images, texts)


def _of_weights(loaded: Loaded) -> list[Picture]:
    from vit_jax.inspection import arrays, extract, figures

    pictures = []
    try:
        components = arrays.filter_components(extract.patch_kernel(loaded))
    except UserError:
        pass
    else:
        pictures.append(Picture(
            "patch_filters",
            figures.filters_figure(components),
            "What the embedding of a patch measures, the strongest component first: mid-grey is zero, and a patch "
            "that looks like the tile gets a large value. A well trained model shows colours, edges and waves that get "
            "finer from tile to tile; noise says that it was trained little or on few images.",
        ))  # fmt: skip
    try:
        table = extract.position_table(loaded)
    except UserError:
        return pictures
    title = f"{table.shape[0]}x{table.shape[1]} positions, width {table.shape[2]}"
    pictures.append(Picture(
        "position_similarity",
        figures.similarity_figure({title: arrays.position_similarity(table)}),
        "Each tile stands for one patch of the image and shows how similar its position's embedding is to those of all "
        "patches. The bright spot is the patch itself; where it fades with distance, and along rows and columns, the "
        "model has learned that the patches lie in a grid.",
    ))  # fmt: skip
    return pictures


def _of_image(loaded: Loaded, name: str, image: np.ndarray, x: np.ndarray, weights: np.ndarray) -> list[Picture]:
    from vit_jax.inspection import arrays, extract, figures

    grid = extract.patch_grid(loaded)
    has_class_token = bool(loaded.model.encoder.tokens.class_token)
    rollout = arrays.query_maps(arrays.attention_rollout(weights), grid, has_class_token)[0]
    maps = arrays.query_maps(weights, grid, has_class_token)[:, 0]
    who = "the class token" if has_class_token else "the mean patch"
    pooled = extract.pooling_weights(loaded, x)
    heads = maps[-1] if pooled is None else arrays.patch_maps(pooled, grid)[0]
    place = "in the last layer" if pooled is None else "in the pooling that sums up the image"
    attending = who if pooled is None else "the pooling's probe"
    return [
        *_reconstruction(loaded, name, image),
        Picture(
            f"{name}_rollout",
            figures.rollout_figure(image, rollout),
            "Left: the image as the model sees it, resized and cropped. Right: attention rollout, which follows the "
            f"attention through all layers: bright patches are those from which {who} at the end could take most.",
        ),
        Picture(
            f"{name}_heads",
            figures.heads_figure(image, heads),
            f"What {attending} attends to {place}, a tile a head. The brightest patch of a tile weighs most and the "
            "darkest least: compare places, not brightness, between tiles.",
        ),
        Picture(
            f"{name}_layers",
            figures.layers_figure(maps),
            f"What {who} attends to: a row a layer from the first at the top, a column a head, each tile from its "
            "least to its most. Look for the row where the attention settles on the object.",
        ),
    ]


def _reconstruction(loaded: Loaded, name: str, image: np.ndarray) -> list[Picture]:
    """Of a masked autoencoder; nothing for another model."""
    from vit_jax.inspection import figures, reconstruction

    if not reconstruction.can_reconstruct(loaded):
        return []
    found = reconstruction.reconstruct(loaded, image[None])
    caption = (
        "Left: the patches that the encoder is shown, drawn at random. Middle: these and what the decoder makes of the "
        "others. Right: the image. Look whether the large forms are right: a mean squared error makes what cannot be "
        "known blurred."
    )
    if loaded.model.normalize_pixels:
        caption += (
            " This decoder predicts patches up to their brightness and contrast, which are taken from the original."
        )
    figure = figures.reconstruction_figure(image, found.masked[0], found.completed[0])
    return [Picture(f"{name}_reconstruction", figure, caption)]


def _plain(stem: str) -> str:
    """What is safe in a file's name everywhere."""
    return re.sub(r"[^\w.-]+", "_", stem)[:60]
