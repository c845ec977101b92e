"""Workdirs on file systems without appending, renaming and locks."""

import json
import os
import re
import threading
import time

import fsspec
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem

from tests.processes import PATIENCE, config_file, free_port, start
from tests.tiny import tiny_run
from vit_jax import UserError
from vit_jax.data.files import is_remote
from vit_jax.training import heartbeat, lines
from vit_jax.training.heartbeat import heartbeat as holding
from vit_jax.training.lines import Lines
from vit_jax.training.metrics import Writer, read_metrics
from vit_jax.training.workdir import taken, write_json


class ObjectStore(MemoryFileSystem):
    """In memory, under the name of a cloud; like one it cannot append."""

    protocol = ("az",)
    store = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("az://"))

    def _open(self, path, mode="rb", **kwargs):
        assert mode in ("rb", "wb"), f"an object store has no mode {mode}"
        return super()._open(path, mode, **kwargs)


@pytest.fixture
def workdir(monkeypatch):
    """A remote folder, with a heart that beats fast."""
    if epath.gpath._is_tf_installed():
        pytest.skip("where TensorFlow is installed epath uses its file systems")
    fsspec.register_implementation("az", ObjectStore, clobber=True)
    for name, seconds in (("BEAT", 0.05), ("DEAD", 1.0), ("SETTLE", 0.1)):
        monkeypatch.setattr(heartbeat, name, seconds)
    ObjectStore.store.clear()
    path = epath.Path("az://bucket/run")
    assert is_remote(path)
    return path


def test_lines_appear_at_a_flush_and_at_the_end(workdir, monkeypatch):
    file = Lines(workdir / "log", ["kept"])
    file.write("one")
    assert (workdir / "log").read_text() == "kept\n"
    file.flush()
    assert (workdir / "log").read_text() == "kept\none\n"
    monkeypatch.setattr(lines, "_UPLOAD_SECONDS", 0.0)
    file.write("two")
    assert (workdir / "log").read_text() == "kept\none\ntwo\n"
    monkeypatch.undo()
    file.write("three")
    file.close()
    assert (workdir / "log").read_text() == "kept\none\ntwo\nthree\n"


def test_the_log_of_a_run_goes_on(workdir):
    writer = Writer(workdir, 0)
    writer.write(1, {"train/loss": 2.0})
    writer.flush()
    writer.write(2, {"train/loss": 1.0})
    writer.close()
    time.sleep(1.1)  # TensorBoard's files are named by the second
    again = Writer(workdir, 1)
    again.write(2, {"train/loss": 0.5})
    again.close()
    assert read_metrics(workdir) == [{"step": 1, "train/loss": 2.0}, {"step": 2, "train/loss": 0.5}]
    assert len(list((workdir / "tensorboard").iterdir())) == 2
    write_json(workdir / "summary.json", {"step": 2})
    assert json.loads((workdir / "summary.json").read_text()) == {"step": 2}
    assert not (workdir / "summary.json.partial").exists()


def test_a_second_run_is_refused_and_the_end_of_the_first_lets_it_in(workdir):
    sentence = rf"in use by the process {os.getpid()} on .* beat was \d s ago"
    with taken(workdir), pytest.raises(UserError, match=sentence), taken(workdir):
        pass
    assert not (workdir / "heartbeat.json").exists()
    with taken(workdir), taken(workdir, active=False):
        pass


def test_the_beat_of_a_killed_run_is_watched_and_then_taken_over(workdir, capsys):
    left = {"run": "old", "host": "elsewhere", "pid": 7, "time": time.time() - 5}
    (workdir / "heartbeat.json").write_text(json.dumps(left))
    began = time.monotonic()
    with holding(workdir):
        assert time.monotonic() - began >= 1.0
        assert json.loads((workdir / "heartbeat.json").read_text())["pid"] == os.getpid()
    assert re.search(r"has a beat of \d+ s ago; watching for 1 s", capsys.readouterr().err)
    # An ancient beat is not watched, nor one that is half written.
    for text in (json.dumps(left | {"time": time.time() - 1e4}), '{"run": "o'):
        (workdir / "heartbeat.json").write_text(text)
        with holding(workdir):
            assert "watching" not in capsys.readouterr().err


