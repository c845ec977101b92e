"""CLIP's tokenizer as transformers keeps it: a folder `tokenizer` with a vocabulary, its pairs and what pads."""

from collections.abc import Mapping
from typing import Any

from vit_jax.data.text import tokenizer_of

_START, _END = "<|startoftext|>", "<|endoftext|>"


def files(field: Mapping[str, Any]) -> dict[str, Any] | None:
    """The files of the tokenizer of a field, by name: objects of JSON files, and texts.

    Args:
        field: its section.

    Returns:
        None for another tokenizer than CLIP's.
    """
    section = field["tokenizer"]
    if section["name"] != "clip_bpe":
        return None
    tokenizer = tokenizer_of(section)[0]
    names = [*tokenizer.symbols, _START, _END]
    padding = _END if field.get("pad") == "end" else names[tokenizer.pad_id]
    special = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": padding}
    return {
        "vocab.json": {name: at for at, name in enumerate(names)},
        "merges.txt": "".join(["#version: 0.2\n", *(f"{left} {right}\n" for left, right in tokenizer.pairs)]),
        "special_tokens_map.json": special,
        "tokenizer_config.json": {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": field["length"],
            "do_lower_case": True,
            "errors": "replace",
            "add_prefix_space": False,
            **special,
        },
    }
