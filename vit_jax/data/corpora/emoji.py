"""Pictures of emoji with their names and keywords: the art of the npm packages emoji-datasource-google (Noto, Apache
2.0) and emoji-datasource-twitter (Twemoji, CC-BY 4.0), the words of the Unicode CLDR (Unicode licence)."""

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vit_jax.data.corpora._annotations import Annotation, annotations
from vit_jax.data.files import read_bytes
from vit_jax.errors import UserError

_HELD_OUT = 383
_SEED = 0
_SELECTOR = "\N{VARIATION SELECTOR-16}"  # "show it as a picture"; the CLDR leaves it out


def write(folders: Sequence[Path], output: Path) -> list[str]:
    """Writes the pictures, 64 pixels a side with transparency, to ART/*.png, and of each art a manifest ART.jsonl of
    `{"path", "text", "keywords", "category", "subcategory", "emoji", "split"}`: `text` is the name, `keywords` a list.

    Those with skin tones, and the tones by themselves, are left out. The same emoji are held out of every art (`split`
    is "train" or "test"): the 383 whose SHA-256 of "0 " and the code points as the package writes them come first.
    `categories.json` has the subcategories of each category.

    Args:
        folders: those of the unpacked packages emoji-datasource-ART, as many arts as are wanted, and of
            cldr-annotations-full and cldr-annotations-derived-full; or one in which they lie under their names.
        output: where the files go.

    Returns:
        What was written, a line for each file.

    Raises:
        UserError: for a package that is not there or damaged, and for a picture or a name that one lacks.
    """
    words = annotations(folders, "en")
    found = {art: (folder, _rows(folder, art, words)) for art, folder in arts(folders).items()}
    first, *others = found
    chosen = [_without_art(row) for row in found[first][1]]
    for art in others:
        if [_without_art(row) for row in found[art][1]] != chosen:
            raise UserError(f"The packages of {first} and {art} have other emoji", "Give both in one version")
    said = []
    for art, (folder, rows) in found.items():
        (output / art).mkdir(parents=True, exist_ok=True)
        for row in rows:
            shutil.copyfile(_picture(folder, row), output / row["path"])
        said.append(_written(output / f"{art}.jsonl", rows))
    families: dict[str, list[str]] = {}
    for category, subcategory in sorted({(row["category"], row["subcategory"]) for row in chosen}):
        families.setdefault(category, []).append(subcategory)
    path = output / "categories.json"
    path.write_text(json.dumps(families, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    said.append(f"{path}: {len(families)} categories, {sum(map(len, families.values()))} subcategories")
    return said


def _without_art(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "path"}


def _picture(folder: Path, row: dict[str, Any]) -> Path:
    art, name = row["path"].split("/")
    return folder / "img" / art / "64" / name


def _written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    splits, keywords = Counter(row["split"] for row in rows), sum(len(row["keywords"]) for row in rows)
    return (
        f"{path}: {len(rows):,} pictures ({splits['train']:,} train, {splits['test']:,} test), a name for each and"
        f" {keywords:,} keywords"
    )


def arts(folders: Sequence[Path], required: bool = True) -> dict[str, Path]:
    """The folder of each art's package, in the order of their names.

    Raises:
        UserError: where there is none and one is `required`.
    """
    places = [place for folder in folders for place in (folder, *sorted(folder.glob("emoji-datasource-*")))]
    found = {}
    for place in places:
        # By the pictures and not by the folder's name: npm itself unpacks into "package".
        for path in sorted(place.glob("img/*/64")) if (place / "emoji.json").is_file() else ():
            found.setdefault(path.parent.name, place)
    if not found and required:
        raise UserError(
            f"No pictures of emoji are in {' or '.join(map(str, folders))}",
            "Unpack emoji-datasource-google, and give its folder with --from",
        )
    return dict(sorted(found.items()))


def _rows(folder: Path, art: str, words: dict[str, Annotation]) -> list[dict[str, Any]]:
    """The lines of an art's manifest, in the order of the package."""
    path = folder / "emoji.json"
    try:
        entries = [
            (e["unified"], e["image"], e["category"], e["subcategory"])
            for e in json.loads(read_bytes(path).decode("utf-8"))
            if e["category"] != "Component" and e[f"has_img_{art}"]
        ]
        symbols = ["".join(chr(int(point, 16)) for point in code.split("-")) for code, *_ in entries]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{path} could not be read: {error}", "Unpack its package again") from error
    for code, image, *_ in entries:
        if not re.fullmatch(r"[0-9a-f-]+\.png", str(image)):
            raise UserError(f"The picture of {code} in {path} is {image!r:.100}", "Unpack its package again")
    said = [words.get(symbol) or words.get(symbol.replace(_SELECTOR, "")) for symbol in symbols]
    nameless = [code for (code, *_), found in zip(entries, said, strict=True) if found is None]
    if nameless:
        raise UserError(
            f"{len(nameless)} of {len(entries)} emoji have no name, first {nameless[0]}",
            "Give the CLDR packages of the same Unicode version or a later one",
        )
    order = sorted((code for code, *_ in entries), key=lambda code: hashlib.sha256(f"{_SEED} {code}".encode()).digest())
    if len(order) <= _HELD_OUT:
        raise UserError(f"{len(order)} emoji are too few to hold out {_HELD_OUT}", "Give the packages as they are")
    held_out = set(order[:_HELD_OUT])
    rows = [
        {
            "path": f"{art}/{image}",
            "text": found.name,
            "keywords": list(found.keywords),
            "category": category,
            "subcategory": subcategory,
            "emoji": symbol,
            "split": "test" if code in held_out else "train",
        }
        for (code, image, category, subcategory), symbol, found in zip(entries, symbols, said, strict=True)
    ]
    missing = [str(picture) for row in rows if not (picture := _picture(folder, row)).is_file()]
    if missing:
        raise UserError(f"{len(missing)} of {len(rows)} pictures are missing, first {missing[0]}", "Unpack it again")
    return rows
