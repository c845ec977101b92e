"""A sweep in parts: processes side by side with devices of their own, or the tasks of a Slurm array."""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

from vit_jax.errors import Preempted, UserError

_COUNT = "--xla_force_host_platform_device_count"
# The variable by which a process sees some of the devices, by what jax calls the platform.
_VISIBLE = {"gpu": "CUDA_VISIBLE_DEVICES", "cuda": "CUDA_VISIBLE_DEVICES", "rocm": "ROCR_VISIBLE_DEVICES"}


def part_of(text: str) -> tuple[int, int]:
    """`--only 2/4` as (2, 4)."""
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    index, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= index <= count:
        raise UserError(f"--only is {text!r}", "Write I/N, such as 1/4 for the first of four parts")
    return index, count


def array_script(words: Sequence[str], runs: int) -> str:
    """A script for sbatch: one task of an array for each run, which queues itself again when it is preempted.

    Args:
        words: the arguments of the sweep.
    """
    return f"""#!/usr/bin/env bash
# A sweep of {runs} runs as a Slurm array, made by vit_jax sweep --slurm. Afterwards the same command without --slurm
# shows the table, on any machine that sees the workdir; with --develop it then trains the best.
#SBATCH --job-name=vit_jax-sweep
#SBATCH --array=1-{runs}
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=vit_jax-sweep-%A_%a.log
set -euo pipefail
PYTHON=${{PYTHON:-python}}

status=0
srun --ntasks=1 "$PYTHON" -m vit_jax sweep {shlex.join(words)} \\
  --only "$SLURM_ARRAY_TASK_ID/{runs}" || status=$?
# 75: preempted, and saved. Again, from the last checkpoint.
if ((status == 75)); then
  scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
fi
exit "$status"
"""


def run_beside(words: Sequence[str], runs: int, per_run: int) -> None:
    """Runs a sweep in as many parts as there are devices for, each a process that sees its own alone.

    A Ctrl-C or SIGTERM reaches each of them once; they save and end.

    Args:
        words: the arguments of the sweep.
        runs: how many there are; no more parts than these are started.
        per_run: devices of each part.

    Raises:
        UserError: there are too few devices, or they cannot be shared out.
    """
    if per_run < 1:
        raise UserError(f"--devices-per-run is {per_run}", "Give a whole number of at least 1")
    shares = list(_shares(per_run))[:runs]
    parts: list[subprocess.Popen] = []
    told: list[int] = []
    passed_to: list[subprocess.Popen] = []

    def pass_on(number: int) -> None:
        for part in parts:
            if part not in passed_to and part.poll() is None:
                part.send_signal(number)
                passed_to.append(part)

    def forward(number: int, frame: FrameType | None) -> None:
        if not told:
            pass_on(number)
        told.append(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for i, own in enumerate(shares, 1):
            if told:
                break
            words_of_part = [*words, "--only", f"{i}/{len(shares)}"]
            parts.append(
                subprocess.Popen(
                    [sys.executable, "-m", "vit_jax", "sweep", *words_of_part],
                    env={**os.environ, **own}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                    errors="replace",
                    start_new_session=True,  # a terminal would send its Ctrl-C to them too, and a second does not save
                )
            )  # fmt: skip
        if told:  # perhaps while the last of them was starting, which was not among the parts then
            pass_on(told[0])
        readers = [
            threading.Thread(target=_repeat, args=(part, f"[{i}/{len(shares)}]")) for i, part in enumerate(parts, 1)
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        statuses = [part.wait() for part in parts]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if told:
        raise KeyboardInterrupt if told[0] == signal.SIGINT else Preempted("SIGTERM; the runs are saved")
    for i, status in enumerate(statuses, 1):
        if status not in (0, 2):
            print(f"vit_jax: part {i} of {len(parts)} ended with status {status}", file=sys.stderr)


def _repeat(part: subprocess.Popen, mark: str) -> None:
    with part.stderr as lines:
        for line in lines:
            # In one piece: print writes each of its parts by itself, and another part's line could come between them.
            sys.stderr.write(f"{mark} {line.rstrip()}\n")
            sys.stderr.flush()


def _asked() -> tuple[str, int]:
    """The platform and the number of devices, asked of another process: this one would take them."""
    code = "import jax; print('devices', jax.default_backend(), jax.local_device_count())"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    found = re.search(r"^devices (\w+) (\d+)$", asked.stdout, re.MULTILINE)
    if not found:
        last = (asked.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(f"jax does not say which devices there are: {last}", "Leave --devices-per-run out")
    return found[1], int(found[2])


def _shares(per_run: int) -> Iterator[dict[str, str]]:
    """What each part has in its environment to see its own devices."""
    platform, count = _asked()
    if count < per_run:
        raise UserError(f"--devices-per-run is {per_run}, and there are {count}", "Give a lower number")
    if platform == "cpu":
        flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(_COUNT)]
        for _ in range(count // per_run):
            yield {"XLA_FLAGS": " ".join(flags), "JAX_NUM_CPU_DEVICES": str(per_run)}
    elif platform in _VISIBLE:
        name = _VISIBLE[platform]
        ids = [i.strip() for i in os.environ.get(name, "").split(",") if i.strip()] or list(map(str, range(count)))
        for i in range(count // per_run):
            yield {name: ",".join(ids[i * per_run : (i + 1) * per_run])}
    else:
        raise UserError(
            f"--devices-per-run cannot share out devices of the platform {platform!r}",
            "Start parts of the sweep yourself, with --only 1/2 and so on",
        )
