"""Runs of `vit_jax` in real processes, which find each other over gloo on this machine."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

from tests.tiny import tiny_config

PATIENCE = 420.0  # seconds; the machine may be busy with other things


def config_file(folder: Path, **overrides: object) -> Path:
    """`tests.tiny.tiny_config` as a file."""
    path = folder / "config.py"
    path.write_text(f"def get_config(arg=''):\n    return {tiny_config(**overrides)!r}\n")
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(arguments: Sequence[object], log: Path, devices: int = 1, **environment: str) -> subprocess.Popen:
    """One process, its output in a file; in a session of its own, so that a test can kill it with all its children."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        # As in conftest.py: compiling is most of the time that such a run takes.
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        "PYTHONPATH": str(Path(__file__).parents[1]),
        **environment,
    }
    with open(log, "ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "vit_jax", *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            env=environment, start_new_session=True,
        )  # fmt: skip


@contextlib.contextmanager
def started(
    arguments: Sequence[object],
    folder: Path,
    processes: int,
    devices: int = 1,
    each: Sequence[Sequence[object]] = (),
) -> Iterator[list[subprocess.Popen]]:
    """So many processes of one run; what is still alive at the end is killed. Logs are `folder/log.<process>`.

    `each` are arguments of the single processes.
    """
    flags = ["--num-processes", processes] + (["--coordinator", f"127.0.0.1:{free_port()}"] if processes > 1 else [])
    running = []
    try:
        for i in range(processes):
            own = ["--process-id", i] if processes > 1 else []
            own += each[i] if each else []
            running.append(start([*arguments, *flags, *own], folder / f"log.{i}", devices))
        yield running
    finally:
        for process in running:
            process.kill()
            process.wait()


def ended(running: Sequence[subprocess.Popen]) -> list[int]:
    """Waits for all of them and returns their exit status."""
    return [process.wait(PATIENCE) for process in running]


def logs(folder: Path) -> str:
    return "\n".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(folder.glob("log.*")))
