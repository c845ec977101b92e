"""Names of emoji and symbols in English and another language, out of the Unicode CLDR (Unicode licence), as the npm
packages cldr-annotations-full and cldr-annotations-derived-full have them."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from vit_jax.data.files import read_bytes
from vit_jax.errors import UserError
from vit_jax.naming import nearest

_PACKAGES = {"annotations": "cldr-annotations-full", "annotationsDerived": "cldr-annotations-derived-full"}
_HELD_OUT = 400
_SEED = 0


def write(folders: Sequence[Path], output: Path, language: str = "de") -> list[str]:
    """Writes TSV files with the columns `source` (English), `target` and `form`: LANGUAGE_train.tsv and
    LANGUAGE_test.tsv, and of the test those of the form "name: skin tone" and the others by themselves.

    The test is 400 symbols, the same in every language. `form` is "skin_tone" or "other".

    Args:
        folders: those of the two unpacked packages, or one in which, or beside which, they lie under their names.
        output: where the files go.
        language: as the packages name it: "de", "fr", "es", "ja", "ko".

    Returns:
        What was written, a line for each file.

    Raises:
        UserError: for a package or a language that is not there, and for files that are none of these packages.
    """
    if language == "en":
        raise UserError("English is what is translated from", "Give another language")
    sources, targets = _names(folders, "en"), _names(folders, language)
    keys = sorted(sources.keys() & targets.keys(), key=_draw)
    rows = {key: (sources[key], targets[key], "skin_tone" if _has_skin_tone(sources[key]) else "other") for key in keys}
    test, train = keys[:_HELD_OUT], keys[_HELD_OUT:]
    if not train:
        raise UserError(f"{len(keys)} names are too few to hold out {_HELD_OUT}", "Give the packages as they are")
    files = {
        "train": train, "test": test,
        "test_skin_tone": [key for key in test if rows[key][2] == "skin_tone"],
        "test_other": [key for key in test if rows[key][2] == "other"],
    }  # fmt: skip
    output.mkdir(parents=True, exist_ok=True)
    said = []
    for name, chosen in files.items():
        path = output / f"{language}_{name}.tsv"
        lines = ["source\ttarget\tform", *("\t".join(rows[key]) for key in chosen)]
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        said.append(f"{path}: {len(chosen):,} pairs")
    return said


def _draw(key: str) -> str:
    """A random order that depends on the symbols alone."""
    return hashlib.sha256(f"{_SEED} {key}".encode()).hexdigest()


def _has_skin_tone(name: str) -> bool:
    return "skin tone" in name.partition(": ")[2]


def _names(folders: Sequence[Path], language: str) -> dict[str, str]:
    """The name of each symbol, of both packages."""
    found: dict[str, str] = {}
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
            spoken = entry.get("tts") if isinstance(entry, dict) else None
            if isinstance(spoken, list) and spoken and isinstance(spoken[0], str) and spoken[0].strip():
                found[key] = " ".join(spoken[0].split())
    return found


def _entries(path: Path, kind: str) -> dict[str, object]:
    try:
        data = json.loads(read_bytes(path).decode("utf-8"))
        entries = data[kind]["annotations"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} could not be read: {error}", "Unpack its package again") from error
    if not isinstance(entries, dict):
        raise UserError(f"{path} has no names", "Unpack its package again")
    return entries
