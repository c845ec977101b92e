"""The folder of one run: its config, and from which step it goes on."""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from vit_jax.checkpoints.store import steps_in
from vit_jax.errors import UserError
from vit_jax.training.config import differences, plain


def start_step(workdir: epath.Path, values: Mapping[str, Any], last: int) -> int:
    """The newest saved step of a run with this config, 0 for a new run.

    Args:
        values: the config, as plain values.
        last: the step that the run is to reach.

    Raises:
        UserError: the workdir is of another config, or already past `last`.
    """
    path = workdir / "config.json"
    if path.exists():
        try:
            stored = json.loads(path.read_text())
        except json.JSONDecodeError:
            raise UserError(f"{path} is damaged", "Remove it to continue with the config that you give") from None
        changed = differences(values, stored)
        if changed:
            raise UserError(
                f"The workdir {workdir} belongs to a run with another {', '.join('config.' + k for k in changed)}",
                "Use a new --workdir, or the config that it was started with",
            )
    elif workdir.exists() and not workdir.is_dir():
        raise UserError(f"The workdir {workdir} is a file", "Give a directory")
    steps = steps_in(workdir)
    start = steps[-1] if steps else 0
    if start > last:
        raise UserError(
            f"The run in {workdir} is at step {start}, past the {last} that are asked for",
            "Raise config.steps, or use a new --workdir",
        )
    return start


def write_config(workdir: epath.Path, values: Mapping[str, Any]) -> None:
    """Makes the workdir and writes `config.json`."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / "config.json", plain(values))
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise UserError(f"The workdir {workdir} cannot be written: {error.strerror}", "Use another --workdir") from None


def write_json(path: epath.Path, values: Any) -> None:
    """Writes a whole file or nothing."""
    partial = path.parent / (path.name + ".partial")
    partial.write_text(json.dumps(values, indent=2) + "\n")
    partial.replace(path)
