"""Write pictures and their texts as ArrayRecord: every image checked, none twice, balanced by queries.

examples:
  vit_jax prepare pairs web --shards 'shards/{00000..00099}.tar'
  vit_jax prepare pairs web --shards 'shards/*.tar' --queries queries.txt --per-query 20000 --longest 300
  vit_jax prepare pairs emoji --manifest emoji/google.jsonl --splits train test --text-key text keywords

Shards are tar files with images and texts of the same name, 0001.jpg and 0001.txt or 0001.json; a manifest is CSV or
JSONL with path and text. Left out is: an image that cannot be read, one whose bytes were there before, and a pair
without a caption that is asked for. With --queries (see 'vit_jax prepare queries') a pair needs one of them in its
caption, as words in a row; it counts for that of its queries which has the fewest pairs so far, and is left out where
even that has --per-query. At the end a table says how many were left out for what.

Ctrl-C saves what is there; the same command goes on. A config reads it with --config.data.train.name=tfds
--config.data.train.dataset=NAME --config.data.train.split=train --config.data.train.label_key=None
--config.data.train.fields.text=text.
"""

import argparse
import signal
import sys
from types import FrameType
from typing import Any

from vit_jax.errors import UserError, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of the new data set")
    of = parser.add_mutually_exclusive_group(required=True)
    of.add_argument("--shards", nargs="+", metavar="TAR", help="tar files, or patterns: 'shards/{00000..00099}.tar'")
    of.add_argument("--manifest", metavar="FILE", help="CSV or JSONL with path and text")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="of the manifest (all its rows as train)")
    parser.add_argument("--text-key", nargs="+", metavar="KEY", help="of the texts (text; in shards' JSON caption)")
    parser.add_argument("--join", action="store_true", help="join the texts of an image that the manifest lists again")
    parser.add_argument("--allow-outside", action="store_true", help="follow a manifest's paths out of its folder")
    parser.add_argument("--queries", metavar="FILE", help="a query on each line; captions must hold one")
    parser.add_argument("--per-query", type=int, metavar="PAIRS", help="that a query has at most (20000)")
    parser.add_argument("--shortest", type=int, default=1, metavar="CHARACTERS", help="of a caption (1)")
    parser.add_argument("--longest", type=int, metavar="CHARACTERS", help="of a caption (any)")
    parser.add_argument("--short-side", type=int, metavar="PIXELS", help="shrink images to this first")
    parser.add_argument("--data-dir", metavar="DIR", help="where it goes ($TFDS_DATA_DIR or ~/tensorflow_datasets)")


def run(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from vit_jax.data import pair_records, queries

    for flag in ("shortest", "longest", "per_query", "short_side"):
        if (value := getattr(arguments, flag)) is not None and value < 1:
            raise UserError(f"--{flag.replace('_', '-')} is {value}", "Give a whole number from 1")
    if arguments.longest is not None and arguments.longest < arguments.shortest:
        raise UserError("--longest is below --shortest", "Give what some caption can have")
    if arguments.per_query is not None and not arguments.queries:
        raise UserError("--per-query goes with --queries", "Add a list of them, see 'vit_jax prepare queries'")
    asked = queries.read(arguments.queries) if arguments.queries else None
    sources = _sources(arguments)
    for remark in dict.fromkeys(r for source in sources.values() for r in source.remarks):
        print(f"vit_jax: {printable(remark)}", file=sys.stderr)
    rules = pair_records.Rules(
        arguments.shortest, arguments.longest, (arguments.per_query or 20_000) if asked else None, arguments.short_side
    )
    given = {key: getattr(arguments, key) for key in ("shards", "manifest", "text_key", "join")}
    total = sum(map(len, sources.values()))
    with _Stop() as stop, tqdm(total=total, unit="pair", leave=False, disable=not sys.stderr.isatty()) as bar:
        written, tallies = pair_records.write(
            arguments.name, sources, arguments.data_dir, rules, asked, given, lambda: stop.asked, bar.update
        )
    if written is None:
        done = sum(tally.read for tally in tallies.values())
        print(f"vit_jax: {done:,} of {total:,} pairs are done; the same command goes on", file=sys.stderr)
        raise KeyboardInterrupt
    print(_table(tallies))
    print(printable(written))
    unreadable = sum(tally.left_out.get("unreadable", 0) for tally in tallies.values())
    if unreadable:
        first = next(tally.first for tally in tallies.values() if tally.first)
        print(f"vit_jax: {unreadable} images could not be read, first: {printable(first)}", file=sys.stderr)


def _sources(arguments: argparse.Namespace) -> dict[str, Any]:
    from vit_jax.data.sources import pairs, webdataset

    keys = arguments.text_key or []
    if arguments.shards:
        for flag in ("splits", "join", "allow_outside"):
            if getattr(arguments, flag):
                raise UserError(f"--{flag.replace('_', '-')} goes with --manifest", "Leave it out")
        if len(keys) > 1:
            raise UserError("Shards have one --text-key, of the JSON in them", "Leave the others out")
        return {"train": webdataset.build(arguments.shards, *keys)}
    given = {"text_key": keys or "text", "allow_outside": arguments.allow_outside}
    given["repeated"] = "join" if arguments.join else "fail"
    splits = {split: split for split in arguments.splits} if arguments.splits else {"train": None}
    # What is missing or empty on the disk is refused; what cannot be decoded is left out.
    return {name: pairs.build(arguments.manifest, split=split, **given) for name, split in splits.items()}


def _table(tallies: dict[str, Any]) -> str:
    from vit_jax.commands.table import table

    reasons = list(dict.fromkeys(reason for tally in tallies.values() for reason in tally.left_out))
    rows = [["pairs", *(f"{tally.read:,}" for tally in tallies.values())]]
    rows += [[reason, *(f"{tally.left_out.get(reason, 0):,}" for tally in tallies.values())] for reason in reasons]
    rows.append(["kept", *(f"{tally.kept:,}" for tally in tallies.values())])
    if any(tally.captions for tally in tallies.values()):
        rows.append(["captions left out of them", *(f"{tally.captions:,}" for tally in tallies.values())])
    return table(["", *tallies], rows)


class _Stop:
    """While active, the first Ctrl-C or SIGTERM waits for the end of a pair; a second Ctrl-C interrupts at once."""

    def __enter__(self) -> "_Stop":
        self.asked = False
        self._previous = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
