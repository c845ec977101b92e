"""Images that a generator draws: one picture of all, a directory, or an array.

examples:
  vit_jax sample --checkpoint runs/generator --count 64 --output grid.png
  vit_jax sample --checkpoint runs/generator --classes 3,7 --guidance 1.5 --top-k 100 --output grid.png
  vit_jax sample --checkpoint runs/generator --count 50000 --output samples/       # called again, it goes on there
  vit_jax sample --checkpoint runs/generator --count 2000 --temperature 0.9 --output samples.npz
  vit_jax sample --checkpoint runs/painter --prompts texts.txt --output grid.png
  vit_jax sample --checkpoint runs/painter --image photo.jpg --strength 0.6 --output redrawn.png
  vit_jax sample --checkpoint runs/painter --image photo.jpg --mask mask.png --paste --output repaired.png
  vit_jax sample --checkpoint runs/controlled --prompt "a house" --control edges:photo.jpg --output house.png

Besides these flags, each setting of the checkpoint's task is a flag: --guidance, --steps, --top-k, --top-p,
--temperature and whatever else it has; what is not said is as its paper has it, and a flag that it does not have names
those that it has. How samples were drawn is stored beside them as JSON.

What samples go by beside a prompt, where the task takes it: --image, --mask (white is drawn anew), --depth and
--control. They lie on each other: one of another size than the image is resized to it, and all are then prepared as
the model sees images.

Image i depends on the checkpoint, the settings, --seed, i and its class or prompt alone; these take turns. So more
images, other batches and other devices change none of them, and a directory may be filled in several calls.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_jax.commands.arguments import add_checkpoint, add_settings, open_loaded, read_settings
from vit_jax.commands.sample_files import columns_of, target
from vit_jax.commands.text_files import lines_of
from vit_jax.errors import UserError, printable
from vit_jax.ranges import check_seed

if TYPE_CHECKING:
    import numpy as np

    from vit_jax.checkpoints.load import Loaded

_SHEET = 64  # images
_PICTURES = ("image", "mask", "depth", "control")
_FLAGS = (
    "--count",
    "--classes",
    "--prompt",
    "--prompts",
    *(f"--{name}" for name in _PICTURES),
    "--paste",
    "--seed",
    "--output",
    "--batch-size",
    "--checkpoint",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    parser.add_argument(
        "--count", type=int, metavar="N", help="of images (default 64, or one a prompt, or with a picture one a class)"
    )
    parser.add_argument("--classes", metavar="A,B", help="draw these classes in turn, by name or number")
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="what to draw; repeatable")
    parser.add_argument("--prompts", metavar="FILE", help="a text file with a prompt a line")
    parser.add_argument("--image", metavar="FILE", help="what to begin with")
    parser.add_argument("--mask", metavar="FILE", help="white where the image is to be new, black where it stays")
    parser.add_argument("--depth", metavar="FILE", help="how far away things are: a grey PNG, or an .npy array")
    parser.add_argument(
        "--control", action="append", metavar="[edges:]FILE",
        help="what to follow, as the model was taught; edges:PHOTO for Canny's edges of a photo; repeatable",
    )  # fmt: skip
    parser.add_argument("--paste", action="store_true", help="with a mask: all else keeps the image's own pixels")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the images (default 0)")
    parser.add_argument(
        "--output", required=True, metavar="FILE|DIR", help="a .png of all, an .npz, or DIR/ with a .png of each"
    )
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images at a time (default 64)")
    add_settings(parser)


def run(arguments: argparse.Namespace) -> None:
    import jax
    import numpy as np
    from tqdm import tqdm

    from vit_jax.checkpoints.given_pictures import digests, read_pictures
    from vit_jax.checkpoints.sampling import asked, name_of, sample, settings_of
    from vit_jax.training.compiling import keep_compiled
    from vit_jax.training.sharding import batch_sharding, make_mesh

    prompts = _prompts(arguments)
    given_pictures = {name: getattr(arguments, name) for name in _PICTURES if getattr(arguments, name)}
    count = _usual_count(arguments, prompts, given_pictures) if arguments.count is None else arguments.count
    for name, number in (("count", count), ("batch-size", arguments.batch_size)):
        if number < 1:
            raise UserError(f"--{name} is {number}", "Ask for at least 1")
    check_seed(arguments.seed, "--seed")
    output = target(arguments.output, columns_of(prompts, count))
    loaded = open_loaded(arguments)
    given = read_settings(arguments, loaded.task, _FLAGS)
    settings = settings_of(loaded.task, given, "a generator of images")
    pictures = read_pictures(
        loaded.task, settings, given_pictures, loaded.preprocess,
        lambda remark: print(printable(f"vit_jax: {remark}"), file=sys.stderr),
    )  # fmt: skip
    conditions = asked(loaded.task, np.arange(count), settings, prompts)(np.arange(count))
    if arguments.classes is not None and "label" not in conditions:
        raise UserError(
            f"The task '{name_of(loaded.task)}' goes by texts and knows no classes", "Give --prompt instead"
        )
    # The device gets what drawing reads of them, in the type that it reads.
    loaded = dataclasses.replace(loaded, variables=jax.device_get(loaded.variables))
    how = {"seed": arguments.seed, "prompts": prompts}
    said = _said(arguments, loaded, settings, conditions) | how | {"count": count}
    if pictures:
        said |= {"picture": digests(pictures), "paste": arguments.paste}
    numbers = output.missing(said)
    keep_compiled()
    mesh = make_mesh({})
    how |= {"pictures": pictures, "paste": arguments.paste}
    how |= {"settings": settings, "batch_size": arguments.batch_size, "rows": batch_sharding(mesh)}
    bar = tqdm(total=count, initial=count - len(numbers), unit="image", leave=False, disable=not sys.stderr.isatty())
    done = 0
    try:
        with bar:
            for part in sample(loaded.task, loaded.variables, numbers, **how):
                output.write(numbers[done : done + len(part)], part)
                done += len(part)
                bar.update(len(part))
    except KeyboardInterrupt:
        if remark := output.interrupted(done):
            print(printable(f"vit_jax: {remark}"), file=sys.stderr)
        raise
    print(printable(output.finish()))


def _usual_count(arguments: argparse.Namespace, prompts: list[str], pictures: Mapping[str, Any]) -> int:
    """One of each prompt; of classes alone, which take turns, and of nothing a sheet, and of pictures one of each
    class."""
    if arguments.classes and not pictures:
        return _SHEET
    return len(prompts) or (1 if pictures else _SHEET)


def _prompts(arguments: argparse.Namespace) -> list[str]:
    """What the images are asked to be; [] for whatever the task draws by itself."""
    given = [name for name in ("classes", "prompt", "prompts") if getattr(arguments, name) not in (None, [])]
    if len(given) > 1:
        raise UserError(f"There are both --{given[0]} and --{given[1]}", "Give one of them")
    if arguments.classes is not None:
        names = [each.strip() for each in arguments.classes.split(",")]
        if "" in names:  # which the task would take for no condition
            raise UserError(
                f"--classes {arguments.classes!r} has an empty name", "Write names with a comma between them"
            )
        return names
    return arguments.prompt or ([] if arguments.prompts is None else lines_of(Path(arguments.prompts), "prompt"))


def _said(
    arguments: argparse.Namespace, loaded: Loaded, settings: Any, conditions: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """What is stored beside samples of the checkpoint, by which a directory is known again."""
    from vit_jax.evaluators.features import digest

    described = [loaded.metadata["task"], loaded.metadata["model"], arguments.image_size]
    simple = {name: values.tolist() for name, values in conditions.items() if values.ndim == 1}
    return {
        "checkpoint": str(loaded.path),
        "parameters": digest(loaded.variables, described)[:16],
        "settings": json.loads(json.dumps(dataclasses.asdict(settings), default=str)),
        "conditions": simple,
    }
