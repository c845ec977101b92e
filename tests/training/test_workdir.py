"""One run at a time in a workdir, and a disk that fills up while a run saves."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from tests.tiny import tiny_run
from vit_jax import UserError
from vit_jax.checkpoints.store import Store, find, read_params, steps_in
from vit_jax.training.workdir import taken

HOLD = """
import sys
from etils import epath
from vit_jax.training.workdir import taken
with taken(epath.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_run_is_refused_and_leaves_the_workdir_alone(tmp_path):
    tiny_run(tmp_path, steps=3, stop_at=1)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name != "lock"}
    with taken(epath.Path(tmp_path)), pytest.raises(UserError, match=f"in use by the process {os.getpid()}"):
        tiny_run(tmp_path, steps=3, log_every=1)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name != "lock"} == before
    assert tiny_run(tmp_path, steps=3)["step"] == 3


def test_the_lock_dies_with_its_process(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=f"in use by the process {holder.pid}"), taken(epath.Path(tmp_path)):
            pass
        holder.kill()
    with taken(epath.Path(tmp_path)):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_a_run_that_fails_at_its_start_lets_go(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Store, "__init__", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError) as kept_alive:
            tiny_run(tmp_path)
    with taken(epath.Path(tmp_path)):
        assert kept_alive.tb


def test_a_workdir_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), taken(epath.Path(tmp_path / "file" / "run")):
        pass


@pytest.fixture
def small_disk(tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_full_disk_while_saving_keeps_the_last_checkpoint(small_disk, capfd):
    workdir, filler = small_disk / "run", small_disk / "filler"
    policy = {"checkpoint__keep": 1, "steps": 4}
    tiny_run(workdir, stop_at=2, **policy)
    saved, _ = read_params(find(workdir))
    free = os.statvfs(small_disk)
    filler.write_bytes(b"x" * (free.f_bavail * free.f_bsize - 60_000))
    capfd.readouterr()
    with pytest.raises(UserError, match="run is full. The checkpoint of step 2 is whole. Free some space"):
        tiny_run(workdir, **policy)
    assert "Traceback" not in capfd.readouterr().err
    assert steps_in(workdir) == [2]
    jax.tree.map(np.testing.assert_array_equal, read_params(find(workdir))[0], saved)
    filler.unlink()
    assert tiny_run(workdir, **policy)["step"] == 4 and steps_in(workdir) == [4]
