"""Damaged files of texts: documents and pairs, as text, TSV and JSONL, through the fields that read them."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.harness import Target
from tests.fuzz.mutations import damaged_bytes, damaged_value
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.data.source import Source
from vit_jax.data.sources import documents, text_pairs

_TEXTS = ("One.\nTwo. Three!", "über\u2028uns", "a", "日本語 です。\n次", " x ", "🎉" * 9)
_ODD = (
    "",
    " \n",
    "\ud800",
    "\0",
    "\x1b[31m",
    "l" * 5000,
    "a\r\nb\rc",
    "\ufeff",
    "e\u0301",
    None,
    3,
    [],
    ["a", "b"],
    True,
)
_LABELS = ("p", "q", 0, 1, "9" * 40, 10**400, "", None, 1.5, [], True, "²")
_KINDS = (
    {"name": "tokens", "length": 8, "long": "cut"},
    {"name": "token_pair", "length": 8},
    {"name": "packed", "length": 5},
    {"name": "sentence_pairs", "length": 12, "copies": 2, "sentences": "stops"},
)  # fmt: skip


def build(folder: Path) -> Target:
    def mutate(rng: np.random.Generator, case: Path) -> tuple[str, bool, dict, dict]:
        pairs, form = rng.random() < 0.5, str(rng.choice(["jsonl", "text"]))
        rows = [_row(rng) for _ in range(int(rng.integers(1, 6)))]
        if form == "jsonl":
            data = "\n".join(_json(damaged_value(rng, row) if rng.random() < 0.05 else row) for row in rows).encode()
        elif pairs:
            lines = ["text\tother\tlabel", *("\t".join(map(_cell, row.values())) for row in rows)]
            data = "\n".join(lines).encode("utf-8", "surrogatepass")
        else:
            data = "\n\n".join(_cell(row["text"]) for row in rows).encode("utf-8", "surrogatepass")
        if rng.random() < 0.3:
            data = damaged_bytes(rng, data)
        path = case / f"x.{'jsonl' if form == 'jsonl' else 'tsv' if pairs else 'txt'}"
        path.write_bytes(data)
        options: dict[str, Any] = {"label_key": "label"} if rng.random() < 0.3 else {}
        if pairs:
            options["fields"] = {"text": ["text", "other"] if rng.random() < 0.5 else "text"}
        else:
            options["each"] = str(rng.choice(["file", "paragraph", "line"]))
        return str(path), pairs, options, _KINDS[int(rng.integers(len(_KINDS)))]

    def use(given: tuple[str, bool, dict, dict]) -> tuple[Source, list[dict], int]:
        path, pairs, options, kind = given
        source = (text_pairs if pairs else documents).build(path, **options)
        fields = build_fields({"text": {**kind, "tokenizer": "bytes"}, "label": {"name": "classes"}}, Context())
        if not source.label_names and options.get("fields", {}).get("text") != ["text", "other"]:
            source = fields.arranged(source)
        return source, list(EvalPipeline(source, None, 4, num_threads=0, fields=fields).iterate()), kind["length"]

    def wrong(result: tuple[Source, list[dict], int]) -> str:
        source, batches, length = result
        if sum(int(batch["valid"].sum()) for batch in batches) != len(source):
            return f"gives other than {len(source)} examples"
        for batch in batches:
            ids, mask = batch["text"], batch["text_mask"]
            if ids.shape[1:] != (length,) or not 0 <= ids.min() <= ids.max() < 259:
                return f"has rows {ids.shape} of tokens from {ids.min()} to {ids.max()}"
            if not mask.any(axis=1).all() or (np.diff(mask.astype(int), axis=1) > 0).any():
                return "has a row without tokens, or padding before a token"
            if "label" in batch and not 0 <= batch["label"].min() <= batch["label"].max() < len(source.label_names):
                return "has labels outside its classes"
        return ""

    return Target(mutate, use, wrong)


def _row(rng: np.random.Generator) -> dict[str, Any]:
    row = {"text": str(rng.choice(_TEXTS)), "other": str(rng.choice(_TEXTS)), "label": str(rng.choice(["p", "q"]))}
    for key, odd in (("text", _ODD), ("other", _ODD), ("label", _LABELS)):
        if rng.random() < 0.04:
            row[key] = odd[int(rng.integers(len(odd)))]
    return row


def _json(value: Any) -> str:
    try:
        return json.dumps(value)
    except (RecursionError, ValueError):  # deeper than json writes, or an integer longer than Python prints
        return "[" * 100_000


def _cell(value: Any) -> str:
    return "9" * 400 if isinstance(value, int) and value > 2**64 else str(value)
