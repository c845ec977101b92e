"""Reading an exported model of texts back: a folder in, a function of texts out, with its tokenizer beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Shaped

from vit_jax.checkpoints.json_file import JsonObject, read_json
from vit_jax.checkpoints.parts import clip_tokenizer
from vit_jax.errors import UserError

if TYPE_CHECKING:
    from vit_jax.data.fields import Fields

FIELDS = "fields.json"
TOKENIZER = "tokenizer"  # CLIP's, as transformers' CLIPTokenizer reads it
TEXT_VERSION = 2  # of what export.json says: older versions of vit_jax know images alone
_LONGEST = 2**20  # tokens of a text


@dataclass(frozen=True)
class ExportedTexts:
    """An exported model of texts, ready to use.

    Args:
        path: the folder.
        about: what its export.json says: inputs, outputs, where it is from, how it was checked.
        inputs: shape and type of each array that it takes.
        run: arrays by name to outputs.
    """

    path: Path
    about: JsonObject
    inputs: Mapping[str, JsonObject]
    run: Callable[[Mapping[str, Shaped[np.ndarray, "B ..."]]], Mapping[str, Any]]

    @cached_property
    def fields(self) -> Fields:
        """How texts become rows of tokens, as in training's evaluation."""
        from vit_jax.data.field import Context
        from vit_jax.data.fields import build_fields

        return build_fields(dict(read_json(self.path / FIELDS)), Context(None, ()), FIELDS)

    def prepare(self, texts: Sequence[str]) -> dict[str, Shaped[np.ndarray, "B ..."]]:
        """Texts as the program takes them: their tokens, and which of them are no padding where that is asked for.

        Raises:
            UserError: a text that the field does not take, such as one that is too long.
        """
        from vit_jax.checkpoints.tokenized import tokenized

        rows = tokenized(self.fields, [texts] if isinstance(texts, str) else list(texts), self.path)
        return {name: rows[name] for name in self.inputs}

    def __call__(
        self, rows: Shaped[np.ndarray, "B L"] | Mapping[str, Shaped[np.ndarray, "B ..."]]
    ) -> dict[str, Shaped[np.ndarray, "B ..."]]:
        """Outputs by name of rows as `prepare` makes them; of tokens alone where the program takes nothing else.

        Raises:
            UserError: arrays of another name, shape or type.
        """
        if not isinstance(rows, Mapping):
            rows = dict.fromkeys(list(self.inputs)[:1], rows)
        if set(rows) != set(self.inputs):
            raise UserError(
                f"This program takes {', '.join(self.inputs)}, not {', '.join(map(str, rows)) or 'nothing'}",
                "Use what prepare([text, ...]) gives",
            )
        arrays = {name: np.asarray(rows[name]) for name in self.inputs}
        sizes = {len(array) if array.ndim else 0 for array in arrays.values()}
        for name, said in self.inputs.items():
            array, shape = arrays[name], said["shape"]
            fits = len(shape) == array.ndim and all(
                isinstance(a, str) or a == b for a, b in zip(shape, array.shape, strict=True)
            )
            if not fits or array.dtype.name != said.text("dtype") or len(sizes) > 1 or 0 in sizes:
                raise UserError(
                    f"This program takes {name} {said.text('dtype')} [{', '.join(map(str, shape))}], not {array.dtype}"
                    f" {list(array.shape)}",
                    "Use what prepare([text, ...]) gives",
                )
        return {name: np.asarray(value) for name, value in self.run(arrays).items()}


def inputs_of(about: JsonObject) -> dict[str, JsonObject]:
    """Shape and type of each array that a program of texts takes, as its export.json says them.

    Raises:
        UserError: it does not.
    """
    found, given = {}, about.get("inputs")
    for said in given if isinstance(given, list) else ():
        one = JsonObject(said if isinstance(said, Mapping) else {}, about.where, "inputs.")
        name, shape = one.text("name"), one.get("shape")
        if not name or one.text("dtype") not in ("int32", "bool") or not _is_shape(shape):
            raise one.error("shape", "is not that of rows of tokens")
        found[name] = one
    if not found:
        raise about.error("inputs", "names no array")
    return found


def write_tokenizer(fields: Fields, folder: Path) -> None:
    """What makes rows of tokens of texts, whole, and of CLIP's also the files that transformers has for it."""
    [(name, field)] = [(name, field) for name, field in fields.items() if field.is_text]
    section = field.to_json()
    (folder / FIELDS).write_text(json.dumps({name: _unplaced(section)}) + "\n", encoding="utf-8")
    for file, values in (clip_tokenizer.files(section) or {}).items():
        (folder / TOKENIZER).mkdir(exist_ok=True)
        text = values if isinstance(values, str) else json.dumps(values, indent=2) + "\n"
        (folder / TOKENIZER / file).write_text(text, encoding="utf-8")


def _unplaced(section: Any) -> Any:
    """A section without where the files of its vocabulary lay; what is in them is in it, or shipped with vit_jax."""
    if not isinstance(section, Mapping):
        return section
    inner = {key: _unplaced(value) for key, value in section.items()}
    return inner | ({"name": re.split(r"[/\\]", inner["name"])[-1]} if "sha256" in inner else {})


def _is_shape(shape: Any) -> bool:
    if not isinstance(shape, list) or len(shape) != 2:
        return False
    return all(isinstance(side, str) or (type(side) is int and 0 < side <= _LONGEST) for side in shape)
