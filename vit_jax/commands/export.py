"""Write a model as a program that others run: StableHLO, ONNX or a SavedModel, compared with ours before it is written.

examples:
  vit_jax export runs/mine --output served                                  # StableHLO, for any batch size
  vit_jax export runs/mine --output served --preprocessing normalize        # takes bytes 0..255 of the model's size
  vit_jax export runs/mine --output served --format onnx --batch-size 1     # pip install 'vit_jax[export-onnx]'
  vit_jax export runs/mine --output served --format savedmodel              # pip install 'vit_jax[export-savedmodel]'
  vit_jax export clip/ --part encoder --output served --output-name features
  vit_jax export clip/ --labels "a cat, a dog" --templates photo --output served
  vit_jax export clip/ --output served --output-name text_embedding         # takes tokens; a tokenizer lies beside

DIR receives the program and export.json, which names its input, outputs, labels and preprocessing. In Python,
vit_jax.load_exported(DIR).top("photo.jpg") answers, and docs/serve.md has a server. What the written files give on ten
images or texts that are made up must be what the model gives, to 1e-4 of the largest value; else nothing is written.
"""

import argparse
from pathlib import Path

from vit_jax.commands.arguments import add_checkpoint, add_labels, check_labels, open_loaded, with_labels
from vit_jax.commands.output import check_makeable
from vit_jax.errors import UserError, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser, positional=True)
    parser.add_argument("--output", required=True, metavar="DIR", help="the folder to make")
    parser.add_argument(
        "--format", default="stablehlo", choices=("stablehlo", "onnx", "savedmodel"), help="(default stablehlo)"
    )
    parser.add_argument(
        "--output-name", action="append", default=[], metavar="NAME",
        help="an output of the task, such as logits, features, tokens, image_embedding or text_embedding; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="images or texts that it takes at a time (default: any)"
    )
    parser.add_argument(
        "--preprocessing", default="none", choices=("none", "normalize", "resize"),
        help="what the program does itself: none takes normalised floats, normalize bytes of the model's size, resize "
        "bytes of any size (default none)",
    )  # fmt: skip
    parser.add_argument(
        "--platforms", default="cpu,cuda,tpu", metavar="LIST",
        help="where a StableHLO program or SavedModel is to run (default cpu,cuda,tpu)",
    )  # fmt: skip
    add_labels(parser)


def run(arguments: argparse.Namespace) -> None:
    from vit_jax.checkpoints.serving.program import Program
    from vit_jax.checkpoints.serving.text_program import TextProgram, reads_texts
    from vit_jax.checkpoints.serving.writing import check_export, export_program

    if arguments.batch_size is not None and arguments.batch_size < 1:
        raise UserError(f"--batch-size is {arguments.batch_size}", "Ask for at least 1")
    check_makeable(arguments.output, "--output")
    check_labels(arguments, False)
    folder = Path(arguments.output)
    platforms = [name.strip() for name in arguments.platforms.split(",") if name.strip()]
    check_export(folder, arguments.format, platforms)
    loaded = with_labels(open_loaded(arguments), arguments)
    names = tuple(arguments.output_name)
    if reads_texts(loaded, names):
        if arguments.preprocessing != "none":
            raise UserError("--preprocessing is of images", "Leave it out: of texts the program takes tokens")
        program = TextProgram(loaded, names, arguments.batch_size)
    else:
        program = Program(loaded, names, arguments.preprocessing, arguments.batch_size)
    about = export_program(program, folder, arguments.format, platforms)
    checked, kind = about["checked"], "images" if "input" in about else "texts"
    given = about.get("inputs") or [about["input"]]
    taken = ", ".join(f"{each['name']} {each['dtype']} {_shape(each['shape'])}" for each in given)
    print(printable(f"{folder}: {taken} ->"))
    for name, said in about["outputs"].items():
        found = checked["differences"][name]
        print(
            printable(
                f"  {name} {said['dtype']} {_shape(said['shape'])}, within {found:.1e} of ours on"
                f" {checked[kind]} {kind}"
            )
        )
    if "pixels" in checked:
        print(f"  of the pixels that it resizes {checked['pixels']:.2%} are one level of 255 off ours")


def _shape(sides: list[int | str]) -> str:
    return f"[{', '.join(map(str, sides))}]"
