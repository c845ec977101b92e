"""Arguments that several commands share."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from vit_jax.errors import UserError
from vit_jax.spelling import closest
from vit_jax.training.config import load_config, override

if TYPE_CHECKING:
    from vit_jax.checkpoints.load import Loaded
    from vit_jax.checkpoints.source import StoredModel
    from vit_jax.tasks import Task


def add_config(parser: argparse.ArgumentParser, required: bool, help_text: str) -> None:
    """`--config FILE[:ARGS]` and `--config.key=value`."""
    parser.add_argument("--config", required=required, metavar="FILE[:ARGS]", help=f"{help_text}; it is code, and run")
    parser.add_argument("--print-config", action="store_true", help="print the config with all its values, and stop")
    parser.add_argument("--override", action="append", default=[], help=argparse.SUPPRESS)
    # Only for --help: main rewrites these into --override before parsing.
    parser.add_argument(
        "--config.KEY",
        dest="_",
        metavar="VALUE",
        help="replace one value of the config, for example --config.steps=100",
    )


def add_checkpoint(parser: argparse.ArgumentParser, required: bool = True, positional: bool = False) -> None:
    """`--checkpoint PATH`, or PATH alone, and what goes with it; see `open_loaded`."""
    parser.add_argument(
        "checkpoint" if positional else "--checkpoint",
        **({} if positional else {"required": required}),
        metavar="PATH",
        help="a workdir (its newest step), a directory checkpoints/<step>, a .safetensors or .npz file, or hf://owner/name",
    )
    parser.add_argument(
        "--image-size",
        type=_size,
        metavar="PIXELS",
        help="let the model see another size than it was trained on: a side or HEIGHTxWIDTH",
    )
    parser.add_argument(
        "--average", type=int, metavar="N", help="take the mean of the parameters of a workdir's last N checkpoints"
    )
    add_overrides(parser)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """`--part`, `--base`, `--allow-nonfinite`, and for published files `--model.key=value` and `--sha256`."""
    parser.add_argument("--sha256", metavar="HASH", help="what the published weight file must hash to")
    parser.add_argument(
        "--allow-nonfinite", action="store_true", help="read parameters that are NaN or infinite, as they are"
    )
    parser.add_argument(
        "--part", metavar="encoder|text", help="one tower of a model of images and texts, as if it lay there alone"
    )
    parser.add_argument("--base", metavar="PATH", help="where the checkpoint is now that adapters were trained beside")
    parser.add_argument("--model-override", action="append", default=[], help=argparse.SUPPRESS)
    # Only for --help: main rewrites these into --model-override before parsing.
    parser.add_argument(
        "--model.KEY",
        dest="_",
        metavar="VALUE",
        help="what a file cannot say about its model, as --model.num_heads=12, or what may change after training, as "
        "--model.patch_size=8 of a ViT",
    )


def read_overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `vit_jax.checkpoints.source.open_source` that `add_overrides` asks for."""
    return {
        "overrides": override({}, dict(pair.split("=", 1) for pair in arguments.model_override)),
        "sha256": arguments.sha256,
        "allow_nonfinite": arguments.allow_nonfinite,
        "base": arguments.base,
    }


def open_stored(arguments: argparse.Namespace) -> "StoredModel":
    """What lies at `arguments.source`, as `add_overrides` asks for it, for who writes it again."""
    from vit_jax.checkpoints.part import part_of
    from vit_jax.checkpoints.patch_size import at_patch_size
    from vit_jax.checkpoints.source import open_source

    options = read_overrides(arguments)
    patch_size = options["overrides"].pop("patch_size", None)
    source = open_source(arguments.source, **options)
    source = source if arguments.part is None else part_of(source, arguments.part)
    return source if patch_size is None else at_patch_size(source, patch_size)


def open_loaded(arguments: argparse.Namespace) -> "Loaded":
    """The checkpoint that `add_checkpoint` asks for."""
    from vit_jax.checkpoints.load import load

    options = {"image_size": arguments.image_size, "average": arguments.average, "part": arguments.part}
    return load(arguments.checkpoint, **options, **read_overrides(arguments))


def add_settings(parser: argparse.ArgumentParser, where: str | None = None) -> None:
    """Flags that are fields of a task's `sampling`, whatever it has: `--guidance 1.5`, see `read_settings`.

    Args:
        where: the flag without which there are none.
    """
    parser.add_argument("--setting", action="append", default=[], help=argparse.SUPPRESS)
    # Only for --help: the parser rewrites whatever flag it does not know into --setting.
    parser.add_argument(
        "--SETTING", dest="_", metavar="VALUE", help="of the checkpoint's task, such as --guidance 1.5 or --steps 8"
    )
    parser.collects, parser.collects_where = "--setting", where


