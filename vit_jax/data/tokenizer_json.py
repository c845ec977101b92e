"""What tokenizer.json and vocab.json of transformers say: the names of tokens and their numbers."""

import json
from collections.abc import Mapping
from typing import Any

from vit_jax.data.vocabularies import Vocabulary, damaged


def is_json(vocabulary: Vocabulary) -> bool:
    """Whether it is a JSON object rather than lines of text."""
    return vocabulary.text().lstrip()[:1] == "{"


def numbers_in(vocabulary: Vocabulary) -> dict[str, int]:
    """The number of each token in a vocab.json.

    Raises:
        UserError: it is something else.
    """
    return _numbers(_object(vocabulary), vocabulary)


def model_in(vocabulary: Vocabulary, kind: str) -> tuple[dict[str, int], list[str]]:
    """The tokens of a tokenizer.json with their numbers, and its merges, each a line as in a merges.txt.

    Args:
        kind: what it must be: "WordPiece" or "BPE".

    Raises:
        UserError: it is something else.
    """
    model = _object(vocabulary).get("model")
    # Older files leave the type out.
    if not isinstance(model, Mapping) or model.get("type", kind) != kind:
        raise damaged(vocabulary.name, f"its model is not of the type {kind}")
    merges = model.get("merges", [])
    if not isinstance(merges, list):
        raise damaged(vocabulary.name, "its merges are no list")
    lines = [" ".join(map(str, merge)) if isinstance(merge, list) else str(merge) for merge in merges]
    return _numbers(model.get("vocab"), vocabulary), lines


def _object(vocabulary: Vocabulary) -> Mapping[str, Any]:
    try:
        content = json.loads(vocabulary.text())
    except (ValueError, RecursionError) as error:
        raise damaged(vocabulary.name, "it is not JSON") from error
    if not isinstance(content, Mapping):
        raise damaged(vocabulary.name, "it is no JSON object")
    return content


def _numbers(found: Any, vocabulary: Vocabulary) -> dict[str, int]:
    if not isinstance(found, Mapping) or sorted(map(repr, found.values())) != sorted(map(repr, range(len(found)))):
        raise damaged(vocabulary.name, "its tokens are not numbered from 0 on")
    return dict(found)
