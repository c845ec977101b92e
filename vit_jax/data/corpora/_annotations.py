"""Names and keywords of emoji and symbols, out of the Unicode CLDR (Unicode licence) as the npm packages
cldr-annotations-full and cldr-annotations-derived-full have them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vit_jax.data.files import read_bytes
from vit_jax.errors import UserError
from vit_jax.naming import nearest

_PACKAGES = {"annotations": "cldr-annotations-full", "annotationsDerived": "cldr-annotations-derived-full"}


class Annotation(NamedTuple):
    """What a language says of a symbol.

    Args:
        name: as it is read aloud ("tts").
        keywords: to search for it by ("default"); there may be none.
    """

    name: str
    keywords: tuple[str, ...]


def annotations(folders: Sequence[Path], language: str) -> dict[str, Annotation]:
    """What both packages say, by symbol; of those that have a name.

    Args:
        folders: those of the two unpacked packages, or one in which, or beside which, they lie under their names;
            others may be among them.
        language: as the packages name it: "en", "de".

    Raises:
        UserError: for a package or a language that is not there, and for files that are none of these packages.
    """
    found: dict[str, Annotation] = {}
    for kind, package in _PACKAGES.items():
        places = [place / kind for folder in folders for place in (folder, folder / package, folder.parent / package)]
        root = next((place for place in places if place.is_dir()), None)
        if root is None:
            raise UserError(
                f"The package {package} is not in {' or '.join(map(str, folders))}",
                "Unpack cldr-annotations-full and cldr-annotations-derived-full, and give both folders with --from",
            )
        path = root / language / "annotations.json"
        if not path.is_file():
            raise UserError(
                f"{root} has no names in the language {language!r}", nearest(language, (p.name for p in root.iterdir()))
            )
        for key, entry in _entries(path, kind).items():
            name = _texts(entry, "tts")
            if name:
                found[key] = Annotation(name[0], tuple(_texts(entry, "default")))
    return found


def _texts(entry: object, key: str) -> list[str]:
    values = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        return []
    return [" ".join(value.split()) for value in values if value.strip()]


def _entries(path: Path, kind: str) -> dict[str, object]:
    try:
        data = json.loads(read_bytes(path).decode("utf-8"))
        entries = data[kind]["annotations"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} could not be read: {error}", "Unpack its package again") from error
    if not isinstance(entries, dict):
        raise UserError(f"{path} has no names", "Unpack its package again")
    return entries
