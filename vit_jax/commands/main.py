"""The entry point: parses arguments, runs one command, and turns a `UserError` into one sentence."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from vit_jax import __version__
from vit_jax.commands import bench, contact_sheet, demo, evaluate, plan, predict, prepare, report, train
from vit_jax.errors import UserError

_COMMANDS = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "report": report,
    "prepare": prepare,
    "contact-sheet": contact_sheet,
    "plan": plan,
    "bench": bench,
    "demo": demo,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status: 0, 2 for what the caller can put right, 130 after Ctrl-C."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's chatter about the machine
    try:
        arguments = _parser().parse_args(_with_overrides(sys.argv[1:] if argv is None else argv))
        return _COMMANDS[arguments.command].run(arguments) or 0
    except UserError as error:
        print(f"vit_jax: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
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


def _with_overrides(argv: Sequence[str]) -> list[str]:
    """`--config.a.b=v` and `--config.a.b v` as `--override a.b=v`, which argparse can collect."""
    rewritten, rest = [], iter(argv)
    for argument in rest:
        if not argument.startswith("--config."):
            rewritten.append(argument)
            continue
        key, equals, value = argument.removeprefix("--config.").partition("=")
        if not equals:
            value = next(rest, None)
            if value is None:
                raise UserError(f"{argument} has no value", f"Write {argument}=VALUE")
        rewritten += ["--override", f"{key}={value}"]
    return rewritten
