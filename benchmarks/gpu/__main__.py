"""Measure this codebase on one GPU: training, inference, the loader, kernels; at most eight minutes.

examples:
  benchmarks/gpu.sh
  benchmarks/gpu.sh --out runs/h100 --budget 240
  benchmarks/gpu.sh --platform cpu --smoke

S/16, B/16 and L/16 train in bfloat16 with cuDNN's attention and XLA's, with the blocks scanned and not, at several
batches; then MAE, inference with float32, bfloat16 and int8 weights, and the train command reading JPEGs from the disk.
Each of these cells is a process of its own, so that one that hangs or does not fit ends alone. The most telling come
first; what no longer fits into the budget is "not run". The same command goes on from there: cells that were measured
with the same card, versions and settings are kept. --out receives a JSON and a log for each cell, gpu.json with all of
them, and table.md.

Exit status: 0; 1 if a cell failed or timed out; 2 without a GPU, and then the table says "not run".
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.cells import FULL, SMOKE, Cell, cells
from benchmarks.gpu.runner import FAILED, NOT_RUN, TIMED_OUT, Runner, write_json
from benchmarks.gpu.tables import page
from vit_jax.errors import UserError

_CELL = 150.0  # seconds; a compilation of L/16 without scan with autotuning is the longest


def main(arguments: Sequence[str] | None = None) -> int:
    began = time.monotonic()
    parser = argparse.ArgumentParser(
        "gpu.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), metavar="DIR", help="default runs/gpu")
    parser.add_argument("--budget", type=float, default=480.0, metavar="SECONDS", help="of the whole call (480)")
    parser.add_argument("--platform", choices=("gpu", "cpu"), default="gpu", help="cpu to try the script")
    parser.add_argument("--smoke", action="store_true", help="tiny models, so that every cell takes seconds")
    given = parser.parse_args(arguments)
    scale = SMOKE if given.smoke else FULL
    outcomes: list[dict[str, Any]] = []
    given.out.mkdir(parents=True, exist_ok=True)
    try:
        machine = _machine(given.platform, given.out)
    except UserError as error:
        outcomes = [_not_run(cell, "no GPU") for cell in cells(scale, {})]
        _write(given.out, None, outcomes)
        print(f"gpu.sh: {error} Nothing was measured, and {given.out / 'table.md'} says so.", file=sys.stderr)
        return 2

    stop_with_sigterm()
    runner = Runner(given.out / "cells", machine, _command, _environment(given.platform, given.out), _CELL)
    found: dict[str, Any] = {}
    for outcome in runner.run(cells(scale, found), found, began + given.budget):
        outcomes.append(outcome)
        _write(given.out, machine, outcomes)
        why = f": {outcome['why']}" if outcome["why"] else ""
        print(f"{time.monotonic() - began:5.0f} s  {outcome['cell']}  {outcome['status']}{why}", file=sys.stderr)
    print((given.out / "table.md").read_text(encoding="utf-8"))
    return int(any(outcome["status"] in (FAILED, TIMED_OUT) for outcome in outcomes))


def stop_with_sigterm() -> None:
    """A job that is told to stop ends its cell too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def _machine(platform: str, out: Path) -> dict[str, Any]:
    """The device, the versions, and the state of the code; asked in a process of its own, for a device belongs to one.

    Raises:
        UserError: when the device is not there.
    """
    if platform == "gpu":
        seen = (
            shutil.which("nvidia-smi") and subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
        )
        if not seen or "GPU" not in seen:
            raise UserError("There is no GPU on this machine that nvidia-smi could see", "Start this on one that has")
    file = out / "machine.json"
    command = [*_python(), "--machine", str(file)]
    asked = subprocess.run(command, env=_environment(platform, out), capture_output=True, text=True)
    if asked.returncode:
        raise UserError(f"jax cannot use the device: {asked.stderr.strip().splitlines()[-1]}", "Mend that first")
    machine = json.loads(file.read_text(encoding="utf-8"))
    if machine["platform"] != platform:
        raise UserError(
            f"jax {machine['jax']} sees no {platform}", "pip install -e '.[cuda13]', or cuda12 for older drivers"
        )
    return {**machine, "code": _revision()}


def _revision() -> str:
    """The commit, and a digest of what was changed since."""

    def git(*arguments: str) -> bytes:
        return subprocess.run(["git", *arguments], capture_output=True).stdout

    changes = git("diff", "HEAD")
    commit = git("rev-parse", "--short=10", "HEAD").decode().strip() or "unknown"
    return f"{commit} with changes {hashlib.sha256(changes).hexdigest()[:8]}" if changes else commit


def _command(settings: Mapping[str, Any], folder: Path, result: Path) -> list[str]:
    return [*_python(), json.dumps(dict(settings)), str(folder), str(result)]


def _python() -> list[str]:
    return [sys.executable, "-m", "benchmarks.gpu.measure"]


def _environment(platform: str, out: Path) -> dict[str, str]:
    cache = {"JAX_COMPILATION_CACHE_DIR": str((out / "compiled").absolute())}
    return {**cache, **({"JAX_PLATFORMS": "cpu"} if platform == "cpu" else {}), **os.environ}


def _not_run(cell: Cell, why: str) -> dict[str, Any]:
    return {"cell": cell.name, "settings": dict(cell.settings), "status": NOT_RUN, "why": why}


def _write(out: Path, machine: Mapping[str, Any] | None, outcomes: Sequence[Mapping[str, Any]]) -> None:
    write_json(out / "gpu.json", {"machine": machine, "cells": list(outcomes)})
    (out / "table.md").write_text(page(machine, outcomes), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
