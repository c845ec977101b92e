"""Sends the lines of a run's log to services, which may be slow or away, without the run waiting for them."""

import collections
import json
import queue
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from vit_jax.data.files import write_whole
from vit_jax.errors import UserError, printable
from vit_jax.training.trackers import Beginning, Ending, Session, Tracker

FILE = "trackers.json"
_CLOSING_SECONDS = 90.0


class Tracking:
    """Each tracker in a thread of its own, to which rows go through a queue.

    What a service does not take is said once on stderr and sent again before the next row. At the end it is waited for,
    a while; whatever it has not taken by then is in `metrics.jsonl`.

    `trackers.json` in the workdir keeps what each service calls the run, so that a run which goes on is the same one
    there. One that is new to a service first sends what the log has until then.

    Args:
        trackers: by name.
        workdir: of the run.
        config: its plain config.
        earlier: rows of its log, for services that do not know it.
    """

    def __init__(
        self,
        trackers: Mapping[str, Tracker],
        workdir: epath.Path,
        config: Mapping[str, Any],
        earlier: Sequence[Mapping[str, float]] = (),
    ):
        ids = known_ids(workdir) if trackers else {}
        lock = threading.Lock()

        def keep(name: str, run_id: str) -> None:
            with lock:
                ids[name] = run_id
                write_whole(workdir / FILE, json.dumps(ids, indent=2) + "\n")

        self._threads = [
            _Sender(name, tracker, Beginning(workdir, config, ids.get(name)), earlier, keep)
            for name, tracker in trackers.items()
        ]

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        for thread in self._threads:
            thread.rows.put((step, dict(scalars)))

    def close(self, ending: Ending) -> None:
        for thread in self._threads:
            thread.rows.put(ending)
        for thread in self._threads:
            thread.join(_CLOSING_SECONDS)
            if thread.is_alive():
                _say(thread.name, f"has not taken everything after {_CLOSING_SECONDS:.0f} s; metrics.jsonl has it")


class _Sender(threading.Thread):
    """One service's thread; a daemon, since a service that hangs must not keep the process."""

    def __init__(self, name: str, tracker: Tracker, beginning: Beginning, earlier: Sequence[Mapping], keep: Any):
        super().__init__(name=name, daemon=True)
        self.rows: queue.SimpleQueue[tuple[int, dict[str, float]] | Ending] = queue.SimpleQueue()
        self._tracker, self._beginning, self._keep = tracker, beginning, keep
        self._session: Session | None = None
        self._unsent: collections.deque[tuple[int, Mapping[str, float]]] = collections.deque()
        if beginning.run_id is None:
            self._unsent.extend((row["step"], {k: v for k, v in row.items() if k != "step"}) for row in earlier)
        self._complained = False
        self.start()

    def run(self) -> None:
        self._try(self._send)
        while isinstance(row := self.rows.get(), tuple):
            self._unsent.append(row)
            self._try(self._send)
        if self._unsent or self._session is None:
            self._try(self._send)
        if self._unsent:
            _say(self.name, f"has not taken {len(self._unsent):,} lines of the log; metrics.jsonl has them")
        if self._session is not None:
            self._try(lambda: self._session.close(row))

    def _send(self) -> None:
        if self._session is None:
            self._session = self._tracker.begin(self._beginning)
            self._keep(self.name, self._session.run_id)
            _say(self.name, f"follows this run as {self._session.run_id}: {self._session.where}")
        while self._unsent:
            self._session.write(*self._unsent[0])
            self._unsent.popleft()

    def _try(self, action: Any) -> None:
        try:
            action()
        except (Exception, SystemExit) as error:  # of whatever kind: the run is worth more than its picture elsewhere
            if not self._complained:
                text = (str(error).strip().splitlines() or [""])[0]
                _say(
                    self.name,
                    f"did not answer ({type(error).__name__}: {text}); the run goes on, and it is tried again",
                )
            self._complained = True


def known_ids(workdir: epath.Path) -> dict[str, str]:
    """What each service calls the run in a workdir.

    Raises:
        UserError: the file is damaged.
    """
    path = workdir / FILE
    if not path.exists():
        return {}
    try:
        ids = json.loads(path.read_text())
    except (ValueError, RecursionError):
        ids = None
    if not isinstance(ids, dict) or not all(isinstance(each, str) for each in ids.values()):
        raise UserError(f"{path} is damaged", "Remove it: the run is then a new one to its trackers")
    return ids


def check_trackers(trackers: Mapping[str, Tracker], workdir: epath.Path) -> None:
    """Asks each tracker whether it can be used, before anything is written.

    Raises:
        UserError: one cannot.
    """
    for tracker in trackers.values():
        tracker.check()
    if trackers:
        known_ids(workdir)


def _say(name: str, text: str) -> None:
    print(printable(f"vit_jax: {name} {text}"), file=sys.stderr)
