"""Keeping other runs out of a workdir where there are no locks: a file that says who is there, renewed meanwhile."""

import contextlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from etils import epath

from vit_jax.checkpoints.remote import forget_listings
from vit_jax.data.files import write_whole
from vit_jax.errors import UserError

BEAT = 20.0  # seconds between two beats
DEAD = 90.0  # a run without a beat for so many seconds is dead
OLD = 900.0  # a beat of so many seconds ago is dead whatever the clocks of two machines say
SETTLE = 3.0  # in which of two runs that start at once the later one shows


@contextlib.contextmanager
def heartbeat(workdir: epath.Path) -> Iterator[None]:
    """Holds `workdir/heartbeat.json`. A beat that a killed run left behind is watched until it is surely dead.

    Raises:
        UserError: another run is alive there.
    """
    path, beat = workdir / "heartbeat.json", {"run": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid()}
    _wait_for_its_end(path, workdir)
    _write(path, beat)
    time.sleep(SETTLE)
    if (other := _read(path)) and other["run"] != beat["run"]:
        raise _in_use(workdir, other)
    ended = threading.Event()
    thread = threading.Thread(target=_keep_beating, args=(path, workdir, beat, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        path.unlink(missing_ok=True)


def _wait_for_its_end(path: epath.Path, workdir: epath.Path) -> None:
    first = _read(path)
    if first is None or time.time() - first["time"] > OLD:
        return
    print(
        f"vit_jax: {path} has a beat of {_age(first):.0f} s ago; watching for {DEAD:.0f} s whether its run is alive",
        file=sys.stderr,
    )
    began = time.monotonic()
    while time.monotonic() - began < DEAD:
        time.sleep(min(1.0, DEAD / 10))
        now = _read(path)
        if now is None:
            return
        if now != first:
            raise _in_use(workdir, now)


def _keep_beating(path: epath.Path, workdir: epath.Path, beat: dict[str, Any], ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        try:
            other = _read(path)
            if other and other["run"] != beat["run"]:
                # This process was asleep for so long that another took its place: it must not write another byte.
                print(f"vit_jax: {_in_use(workdir, other)}", file=sys.stderr, flush=True)
                os._exit(2)
            _write(path, beat)
        except Exception as error:  # whatever the file system's client raises: the next beat may get through
            print(f"vit_jax: {path} could not be renewed: {error}", file=sys.stderr)


def _write(path: epath.Path, beat: dict[str, Any]) -> None:
    write_whole(path, json.dumps({**beat, "time": time.time()}) + "\n")


def _read(path: epath.Path) -> dict[str, Any] | None:
    """None for no beat, or one that is damaged."""
    forget_listings(path)
    try:
        beat = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return beat if isinstance(beat, dict) and {"run", "host", "pid", "time"} <= set(beat) else None


def _age(beat: dict[str, Any]) -> float:
    return max(time.time() - beat["time"], 0.0)


def _in_use(workdir: epath.Path, beat: dict[str, Any]) -> UserError:
    return UserError(
        f"The workdir {workdir} is in use by the process {beat['pid']} on {beat['host']},"
        f" whose last beat was {_age(beat):.0f} s ago",
        "Wait for its end, or use another --workdir",
    )
