"""Write a checkpoint in the format of another library, or bring one of theirs here.

examples:
  vit_jax convert runs/mine exported/timm --to timm                  # model.safetensors and config.json
  vit_jax convert runs/mine exported/transformers --to transformers  # a folder for from_pretrained
  vit_jax convert runs/mine exported/mine.npz                        # names of google-research/vision_transformer
  vit_jax convert hf://timm/vit_base_patch16_224.augreg_in21k runs/base
  vit_jax convert clip.safetensors exported/tower --part encoder --to transformers
  vit_jax convert runs/flexi exported/flexi-8 --model.patch_size=8 --to timm  # a FlexiViT at one patch size

Parameters are only renamed, split and transposed: there and back gives the same bits. A format that could not say
something about the model, so that it would be read as another one, is refused.
"""

import argparse
from pathlib import Path

from vit_jax.checkpoints.formats import FORMATS
from vit_jax.commands.arguments import add_overrides, open_stored
from vit_jax.commands.output import check_makeable
from vit_jax.errors import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="a checkpoint that vit_jax loads: workdir, file, URL, hf://...")
    parser.add_argument("target", metavar="DST", type=Path, help="a .safetensors or .npz file, a folder or a workdir")
    parser.add_argument(
        "--to",
        choices=FORMATS,
        help="the format; by default .npz and .safetensors (timm where it has the model) as DST ends, else orbax",
    )
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> None:
    from vit_jax.checkpoints.export import default_format, export, notes

    check_makeable(str(arguments.target), "DST")
    source = open_stored(arguments)
    spec = source.metadata["model"] or {}
    to = arguments.to or default_format(arguments.target, spec.get("name", ""))
    written = export(source, arguments.target, to)
    for note in notes(source, to):
        print(printable(note))
    print(printable(f"{source.path} -> {to}: {', '.join(str(path) for path in written)}"))
