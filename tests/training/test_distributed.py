"""How processes find each other: what is refused at once, what is given up in time, and the run of one process."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.processes import PATIENCE, config_file, ended, free_port, start, started
from vit_jax import UserError
from vit_jax.commands.main import main
from vit_jax.training import distributed
from vit_jax.training.distributed import agreed, connected, from_lead, in_any, is_lead


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num-processes", "2"], "need coordinator and process_id too"),
        (["--coordinator", "a:1", "--process-id", "0"], "need num_processes too"),
        (["--coordinator", "a", "--num-processes", "2", "--process-id", "0"], "'a' is not HOST:PORT"),
        (["--coordinator", "a:1", "--num-processes", "2", "--process-id", "2"], "There is no process 2 of 2"),
        (["--num-processes", "0"], "num_processes is 0"),
    ],
)
def test_flags_that_do_not_fit_together(capsys, tmp_path, flags, message):
    config = config_file(tmp_path)
    assert main(["train", "--config", str(config), "--workdir", str(tmp_path / "run"), *flags]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line and not (tmp_path / "run").exists()


@pytest.mark.parametrize("process", [0, 1], ids=["nobody reports to it", "it does not answer"])
@pytest.mark.long
def test_a_coordinator_that_does_not_answer(tmp_path, process):
    """jax alone would abort the process from C++."""
    port = free_port()
    flags = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", 2, "--process-id", process]
    config = config_file(tmp_path)
    arguments = ["train", "--config", config, "--workdir", tmp_path / "run", *flags, "--coordinator-timeout", 3]
    assert start(arguments, tmp_path / "log").wait(PATIENCE) == 2
    [line] = (tmp_path / "log").read_text().splitlines()
    who = f"The coordinator 127.0.0.1:{port} has not answered for 3 s" if process else "other processes have reported"
    assert line.startswith("vit_jax: ") and who in line


def test_a_port_that_is_taken(tmp_path, capsys, monkeypatch):
    """In this process, which shall not be ended at once when it ends."""
    monkeypatch.setattr(distributed.atexit, "register", lambda *_: None)
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::", 0))
        taken.listen()
        port = taken.getsockname()[1]
        flags = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", "2", "--process-id", "0"]
        config, workdir = str(config_file(tmp_path)), str(tmp_path / "run")
        assert main(["train", "--config", config, "--workdir", workdir, *flags]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"vit_jax: Process 0 cannot listen on 127.0.0.1:{port}: Address already in use. Choose a free"
    )


def python(code):
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return process


ALONE = """
import signal, time, jax
from vit_jax.errors import Preempted
from vit_jax.training.distributed import connected
from vit_jax.training.interrupt import Interrupt
with connected(**{arguments}):
    print("coordinator", jax.distributed.is_initialized())
    {early}
    with Interrupt() as interrupt:
        {late}
        for step in range(1000):
            if interrupt.reached():
                print(type(interrupt.reason(step)).__name__, step)
                break
print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
"""


@pytest.mark.parametrize("arguments", [{}, pytest.param({"num_processes": 1}, marks=pytest.mark.long)], ids=str)
def test_one_process_has_no_coordinator_and_notes_sigterm_from_the_start(arguments):
    """A coordinator would end the process after a suspension of 100 s or a step of the clock."""
    moments = {"early": "pass", "late": "pass"} | {
        "late" if arguments else "early": "signal.raise_signal(signal.SIGTERM)"
    }
    said = python(ALONE.format(arguments=arguments, **moments))
    assert said.stdout.split() == ["coordinator", "False", "Preempted", "0", "True"]


@pytest.mark.slow  # as long as the suspension
def test_a_run_survives_a_suspension_of_150_s(tmp_path):
    config = config_file(tmp_path, steps=100_000, log_every=1, data__num_workers=2)
    process = start(["train", "--config", config, "--workdir", tmp_path / "run"], tmp_path / "log")
    lines = tmp_path / "run" / "metrics.jsonl"
    try:
        wait_for(lambda: lines.exists() and lines.stat().st_size, process)
        os.killpg(process.pid, signal.SIGSTOP)
        time.sleep(150)
        size = lines.stat().st_size
        os.killpg(process.pid, signal.SIGCONT)
        wait_for(lambda: lines.stat().st_size > size + 1000, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 75, (tmp_path / "log").read_text()
    finally:
        process.kill()


def wait_for(condition, process):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.long
def test_two_devices_of_one_process_work_together_during_and_after():
    code = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from vit_jax.training.distributed import connected
from vit_jax.training.sharding import make_mesh
jax.config.update("jax_num_cpu_devices", 2)
def total(n):
    rows = NamedSharding(make_mesh({}), P("data"))
    return int(jax.jit(lambda x: x.sum())(jax.device_put(np.arange(n), rows)))
with connected():
    print(total(4))
print(total(6))
"""
    assert python(code).stdout.split() == ["6", "15"]


def test_jax_that_is_in_use_has_no_coordinator_and_says_nothing(capfd):
    with connected():
        assert is_lead() and agreed(lambda: 5) == from_lead(5) == 5 and in_any(True) and not in_any(False)
    with pytest.raises(UserError, match="one thing"):
        agreed(lambda: (_ for _ in ()).throw(UserError("one thing")))
    assert capfd.readouterr().err == ""


def test_what_the_cluster_does_not_say(monkeypatch):
    def initialize(**_):
        raise ValueError("Number of processes must be defined.")

    monkeypatch.setattr(distributed.jax.distributed, "initialize", initialize)
    with pytest.raises(UserError, match=re.escape("Number of processes must be defined. Say it with")):
        distributed._join_cluster(5)


@pytest.mark.slow
def test_slurm_is_found_by_itself(tmp_path):
    """With the environment that srun gives to two tasks, and no flag."""
    port = free_port()
    config = config_file(tmp_path, steps=2, optim__schedule__warmup_steps=1)
    slurm = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "1",
             "JAX_COORDINATOR_PORT": str(port)}  # fmt: skip
    arguments = ["train", "--config", config, "--workdir", tmp_path / "run"]
    running = [
        start(arguments, tmp_path / f"log.{i}", **slurm, SLURM_PROCID=str(i), SLURM_LOCALID=str(i)) for i in range(2)
    ]
    try:
        assert ended(running) == [0, 0], (tmp_path / "log.0").read_text()
    finally:
        for process in running:
            process.kill()
    assert "on 2 cpu devices" in (tmp_path / "log.0").read_text()


@pytest.mark.long
def test_a_mistake_that_all_make_is_said_by_all(tmp_path):
    config = config_file(tmp_path, batch_size=15)
    with started(["train", "--config", config, "--workdir", tmp_path / "run"], tmp_path, 2) as running:
        assert ended(running) == [2, 2]
    for i in range(2):
        said = [x for x in (tmp_path / f"log.{i}").read_text().splitlines() if x.startswith("vit_jax: ")]
        assert len(said) == 1 and "15 examples does not divide over 2 devices" in said[0]
