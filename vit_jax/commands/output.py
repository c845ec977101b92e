"""Where a command writes, checked before it computes what it would write."""

import json
import os
from collections.abc import Callable, Collection
from pathlib import Path

from vit_jax.errors import UserError


def output_file(
    name: str, flag: str = "--output", suffixes: Collection[str] = (), ours: Callable[[Path], bool] | None = None
) -> Path:
    """The path of a file that can be written.

    Args:
        name: as it was given.
        flag: which argument gave it, for errors.
        suffixes: the endings that it may have; any by default.
        ours: whether a file that is there is one that this command made, so that it may be replaced; any by default.

    Raises:
        UserError: when its directory does not exist or cannot be written, it is one itself, has another ending, or
            holds something else.
    """
    path = Path(name)
    _check_name(name, flag)
    if suffixes and path.suffix.lower() not in suffixes:
        raise UserError(f"{flag} {name} does not end in {' or '.join(suffixes)}", "That is what is written")
    if os.path.isdir(name):
        raise UserError(f"{flag} {name} is a directory", "Name a file in it")
    _check_folder(path.parent, flag)
    if os.path.lexists(name):
        if not os.access(name, os.W_OK):
            raise UserError(f"{flag} {name} cannot be written", "Name another file")
        if ours and os.path.isfile(name) and path.stat().st_size and not ours(path):
            raise UserError(f"{flag} {name} exists and is not what this command writes", "Name another, or --overwrite")
    return path


def output_folder(name: str, flag: str = "--output") -> Path:
    """The path of a directory that is there or can be made.

    Raises:
        UserError: when it is a file, or cannot be made or written.
    """
    _check_name(name, flag)
    path = Path(name)
    if os.path.lexists(name.rstrip("/")) and not os.path.isdir(name):
        raise UserError(f"{flag} {name} is a file", "Name a directory")
    _check_folder(path if os.path.isdir(name) else path.parent, flag)
    return path


def check_makeable(name: str, flag: str) -> None:
    """Refuses a path that cannot come into being: below a file, or below a directory that cannot be written.

    Folders that are missing in between are fine.

    Raises:
        UserError: says which.
    """
    if "://" in name:
        return
    _check_name(name, flag)
    path = Path(os.path.abspath(name))
    for parent in path.parents:
        if os.path.isdir(parent):
            _check_folder(parent, flag)
            return
        if os.path.lexists(parent):
            raise UserError(f"{flag} {name} lies below {parent}, which is a file", "Name another place")


def check_workdir(name: str | None) -> None:
    """Refuses a `--workdir` that is missing, empty (a variable of the shell that nobody set) or cannot be made."""
    if not name:
        raise UserError(
            "The --workdir is empty" if name == "" else "--workdir is missing", "Name a directory; . is here"
        )
    check_makeable(name, "--workdir")


def is_json_lines(path: Path, keys: Collection[str]) -> bool:
    """Whether a file's first line is a JSON object with these keys: what an earlier call has written."""
    with path.open("rb") as file:
        first = file.readline(1 << 24)
    try:
        row = json.loads(first)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and set(row) == set(keys)


def _check_name(name: str, flag: str) -> None:
    if not name or "\0" in name:
        raise UserError(f"{flag} is {name!r}", "Name a path")
    if any(len(os.fsencode(part)) > 255 for part in Path(name).parts):
        raise UserError(f"{flag} {name} is longer than names of files can be", "Name a shorter one")


def _check_folder(folder: Path, flag: str) -> None:
    if not os.path.isdir(folder):
        if os.path.lexists(folder):
            raise UserError(f"{folder}, in which {flag} would lie, is a file", "Name another place")
        raise UserError(f"There is no directory {folder} for {flag}", "Make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"The directory {folder} of {flag} cannot be written", "Name another place")
