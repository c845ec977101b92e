"""The entry point: parses arguments, runs one command, and turns a `UserError` into one sentence."""

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from vit_jax import __version__
from vit_jax.commands import (
    annotate,
    bench,
    configs,
    contact_sheet,
    convert,
    demo,
    detect,
    encode,
    evaluate,
    export,
    features,
    generate,
    interpolate,
    models,
    neighbours,
    plan,
    predict,
    prepare,
    prepare_pairs,
    prepare_palette,
    prepare_queries,
    prepare_statistics,
    prepare_tokenizer,
    push,
    reconstruct,
    report,
    retrieve,
    sample,
    search_sparsity,
    segment,
    sweep,
    train,
    upscale,
    visualize,
    vtab,
)
from vit_jax.errors import REQUEUE, Preempted, UserError, printable
from vit_jax.spelling import nearest

_COMMANDS = {
    "train": train,
    "sweep": sweep,
    "evaluate": evaluate,
    "predict": predict,
    "features": features,
    "segment": segment,
    "annotate": annotate,
    "retrieve": retrieve,
    "neighbours": neighbours,
    "encode": encode,
    "generate": generate,
    "sample": sample,
    "interpolate": interpolate,
    "reconstruct": reconstruct,
    "upscale": upscale,
    "detect": detect,
    "visualize": visualize,
    "convert": convert,
    "export": export,
    "push": push,
    "report": report,
    "vtab": vtab,
    "search-sparsity": search_sparsity,
    "prepare": prepare,
    "prepare pairs": prepare_pairs,
    "prepare palette": prepare_palette,
    "prepare queries": prepare_queries,
    "prepare statistics": prepare_statistics,
    "prepare tokenizer": prepare_tokenizer,
    "contact-sheet": contact_sheet,
    "plan": plan,
    "bench": bench,
    "demo": demo,
    "configs": configs,
    "models": models,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its status: 0, 2 for what the caller can put right, 75 preempted, 130 after Ctrl-C."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's chatter about the machine
    return in_a_line(lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(argv: Sequence[str]) -> int | None:
    argv = _with_overrides(argv)
    of_config = _help_of_config(argv)
    if of_config:
        print(of_config)
        return 0
    arguments = _parser().parse_args(argv)
    return _COMMANDS[arguments.command].run(arguments)


def in_a_line(run: Callable[[], int | None]) -> int:
    """The status of a program, see `main`; what stopped it, where that is no bug, is said in one line."""
    try:
        return run() or 0
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


class _Parser(argparse.ArgumentParser):
    """Says what is wrong as every other mistake is said, with the nearest right name."""

    before_command = False  # whether the first argument that is not a flag is the command, with flags of its own
    # The flag that collects, as NAME=VALUE, those that only who runs the command can know; None where there are none.
    collects: str | None = None
    collects_where: str | None = None  # only beside this flag

    def add_subparsers(self, **kwargs: Any) -> Any:
        self.subcommands, self.before_command = super().add_subparsers(**kwargs), kwargs.get("required", False)
        return self.subcommands

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        # Before parsing, which would sooner miss the flag that was meant than see the one that was written.
        below = self.subcommands.choices if hasattr(self, "subcommands") else ()
        args = self._collected(args) if self.collects and self.collects_where in (None, *args) else args
        for argument in args:
            if argument == "--" or argument in below or (self.before_command and not argument.startswith("-")):
                break
            flag = argument.partition("=")[0]
            if flag.startswith("--") and flag not in self._option_string_actions:
                shown = [f for f in self._option_string_actions if not f.endswith(("override", ".KEY"))]
                advice = nearest(flag, shown)
                if "." in flag and "--config" in shown:
                    advice = "Values of the config are written --config.KEY=VALUE"
                flag = next((f"{p}KEY" for p, rewritten in _PREFIXES.items() if rewritten == flag), flag)
                raise UserError(f"'{self.prog}' has no flag {flag}", advice)
        return super().parse_known_args(args, namespace)

    def _collected(self, args: Sequence[str]) -> list[str]:
        """`--top-k 9` as `--setting top_k=9`, where nobody else takes `--top-k`."""
        rewritten, rest = [], iter(args)
        for argument in rest:
            flag, equals, value = argument.partition("=")
            if argument == "--" or not flag.startswith("--") or flag in self._option_string_actions:
                rewritten.append(argument)
                continue
            value = value if equals else next(rest, "--")
            if value.startswith("--"):
                raise UserError(f"{flag} has no value", f"Write {flag} VALUE")
            rewritten += [self.collects, f"{flag[2:].replace('-', '_')}={value}"]
        return rewritten

    def error(self, message: str) -> NoReturn:
        of_type = re.fullmatch(r"argument (\S+): invalid (\w+) value: (.*)", message, re.DOTALL)
        of_choice = re.fullmatch(r"argument (\S+): invalid choice: '?(.*?)'? \(choose from (.*)\)", message, re.DOTALL)
        if of_type:
            kinds = {"int": "It must be a whole number", "float": "It must be a number"}
            raise UserError(f"{of_type[1]} is {of_type[3]}", kinds.get(of_type[2], f"'{self.prog} --help' says more"))
        if of_choice:
            what = {"COMMAND": "command", "MODE": "mode"}.get(of_choice[1], of_choice[1])
            raise UserError(
                f"There is no {what} {of_choice[2]!r}", nearest(of_choice[2], re.findall(r"[\w-]+", of_choice[3]))
            )
        raise UserError(message[:1].upper() + message[1:], f"'{self.prog} --help' says what it takes")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="vit_jax",
        description="Vision Transformers in JAX: train, evaluate and use them.",
        epilog="'vit_jax COMMAND --help' explains a command and shows examples.",
        allow_abbrev=False,
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


def _help_of_config(argv: Sequence[str]) -> str | None:
    """What `--config NAME --help` shows; None where the two are not both given."""
    if not {"-h", "--help"} & set(argv):
        return None
    for i, argument in enumerate(argv):
        flag, _, value = argument.partition("=")
        if flag == "--config":
            value = value or "".join(argv[i + 1 : i + 2])
            return configs.help_text(value) if value and not value.startswith("-") else None
    return None


# `--config.a.b=v` and `--config.a.b v` become `--override a.b=v`, which argparse can collect.
_PREFIXES = {"--config.": "--override", "--model.": "--model-override"}


def _with_overrides(argv: Sequence[str]) -> list[str]:
    if " ".join(argv[:2]) in _COMMANDS:  # a command of two words
        argv = [" ".join(argv[:2]), *argv[2:]]
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
