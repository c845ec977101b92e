"""Texts that go on after prompts, or translate them: samples of a task that generates.

examples:
  vit_jax generate --checkpoint runs/brown --prompt "The jury said"
  vit_jax generate --checkpoint runs/brown --prompt "The jury said" --temperature 0.8 --top-p 0.95 --samples 4
  vit_jax generate --checkpoint runs/brown --prompts first_words.txt --tokens 40 --output texts.jsonl
  vit_jax generate --checkpoint runs/translate --prompt "red heart" --beams 4

How a text is drawn is up to the task: what is not said here is as its paper has it. Sample i of a prompt depends on the
checkpoint, the prompt, how it is drawn, --seed and i alone, so that asking for more samples, or for other prompts
beside it, does not change it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from vit_jax.commands.arguments import add_checkpoint, open_loaded
from vit_jax.commands.output import is_json_lines, output_file
from vit_jax.commands.text_files import lines_of
from vit_jax.errors import UserError, printable
from vit_jax.ranges import check_seed

_KEYS = ("prompt", "sample", "text")  # of a line

# What a task's sampling may have, by the name of its flag.
_SETTINGS = {
    "tokens": (int, "N", "at most so many new tokens"),
    "temperature": (float, "T", "how freely to draw: 0 takes the most probable token, 1 draws as the model says"),
    "top_k": (int, "K", "draw among the K most probable tokens"),
    "top_p": (float, "P", "draw among the most probable tokens that together have this probability"),
    "beams": (int, "N", "keep so many of the most probable texts, instead of drawing"),
    "alpha": (float, "A", "how much longer texts are preferred among beams"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="what to go on from; repeatable")
    parser.add_argument("--prompts", metavar="FILE", help="a text file with a prompt a line")
    parser.add_argument("--samples", type=int, default=1, metavar="N", help="of each prompt (default 1)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the samples (default 0)")
    for name, (kind, metavar, help_text) in _SETTINGS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=help_text)
    parser.add_argument("--output", metavar="FILE", help="write one JSON object a sample to FILE instead of text")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that generate has not written, too")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="samples at a time (default 32)")


def run(arguments: argparse.Namespace) -> None:
    from vit_jax.training.compiling import keep_compiled

    for name in ("samples", "batch_size"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(arguments, name)}", "Ask for at least 1")
    check_seed(arguments.seed, "--seed")
    prompts = arguments.prompt + (lines_of(Path(arguments.prompts), "prompt") if arguments.prompts is not None else [])
    if not prompts:
        raise UserError("There is no prompt", "Give --prompt TEXT, or --prompts FILE")
    output = None
    if arguments.output is not None:
        output = output_file(arguments.output, ours=None if arguments.overwrite else _is_ours)
    settings = {name: getattr(arguments, name) for name in _SETTINGS if getattr(arguments, name) is not None}
    loaded = open_loaded(arguments)
    keep_compiled()
    texts = loaded.generate(
        prompts, samples=arguments.samples, seed=arguments.seed, batch_size=arguments.batch_size, **settings
    )
    rows = [dict(zip(_KEYS, (prompt, i, text), strict=True))
            for prompt, samples in zip(prompts, texts, strict=True) for i, text in enumerate(samples)]  # fmt: skip
    if not all(isinstance(row["text"], str) for row in rows):
        raise UserError("This task does not generate texts, which this command writes", "Use loaded.generate in Python")
    if output is not None:
        output.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return
    # Lines of a text stay lines; what else would steer a terminal is spelled out.
    shown = ["\n".join(printable(line) for line in row["text"].splitlines()) for row in rows]
    print("\n---\n".join(shown))


def _is_ours(path: Path) -> bool:
    return is_json_lines(path, _KEYS)
