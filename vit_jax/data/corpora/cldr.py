"""Names of emoji and symbols in English and another language, out of the Unicode CLDR (Unicode licence), as the npm
packages cldr-annotations-full and cldr-annotations-derived-full have them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from vit_jax.data.corpora._annotations import annotations
from vit_jax.errors import UserError

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
    sources, targets = ({key: found.name for key, found in annotations(folders, of).items()} for of in ("en", language))
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
