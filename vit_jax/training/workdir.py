"""The folder of one run: its config, from which step it goes on, who is using it, and what if its disk is full."""

import contextlib
import errno
import fcntl
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from etils import epath

from vit_jax.checkpoints.steps import steps_in
from vit_jax.data.files import is_remote, write_whole
from vit_jax.errors import UserError
from vit_jax.naming import listed
from vit_jax.training.config import differences, plain
from vit_jax.training.heartbeat import heartbeat
from vit_jax.training.run_files import check_parts, read_config


def start_step(workdir: epath.Path, values: Mapping[str, Any], last: int) -> int:
    """The newest saved step of a run with this config, 0 for a new run.

    Args:
        values: the config, as plain values.
        last: the step that the run is to reach.

    Raises:
        UserError: the workdir is of another config, or already past `last`.
    """
    check_parts(workdir)
    if (workdir / "config.json").exists():
        changed = differences(values, read_config(workdir))
        if changed:
            raise UserError(
                f"The workdir {workdir} belongs to a run with another {listed(f'config.{k}' for k in changed)}",
                "Use a new --workdir, or the config that it was started with",
            )
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
    check_parts(workdir)
    with contextlib.ExitStack() as held:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            if active and is_remote(workdir):
                held.enter_context(heartbeat(workdir))
            elif active:
                file = held.enter_context(open(workdir / "lock", "a+"))
                _lock(file, workdir)
        except OSError as error:
            raise UserError(
                f"The workdir {workdir} cannot be written: {error.strerror or error}", "Use another --workdir"
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


class Upkeep:
    """What a run needs in its local workdir as long as it lives, for the case that somebody removes it.

    Args:
        workdir: with a config and a lock of the run.
    """

    def __init__(self, workdir: epath.Path):
        self._workdir, self._config, self._locks = workdir, None, contextlib.ExitStack()
        if not is_remote(workdir) and (workdir / "config.json").exists():
            self._config = (workdir / "config.json").read_text()
            self._lock = os.stat(workdir / "lock")

    def mend(self) -> None:
        """Writes config and lock again if they are gone.

        Raises:
            UserError: another run has begun there meanwhile.
        """
        if self._config is None:
            return
        if not self._workdir.is_dir():
            self.say(self._workdir, "with its checkpoints; the run goes on and saves there again")
            self._workdir.mkdir(parents=True, exist_ok=True)
        file = open(self._workdir / "lock", "a+")  # noqa: SIM115
        if os.path.samestat(os.fstat(file.fileno()), self._lock):
            file.close()
        else:
            _lock(self._locks.enter_context(file), self._workdir)
            self._lock = os.fstat(file.fileno())
        if not (self._workdir / "config.json").exists():
            write_whole(self._workdir / "config.json", self._config)
            self.say("config.json", "it is here again")

    def close(self) -> None:
        self._locks.close()

    def say(self, name: epath.PathLike, more: str) -> None:
        """Tells that a part is gone."""
        print(f"vit_jax: {self._workdir / name} was removed during the run: {more}", file=sys.stderr)


def write_config(workdir: epath.Path, values: Mapping[str, Any]) -> None:
    """Writes `config.json`."""
    try:
        write_json(workdir / "config.json", plain(values))
    except OSError as error:
        raise UserError(f"The workdir {workdir} cannot be written: {error.strerror}", "Use another --workdir") from None


def write_json(path: epath.Path, values: Any) -> None:
    """Writes a whole file or nothing."""
    write_whole(path, json.dumps(values, indent=2) + "\n")


def explains_full_disk(train: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates `train(experiment, workdir, ...)`: a disk that cannot be written becomes a `UserError`."""

    @functools.wraps(train)
    def explained(experiment: Any, workdir: epath.PathLike, *args: Any, **kwargs: Any) -> Any:
        try:
            return train(experiment, workdir, *args, **kwargs)
        except Exception as error:
            problem = "" if isinstance(error, UserError) else _disk_problem(error, os.fspath(workdir))
            if not problem:
                raise
            steps = steps_in(epath.Path(workdir)) if os.path.isdir(workdir) or is_remote(workdir) else []
            kept = f"The checkpoint of step {steps[-1]} is whole" if steps else "No checkpoint was saved before"
            remedy = "Free some space" if problem.endswith("full") else "Mend that"
            raise UserError(f"{problem}. {kept}", f"{remedy}; the same command continues from there") from error

    return explained


def _disk_problem(error: BaseException | None, workdir: str) -> str:
    """What is wrong with the workdir's disk, if the error or one that it came from says that it is its fault.

    Orbax passes on what TensorStore says as a ValueError.
    """
    while error is not None:
        for number in (errno.ENOSPC, errno.EDQUOT):
            if (isinstance(error, OSError) and error.errno == number) or os.strerror(number) in str(error):
                return f"The disk of the workdir {workdir} is full"
        for number in (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR, errno.EISDIR, errno.ENOENT):
            named = getattr(error, "filename", None)
            ours = isinstance(named, (str, os.PathLike)) and workdir in os.fspath(named)
            if (ours and error.errno == number) or (workdir in str(error) and os.strerror(number) in str(error)):
                return f"{named if ours else f'The workdir {workdir}'} cannot be written: {os.strerror(number)}"
        error = error.__cause__ or error.__context__
    return ""
