"""What is between two images: in their pixels, in an autoencoder's latents, and in a diffusion's noise.

examples:
  vit_jax interpolate --checkpoint runs/diffusion three.png eight.png --output sheet.png
  vit_jax interpolate --checkpoint runs/latent a.jpg b.jpg --in pixels,latents,noise --count 9 --output sheet.png
  vit_jax interpolate --checkpoint runs/digits a.png b.png --in noise --prompt 3 --steps 100 --output sheet.png
  vit_jax interpolate --checkpoint runs/kl a.jpg b.jpg --in pixels,latents --output sheet.png

The sheet has a row for each space that the checkpoint has, with what there is to see in it. Noise is found by DDIM
(arXiv:2010.02502), which without noise of its own can be gone in both directions, and mixed on the arc between both.
Settings of the checkpoint's sampler are flags: --steps (default 50), --guidance (default 1, none). An image is said to
be --prompt, a class or a text of the model; by default nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vit_jax.commands.arguments import add_checkpoint, add_settings, open_loaded, read_settings
from vit_jax.commands.output import output_file
from vit_jax.errors import UserError, printable

_MOST = 64  # columns
_NOTES = {
    "pixels": "Pixels: both images at once, one fading into the other. Nothing in between is an image of its own.",
    "latents": "Latents of the autoencoder: what they have in common is kept better, but a mean of two latents need "
    "not belong to any image.",
    "noise": "Noise: each image is taken up to the noise that it comes out of, and places on the arc between both "
    "noises come down again. Each is an image that the model could have drawn; at the ends stands what came back "
    "of A and B.",
}
_FLAGS = ("--in", "--count", "--prompt", "--output", "--checkpoint")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    parser.add_argument("a", metavar="A", help="an image file")
    parser.add_argument("b", metavar="B", help="another")
    parser.add_argument(
        "--in", dest="spaces", metavar="SPACES", help="pixels, latents, noise, with commas (default: all there are)"
    )
    parser.add_argument("--count", type=int, default=9, metavar="N", help="images of a row, A and B too (default 9)")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="what both images are (default: nothing is said)")
    parser.add_argument("--output", required=True, metavar="FILE", help="the sheet, a .png")
    add_settings(parser)


def run(arguments: argparse.Namespace) -> None:
    import numpy as np

    from vit_jax.commands.figures import png
    from vit_jax.inspection.diffusion_figures import rows_figure
    from vit_jax.inspection.interpolation import interpolate, spaces_of
    from vit_jax.training.compiling import keep_compiled

    if not 3 <= arguments.count <= _MOST:
        raise UserError(f"--count is {arguments.count}", f"Ask for 3 to {_MOST}: A, B and what is between")
    output = output_file(arguments.output, suffixes=(".png",))
    for name in (arguments.a, arguments.b):
        if not Path(name).is_file():
            raise UserError(f"There is no image {name}", "Name two image files")
    loaded = open_loaded(arguments)
    if loaded.preprocess is None:
        raise UserError(f"{loaded.path} takes no images", "Use a checkpoint of a diffusion or an autoencoder")
    spaces = list(spaces_of(loaded))
    if arguments.spaces is not None:
        spaces = list(dict.fromkeys(each.strip() for each in arguments.spaces.split(",")))
    given = read_settings(arguments, loaded.task, _FLAGS)
    if "noise" not in spaces and (given or arguments.prompt):
        name = next(iter(given), "prompt").replace("_", "-")
        raise UserError(f"--{name} is of noise, in which nothing is asked for", "Leave it out, or add noise to --in")
    a, b = (loaded.preprocess.to_uint8(name)[None] for name in (arguments.a, arguments.b))
    keep_compiled()
    shares = np.linspace(0, 1, arguments.count)
    rows = interpolate(loaded, a, b, shares, spaces, prompts=(arguments.prompt,), settings=given)
    titles = ["A", *(f"{share:.2f}" for share in shares[1:-1]), "B"]
    figure = rows_figure({name: images[0] for name, images in rows.items()}, titles, _NOTES)
    output.write_bytes(png(figure))
    print(printable(f"{output}: {arguments.count} images in {', '.join(rows)}"))