def test_of_two_that_start_at_once_one_runs(workdir, monkeypatch):
    # Longer than a busy machine lets a thread wait between looking for a beat and leaving its own.
    monkeypatch.setattr(heartbeat, "SETTLE", 0.5)
    monkeypatch.setattr(heartbeat, "DEAD", 5.0)
    held, refused, done = [], [], threading.Event()

    def run():
        try:
            with holding(workdir):
                held.append(1)
                done.wait(10)
        except UserError:
            refused.append(1)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while not (held and refused) and time.monotonic() < deadline:
        time.sleep(0.01)
    done.set()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 1)


def test_a_run_that_was_overtaken_in_its_sleep_ends_at_once(workdir, monkeypatch, capsys):
    ended = threading.Event()

    def end(status):
        assert status == 2
        ended.set()

    monkeypatch.setattr(heartbeat.os, "_exit", end)
    with holding(workdir):
        other = {"run": "new", "host": "elsewhere", "pid": 7, "time": time.time()}
        (workdir / "heartbeat.json").write_text(json.dumps(other))
        assert ended.wait(10)
    assert "in use by the process 7 on elsewhere" in capsys.readouterr().err


@pytest.fixture(scope="module")
def bucket():
    """An emulator of Google Cloud Storage, which Orbax's own client and epath's reach."""
    reason = "needs the extra 'test': pip install gcsfs gcp-storage-emulator"
    pytest.importorskip("gcsfs", reason=reason)
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason=reason)
    if epath.gpath._is_tf_installed():
        pytest.skip("where TensorFlow is installed epath uses its file systems")
    port = free_port()
    server = emulator.create_server("localhost", port, in_memory=True, default_bucket="bucket")
    server.start()
    url = f"http://localhost:{port}"
    environment = {"STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url}
    environment |= {"NO_GCE_CHECK": "true", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        fsspec.filesystem("gcs").clear_instance_cache()
        epath.backend.fsspec_backend._get_filesystem.cache_clear()
        yield epath.Path("gs://bucket")
        fsspec.filesystem("gcs").clear_instance_cache()
        epath.backend.fsspec_backend._get_filesystem.cache_clear()
    server.stop()


@pytest.mark.slow
def test_a_run_on_an_object_store(bucket, tmp_path, as_elsewhere):
    """Started, killed with a half-written checkpoint, gone on with, evaluated: as on a disk."""
    import numpy as np

    from vit_jax.checkpoints.steps import find, steps_in
    from vit_jax.checkpoints.store import read_params

    config, workdir = config_file(tmp_path, checkpoint__every=2), bucket / "run"
    command = ["train", "--config", config, "--workdir", workdir]
    assert start([*command, "--config.stop_at=2"], tmp_path / "log").wait(PATIENCE) == 0, (tmp_path / "log").read_text()
    assert steps_in(workdir) == [2] and not (workdir / "heartbeat.json").exists()
    # What a kill leaves behind: a beat, and a step without its last file.
    (workdir / "heartbeat.json").write_text(json.dumps({"run": "x", "host": "h", "pid": 1, "time": time.time() - 1e4}))
    for path in ("_CHECKPOINT_METADATA", "state/manifest.ocdbt"):
        (workdir / "checkpoints" / "4" / path).write_bytes((workdir / "checkpoints" / "2" / path).read_bytes())
    assert steps_in(workdir) == [2]
    assert start(command, tmp_path / "log").wait(PATIENCE) == 0, (tmp_path / "log").read_text()
    assert steps_in(workdir) == [4, 6]
    tiny_run(tmp_path / "local", checkpoint__every=2)
    ours, theirs = read_params(find(workdir))[0], read_params(find(tmp_path / "local"))[0]
    np.testing.assert_array_equal(ours["head"]["kernel"], theirs["head"]["kernel"])
    assert [row["step"] for row in read_metrics(workdir) if "train/loss" in row] == [2, 4, 6]
    evaluate = ["evaluate", "--checkpoint", workdir, "--output", tmp_path / "scores.json"]
    assert start(evaluate, tmp_path / "log").wait(PATIENCE) == 0, (tmp_path / "log").read_text()
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["val/accuracy"] == json.loads((workdir / "summary.json").read_text())["val/accuracy"]


@pytest.mark.slow
def test_a_live_run_on_an_object_store_is_left_alone(bucket, tmp_path):
    workdir = bucket / "live"
    with holding(workdir):
        command = ["train", "--config", config_file(tmp_path), "--workdir", workdir]
        assert start(command, tmp_path / "log").wait(PATIENCE) == 2
    [line] = [x for x in (tmp_path / "log").read_text().splitlines() if "in use by the process" in x]
    assert line.startswith("vit_jax: The workdir gs://bucket/live")
