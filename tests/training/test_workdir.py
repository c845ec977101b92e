"""One run at a time in a workdir, and a disk that fills up while a run saves."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from tests.tiny import tiny_run
from vit_jax import UserError
from vit_jax.checkpoints.steps import find, steps_in
from vit_jax.checkpoints.store import Store, read_params
from vit_jax.training.metrics import Writer
from vit_jax.training.run_files import FILES, FOLDERS, read_config, read_metrics
from vit_jax.training.workdir import Upkeep, start_step, taken

HOLD = """
import sys
from etils import epath
from vit_jax.training.workdir import taken
with taken(epath.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.long
def test_a_second_run_is_refused_and_leaves_the_workdir_alone(tmp_path):
    tiny_run(tmp_path, steps=3, stop_at=1)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name != "lock"}
    with taken(epath.Path(tmp_path)), pytest.raises(UserError, match=f"in use by the process {os.getpid()}"):
        tiny_run(tmp_path, steps=3, log_every=1)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name != "lock"} == before
    assert tiny_run(tmp_path, steps=3)["step"] == 3


@pytest.mark.long
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
@pytest.mark.long
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


WRONG = {
    "a directory": lambda path: path.mkdir(),
    "a file": lambda path: path.write_text(""),
    "a link that leads nowhere": lambda path: path.symlink_to("gone"),
    "a device or a pipe": os.mkfifo,
}


@pytest.mark.parametrize("name", [*FILES, *FOLDERS, ""])
def test_parts_that_are_something_else_are_named_before_anything_is_written(tmp_path, name):
    wanted = "file" if name in FILES else "directory"
    for number, (kind, make) in enumerate(WRONG.items()):
        if kind == f"a {wanted}":
            continue
        workdir = tmp_path / str(number)
        if name:
            workdir.mkdir()
        make(workdir / name)
        with (
            pytest.raises(UserError, match=rf"{workdir / name} is {kind} where a {wanted} should be"),
            taken(epath.Path(workdir)),
        ):
            pass
        with pytest.raises(UserError, match="should be"):
            start_step(epath.Path(workdir), {}, 6)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_disk_that_cannot_be_written(small_disk):
    (small_disk / "run").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for workdir in ("run", "new"):
        with pytest.raises(UserError, match="cannot be written"), taken(epath.Path(small_disk / workdir)):
            pass


DAMAGE = {
    "not UTF-8": b"\xff\xfe{}",
    "null": b"null",
    "a number": b"7",
    "a list": b"[{}]",
    "cut off": b'{"step": 2, "train/lo',
    "nested without end": b"[" * 100_000,
    "nested": b'{"step":' * 200 + b"1" + b"}" * 200,
    "digits": b'{"step": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files_of_a_run_are_named_with_their_line(tmp_path, kind):
    (tmp_path / "config.json").write_bytes(DAMAGE[kind])
    for read in (read_config, lambda workdir: start_step(workdir, {}, 6)):
        with pytest.raises(UserError, match="config.json is damaged: "):
            read(epath.Path(tmp_path))
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "a": 0.5}\n' + DAMAGE[kind] + b'\n{"step": 3}\n')
    with pytest.raises(UserError, match="Line 2 of .*metrics.jsonl is damaged: "):
        read_metrics(epath.Path(tmp_path))


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path):
    for end in (b'{"step": 2, "a"', b"\0\0\0", b'{"step": 2, "a": "\xc3'):
        (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "a": 0.5}\n' + end)
        assert read_metrics(epath.Path(tmp_path)) == [{"step": 1, "a": 0.5}]


def removed_at_step_2(monkeypatch, remove):
    """Has `remove` called when the second step is logged."""
    write = Writer.write

    def removing(self, step, scalars):
        if step == 2:
            remove()
        write(self, step, scalars)

    monkeypatch.setattr(Writer, "write", removing)


def test_what_is_removed_during_a_run_is_said_and_written_again(tmp_path, monkeypatch, capfd):
    workdir = tmp_path / "run"

    def remove():
        (workdir / "config.json").unlink()
        (workdir / "metrics.jsonl").unlink()
        shutil.rmtree(workdir / "tensorboard")

    removed_at_step_2(monkeypatch, remove)
    tiny_run(workdir, log_every=1, steps=3)
    said = capfd.readouterr().err
    for name in ("config.json", "metrics.jsonl", "tensorboard"):
        assert f"{workdir / name} was removed during the run" in said
    assert [row["step"] for row in read_metrics(epath.Path(workdir)) if "train/loss" in row] == [1, 2, 3]
    assert read_config(epath.Path(workdir))["steps"] == 3 and list((workdir / "tensorboard").iterdir())


def test_a_workdir_that_is_removed_is_made_and_locked_again(tmp_path, monkeypatch, capfd):
    workdir = tmp_path / "run"
    removed_at_step_2(monkeypatch, lambda: shutil.rmtree(workdir))
    tiny_run(workdir, log_every=1, steps=3)
    assert f"{workdir} was removed during the run: with its checkpoints" in capfd.readouterr().err
    assert steps_in(workdir) == [3] and (workdir / "summary.json").exists()
    assert len(read_metrics(epath.Path(workdir))) == 4 and read_config(epath.Path(workdir))["steps"] == 3
    with taken(epath.Path(workdir)):  # the end of the run has let go of it
        pass


def test_a_run_whose_workdir_another_one_has_taken_ends(tmp_path):
    workdir = epath.Path(tmp_path / "run")
    with taken(workdir):
        (workdir / "config.json").write_text("{}")
        upkeep = Upkeep(workdir)
        shutil.rmtree(workdir)
        with taken(workdir), pytest.raises(UserError, match="in use by the process"):
            upkeep.mend()
