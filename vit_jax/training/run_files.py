"""Reading what a run has written into its workdir, whatever has become of it since."""

import json
import os
import stat
from collections.abc import Mapping
from typing import Any

from etils import epath

from vit_jax.data.files import is_remote
from vit_jax.errors import UserError
from vit_jax.training.config import differences

# What a workdir holds, where it is there at all; everything else in it is not ours.
FILES = ("config.json", "metrics.jsonl", "summary.json", "trackers.json", "lock")
FOLDERS = ("checkpoints", "tensorboard", "pictures")
_DEEPEST = 40  # sections in sections, many times what a config has


def check_parts(workdir: epath.Path) -> None:
    """Checks that the parts of a local workdir are files and directories where they should be, and can be written.

    Raises:
        UserError: names the part and what it is instead.
    """
    if is_remote(workdir):
        return
    for part in (workdir, *(workdir / name for name in (*FILES, *FOLDERS))):
        folder = part == workdir or part.name in FOLDERS
        kind = _kind(part)
        if kind not in ("nothing", "a directory" if folder else "a file"):
            raise UserError(
                f"{part} is {kind} where a {'directory' if folder else 'file'} should be",
                "Move it away, or use another --workdir",
            )
        if kind != "nothing" and not os.access(part, os.W_OK | (os.X_OK if folder else os.R_OK)):
            raise UserError(f"{part} cannot be written", "Change its permissions, or use another --workdir")


def _kind(path: epath.Path) -> str:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return "a link that leads nowhere" if os.path.islink(path) else "nothing"
    if stat.S_ISDIR(mode):
        return "a directory"
    return "a file" if stat.S_ISREG(mode) else "a device or a pipe"


def read_config(workdir: epath.Path) -> dict[str, Any]:
    """The config in `config.json`.

    Raises:
        UserError: it cannot be read, is not a section with sections and values in it, or is nested without end.
    """
    path = workdir / "config.json"
    try:
        config = json.loads(_bytes(path).decode())
        problem = "" if isinstance(config, dict) else "it is not a section with keys"
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, numbers of thousands of digits, nested
        config, problem = {}, _first_line(error)
    if _depth(config) > _DEEPEST:
        problem = f"its sections are nested more than {_DEEPEST} times"
    if problem:
        raise UserError(f"{path} is damaged: {problem}", "Put the run's config there, or use another workdir")
    return config


def read_metrics(workdir: epath.Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl`: `step` and numbers by name. A last line that was cut off by a kill is left out.

    Raises:
        UserError: names the line that is not such a row.
    """
    path, rows = workdir / "metrics.jsonl", []
    lines = _bytes(path).split(b"\n")
    while lines and not lines[-1].strip(b"\0\r "):  # what a machine that lost its power may leave at the end
        lines.pop()
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line.decode())
            problem = _row_problem(row)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            problem = _first_line(error)
        if problem:
            raise UserError(f"Line {number} of {path} is damaged: {problem}", "Remove that line")
        rows.append(row)
    return rows


def _row_problem(row: Any) -> str:
    if not isinstance(row, dict):
        return "it is not an object with a step and numbers"
    step = row.get("step")
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < 2**53:
        return "its step is not a whole number from 0 up"
    for name, value in row.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or (
            isinstance(value, int) and abs(value) > 2**63
        ):  # fmt: skip
            return f"its {name!r} is not a number"
    return ""


def finished(workdir: epath.Path, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a run of this config has written to `summary.json`; None where none has come to its end, or where an
    evaluator failed there, which the run would ask again.

    Args:
        values: the config, as plain values.

    Raises:
        UserError: a damaged config.
    """
    if not (workdir / "summary.json").exists() or not (workdir / "config.json").exists():
        return None
    stored = read_config(workdir)
    if differences(values, stored) or any(values.get(key) != stored.get(key) for key in ("steps", "stop_at")):
        return None
    try:
        summary = json.loads(_bytes(workdir / "summary.json"))
    except (ValueError, RecursionError):
        return None
    return summary if isinstance(summary, dict) and not summary.get("failed") else None


def _bytes(path: epath.Path) -> bytes:
    if not is_remote(path) and (kind := _kind(path)) not in ("a file", "nothing"):
        raise UserError(f"{path} is {kind}, not a file", "Move it away, or use another workdir")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}", "Check its permissions") from None


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            child
            for item in level
            if isinstance(item, (Mapping, list))
            for child in (item.values() if isinstance(item, Mapping) else item)
        ]
    return depth


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
