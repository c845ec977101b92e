"""The entry point: parses arguments, runs one command, and turns a `UserError` into one sentence."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from vit_jax import __version__
from vit_jax.commands import (
    bench,
    contact_sheet,
    convert,
    demo,
    evaluate,
    plan,
    predict,
    prepare,
    report,
    train,
    visualize,
)
from vit_jax.errors import REQUEUE, Preempted, UserError, printable

_COMMANDS = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "visualize": visualize,
    "convert": convert,
    "report": report,
    "prepare": prepare,
    "contact-sheet": contact_sheet,
    "plan": plan,
    "bench": bench,
    "demo": demo,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its status: 0, 2 for what the caller can put right, 75 preempted, 130 after Ctrl-C."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's chatter about the machine
    try:
        arguments = _parser().parse_args(_with_overrides(sys.argv[1:] if argv is None else argv))
        return _COMMANDS[arguments.command].run(arguments) or 0
    except UserError as error:
        print(f"vit_jax: {' '.join(str(error).split())}", file=sys.stderr)
        return error.status
    except Preempted as error:
        print(f"vit_jax: preempted by {printable(error)}", file=sys.stderr)
        return REQUEUE
    except KeyboardInterrupt:
        print("vit_jax: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `vit_jax predict ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vit_jax",
        description="Vision Transformers in JAX: train, evaluate and use them.",
        epilog="'vit_jax COMMAND --help' explains a command and shows examples.",
    )
    parser.add_argument("--version", action="version", version=f"vit_jax {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in _COMMANDS.items():
        summary, _, details = module.__doc__.partition("\n")
        command = commands.add_parser(
            name,
            help=summary.rstrip("."),
            description=summary,
            epilog=details,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(command)
    return parser


# `--config.a.b=v` and `--config.a.b v` become `--override a.b=v`, which argparse can collect.
_PREFIXES = {"--config.": "--override", "--model.": "--model-override"}


def _with_overrides(argv: Sequence[str]) -> list[str]:
    rewritten, rest = [], iter(argv)
    for argument in rest:
        prefix = next((p for p in _PREFIXES if argument.startswith(p)), None)
        if prefix is None:
            rewritten.append(argument)
            continue
        key, equals, value = argument.removeprefix(prefix).partition("=")
        if not equals:
            value = next(rest, None)
            if value is None:
                raise UserError(f"{argument} has no value", f"Write {argument}=VALUE")
        rewritten += [_PREFIXES[prefix], f"{key}={value}"]
    return rewritten
