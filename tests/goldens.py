"""Goldens: JSON files under version control that say what something came to, renewed with `--update-goldens`.

A change of a golden is a change of a promise: it is read line by line in the diff of the commit that makes it.
"""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "golden"


def check(file: str, key: str, value: Any, update: bool) -> None:
    """Compares `value` with what stands under `key` in `tests/golden/<file>.json`, or writes it there."""
    path = FOLDER / f"{file}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    value = json.loads(json.dumps(value))
    if update:
        known[key] = value
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
        return
    assert key in known, f"{path} has nothing under {key!r}: run pytest with --update-goldens, and read what it writes"
    assert value == known[key], f"{path}, {key!r}: if the change is meant, renew it with --update-goldens"


def keys() -> set[tuple[str, str]]:
    """File and key of all that is kept."""
    return {(path.stem, key) for path in FOLDER.glob("*.json") for key in json.loads(path.read_text())}
