"""The folder of one run: its config, from which step it goes on, who is using it, and what if its disk is full."""

import contextlib
import errno
import fcntl
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from etils import epath

from vit_jax.checkpoints.store import steps_in
from vit_jax.data.files import is_remote
from vit_jax.errors import UserError
from vit_jax.training.config import differences, plain
from vit_jax.training.heartbeat import heartbeat
from vit_jax.training.lines import write_whole


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


@contextlib.contextmanager
def taken(workdir: epath.Path, active: bool = True) -> Iterator[None]:
    """Makes the workdir and keeps other runs out of it.

    The lock is the operating system's, on `workdir/lock`: it goes with the process however that ends, so the file may
    stay. Remote file systems have no locks: there it is a heartbeat. Local ones without locks are not locked.

    Args:
        active: False on all processes of a run but one.

    Raises:
        UserError: another process has it, or it cannot be written.
    """
    with contextlib.ExitStack() as held:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            if active and is_remote(workdir):
                held.enter_context(heartbeat(workdir))
            elif active:
                file = held.enter_context(open(workdir / "lock", "a+"))
                _lock(file, workdir)
        except (PermissionError, NotADirectoryError, FileExistsError) as error:
            raise UserError(
                f"The workdir {workdir} cannot be written: {error.strerror}", "Use another --workdir"
            ) from None
        yield


def _lock(file: Any, workdir: epath.Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        raise UserError(
            f"The workdir {workdir} is in use by the process {owner}", "Wait for its end, or use another --workdir"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()


def write_config(workdir: epath.Path, values: Mapping[str, Any]) -> None:
    """Writes `config.json`."""
    try:
        write_json(workdir / "config.json", plain(values))
    except PermissionError as error:
        raise UserError(f"The workdir {workdir} cannot be written: {error.strerror}", "Use another --workdir") from None


def write_json(path: epath.Path, values: Any) -> None:
    """Writes a whole file or nothing."""
    write_whole(path, json.dumps(values, indent=2) + "\n")


def explains_full_disk(train: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates `train(experiment, workdir, ...)`: a full disk, wherever it shows, becomes a `UserError`."""

    @functools.wraps(train)
    def explained(experiment: Any, workdir: epath.PathLike, *args: Any, **kwargs: Any) -> Any:
        try:
            return train(experiment, workdir, *args, **kwargs)
        except Exception as error:
            if isinstance(error, UserError) or not _is_full_disk(error):
                raise
            steps = steps_in(workdir)
            kept = f"The checkpoint of step {steps[-1]} is whole" if steps else "No checkpoint was saved before"
            raise UserError(
                f"The disk of the workdir {workdir} is full. {kept}",
                "Free some space; the same command continues from there",
            ) from error

    return explained


def _is_full_disk(error: BaseException | None) -> bool:
    """Whether the error, or one that it came from, says so: Orbax passes on what TensorStore says as a ValueError."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT)):
            return True
        error = error.__cause__ or error.__context__
    return False
