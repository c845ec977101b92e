"""Runs cells, each in a process of its own so that one that hangs or does not fit ends alone; keeps what they find."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.cells import Cell

MEASURED, TOO_LARGE, TIMED_OUT, FAILED, NOT_RUN = "measured", "does not fit", "timed out", "failed", "not run"
_FINAL = (MEASURED, TOO_LARGE)  # what is not tried again
_LEAST = 0.1  # of a cell's time; with less left there is no use in starting one
_END = 8000  # characters of a log in which its last error stands
_OUT_OF_MEMORY = re.compile(r"RESOURCE_EXHAUSTED|out of memory", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Runner:
    """Where cells run.

    Args:
        folder: receives a JSON, a log and whatever else belongs to a cell for each of them.
        machine: the card and all versions; what was found with others is measured again.
        command: is called with a cell's settings, the folder for its files and the file for its results (JSON both),
            and gives what to start.
        environment: of that process.
        limit: seconds of one cell.
    """

    folder: Path
    machine: Mapping[str, Any]
    command: Callable[[Mapping[str, Any], Path, Path], Sequence[str]]
    environment: Mapping[str, str]
    limit: float

    def run(self, cells: Iterable[Cell], found: MutableMapping[str, Any], until: float) -> Iterator[dict[str, Any]]:
        """Runs what is not measured yet, in order.

        Args:
            cells: drawn one by one: later ones may depend on what `found` holds by then.
            found: receives what is measured, by the cell's name.
            until: `time.monotonic()` at which no cell may run any more.

        Yields:
            The outcome of each cell: "cell", "settings", "machine", "status", "why", "seconds" and, where measured,
            "found".
        """
        for cell in cells:
            outcome = self._kept(cell)
            if outcome is None:
                outcome = self._measured(cell, until - time.monotonic())
            if outcome["status"] == MEASURED:
                found[cell.name] = outcome["found"]
            yield outcome

    def _file(self, cell: Cell, ending: str) -> Path:
        return self.folder / f"{re.sub(r'[^a-z0-9.]+', '-', cell.name.lower())}{ending}"

    def _kept(self, cell: Cell) -> dict[str, Any] | None:
        """The outcome of an earlier call, if it is one of the same thing on the same machine."""
        file = self._file(cell, ".json")
        if not file.exists():
            return None
        outcome = json.loads(file.read_text(encoding="utf-8"))
        same = outcome["settings"] == _as_json(cell.settings) and outcome["machine"] == _as_json(self.machine)
        return outcome if same and outcome["status"] in _FINAL else None

    def _measured(self, cell: Cell, left: float) -> dict[str, Any]:
        outcome = {"cell": cell.name, "settings": dict(cell.settings), "machine": dict(self.machine)}
        if left < _LEAST * self.limit:
            return {**outcome, "status": NOT_RUN, "why": "out of time", "seconds": 0.0}
        self.folder.mkdir(parents=True, exist_ok=True)
        result, log = self._file(cell, ".found"), self._file(cell, ".log")
        result.unlink(missing_ok=True)
        began, limit = time.monotonic(), min(self.limit, left)
        with log.open("w", encoding="utf-8") as output:
            command = self.command(cell.settings, self._file(cell, ""), result)
            code = _wait(command, self.environment, output, limit)
        outcome["seconds"] = round(time.monotonic() - began, 1)
        said = log.read_text(encoding="utf-8", errors="replace")
        if code == 0:
            outcome |= {"status": MEASURED, "why": "", "found": json.loads(result.read_text(encoding="utf-8"))}
            result.unlink()
        elif code is None and limit < self.limit:
            outcome |= {"status": NOT_RUN, "why": f"out of time after {limit:.0f} s"}
        elif code is None:
            outcome |= {"status": TIMED_OUT, "why": f"no result within {limit:.0f} s"}
        elif _OUT_OF_MEMORY.search(said[-_END:]):
            outcome |= {"status": TOO_LARGE, "why": "out of memory"}
        else:
            outcome |= {"status": FAILED, "why": _last_line(said) or f"exit status {code}"}
        write_json(self._file(cell, ".json"), outcome)
        return outcome


def _wait(command: Sequence[str], environment: Mapping[str, str], output: Any, seconds: float) -> int | None:
    """The exit status, or None for a process that had to be ended. It is ended, with all that it started, whatever
    ends the wait."""
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def write_json(file: Path, value: Any) -> None:
    """Whole or not at all."""
    partial = file.with_suffix(f"{file.suffix}.partial")
    partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    partial.replace(file)


def _as_json(value: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(dict(value)))


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
