"""Whether the tokens of a run are those that a checkpoint was trained with."""

from collections.abc import Mapping
from typing import Any

from vit_jax.errors import UserError
from vit_jax.naming import build_named

Sections = Mapping[str, Mapping[str, Any]] | None  # the fields of a checkpoint or a run; see `Fields.to_json`


def check_vocabulary(path: object, theirs: Sections, ours: Sections) -> None:
    """Refuses a checkpoint whose parameters stand for other tokens.

    Args:
        path: of the checkpoint, for the error.
        theirs: the fields in its metadata.
        ours: those of the run that goes on from it.

    Raises:
        UserError: for a field whose tokenizer none of the checkpoint's fields has. Where one of the two has no texts,
            nothing is compared.
    """
    known, wanted = _tokenizers(theirs), _tokenizers(ours)
    if not known:
        return
    built = [build_named("tokenizer", section, "metadata.fields") for section in known.values()]
    for name, section in wanted.items():
        if section not in known.values() and build_named("tokenizer", section, "config.data.fields") not in built:
            said = ", ".join(_said(section) for section in known.values())
            raise UserError(
                f"The field {name!r} has the vocabulary {_said(section)}, which is not that of {path}",
                f"Give it the one that the checkpoint was trained with: {said}",
            )


def _tokenizers(fields: Sections) -> dict[str, Mapping[str, Any]]:
    sections = {name: section.get("tokenizer") for name, section in (fields or {}).items()}
    sections = {name: {"name": given} if isinstance(given, str) else given for name, given in sections.items()}
    return {name: section for name, section in sections.items() if section}


def _said(section: Mapping[str, Any]) -> str:
    file = section.get("path")
    return f"{section['name']} of {file['name']}" if isinstance(file, Mapping) else str(section["name"])