def read_settings(arguments: argparse.Namespace, task: "Task", flags: Collection[str] = ()) -> dict[str, Any]:
    """The arguments of the task's `sampling` that `add_settings` collected.

    Args:
        flags: other flags of the command, one of which may have been meant.

    Raises:
        UserError: for a flag that neither has.
    """
    given = override({}, dict(pair.split("=", 1) for pair in arguments.setting))
    known = [field.name for field in dataclasses.fields(task.sampling)] if task.sampling is not None else []
    for name in given if known else ():
        if name not in known:
            # Without the hyphens, which would make all flags alike. Of what is not a slip of the pen all are named:
            # --size is not --batch-size.
            shown = [each.replace("_", "-") for each in known]
            every = [*shown, *(flag.removeprefix("--") for flag in flags)]
            close = closest(name.replace("_", "-"), every, likeness=0.75)
            raise UserError(
                f"The task '{type(task).__module__.rpartition('.')[2]}' has no --{name.replace('_', '-')}",
                f"Did you mean '--{close}'?" if close else f"It takes --{', --'.join(shown)}",
            )
    return given


def add_labels(parser: argparse.ArgumentParser) -> None:
    """`--labels`, and how they are said, for models of images and texts."""
    group = parser.add_argument_group("labels of your own", "for a model that compares images with texts")
    group.add_argument(
        "--labels",
        metavar="LABELS|FILE",
        help="classes with commas between, a .json or .txt file of them, or a data set's such as imagenet",
    )
    group.add_argument(
        "--templates",
        metavar="NAME|FILE",
        help="texts around them: photo, imagenet, 'a drawing of a {}.', or a .txt file (default: the bare label)",
    )
    group.add_argument(
        "--hierarchy", metavar="FILE", help="a .json file {label: [subclasses]}: the likeliest subclass decides"
    )


def check_labels(arguments: argparse.Namespace, of_texts: bool) -> None:
    """Refuses arguments of `add_labels` that do not go together, before anything is loaded.

    Args:
        of_texts: whether the command was given texts instead of images.
    """
    for flag in ("templates", "hierarchy"):
        if getattr(arguments, flag) is not None and arguments.labels is None:
            raise UserError(f"--{flag} is of labels", "Give --labels 'a cat, a dog'")
    if arguments.labels is not None and of_texts:
        raise UserError("--labels is of images", "Name image files or directories")


def with_labels(loaded: "Loaded", arguments: argparse.Namespace) -> "Loaded":
    """The checkpoint as a classifier into the labels that `add_labels` asks for, where it asks for some."""
    if arguments.labels is None:
        return loaded
    return loaded.zero_shot(arguments.labels, arguments.templates, hierarchy=arguments.hierarchy)


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """How the processes of one run find each other, where no cluster says it."""
    group = parser.add_argument_group("several processes", "found automatically on TPU, Slurm, Open MPI, Kubernetes")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens for the others")
    group.add_argument("--num-processes", type=int, metavar="N", help="how many there are; 1 asks no cluster")
    group.add_argument("--process-id", type=int, metavar="I", help="which one this is, from 0")
    group.add_argument(
        "--coordinator-timeout", type=_seconds, default=300.0, metavar="SECONDS", help="wait so long for all (300)"
    )


def cluster(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `add_cluster`, for `vit_jax.training.distributed.connected`."""
    return {
        "coordinator": arguments.coordinator,
        "num_processes": arguments.num_processes,
        "process_id": arguments.process_id,
        "timeout": arguments.coordinator_timeout,
    }


def _size(text: str) -> int | tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() and len(side) < 6 for side in sides):
        raise UserError(f"--image-size {text!r} is not a size in pixels", "Give a side, or two as in 224x320")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise UserError(f"--coordinator-timeout is {text!r}", "It must be a number of seconds above 0")
    return seconds


def read_config(arguments: argparse.Namespace, base: dict[str, Any] | None = None) -> dict[str, Any]:
    """The config that the arguments ask for: `--config`, or else `base`, with the overrides.

    Ends the process (SystemExit) after printing it where that is asked for.
    """
    values = load_config(arguments.config) if arguments.config is not None else base or {}
    values = override(values, dict(o.split("=", 1) for o in arguments.override))
    if arguments.print_config:
        print(json.dumps(values, indent=2))
        sys.exit(0)
    return values
