"""What is compiled is compiled once: in a run, and for all runs of it."""

import dataclasses
import os
import shutil

import jax
import numpy as np
import pytest

from tests.processes import config_file, ended, free_port, logs, start
from tests.tiny import tiny_experiment
from vit_jax.checkpoints.steps import find
from vit_jax.checkpoints.store import read_params
from vit_jax.training import compiling
from vit_jax.training.compiling import keep_compiled
from vit_jax.training.loop import train

_SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture
def no_cache(monkeypatch, tmp_path):
    """As in a process of its own: no folder was named, and the caches of this user are here."""
    before = {name: getattr(jax.config, name) for name in _SETTINGS}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path / "cache/vit_jax/compiled"
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_by_default(no_cache):
    keep_compiled()
    assert jax.config.jax_compilation_cache_dir == str(no_cache)
    assert no_cache.stat().st_mode & 0o777 == 0o700  # what lies there is run
    assert not list(no_cache.iterdir())


def test_what_the_user_chose_stays(no_cache):
    jax.config.update("jax_compilation_cache_dir", "/somewhere")
    keep_compiled()
    assert jax.config.jax_compilation_cache_dir == "/somewhere" and not no_cache.exists()
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", False)
    keep_compiled()
    assert jax.config.jax_compilation_cache_dir is None and not no_cache.exists()


def test_a_folder_that_cannot_be_written_costs_one_remark(no_cache, capsys, tmp_path):
    (tmp_path / "cache").write_text("a file")
    keep_compiled()
    assert jax.config.jax_compilation_cache_dir is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"remark: compiled programs are not kept, since {no_cache} cannot be written")
    assert "JAX_COMPILATION_CACHE_DIR" in line


def test_a_folder_that_another_process_does_not_see_is_not_used(no_cache, monkeypatch):
    told = iter([False, False, True])  # on already, cannot be written, cannot be seen
    monkeypatch.setattr(compiling, "in_any", lambda flag: flag or next(told))
    keep_compiled()
    assert jax.config.jax_compilation_cache_dir is None
    assert not list(no_cache.iterdir())


def test_what_was_used_longest_ago_goes_when_the_folder_is_full(no_cache, monkeypatch):
    no_cache.mkdir(parents=True)
    for age in (3, 1, 2):
        path = no_cache / f"{age}-cache"
        path.write_bytes(b"x" * 40)
        os.utime(path, (1e9 - age, 1e9 - age))
    monkeypatch.setattr(compiling, "_LARGEST", 100)
    keep_compiled()
    assert {path.name for path in no_cache.iterdir()} == {"1-cache", "2-cache"}


@pytest.mark.parametrize(("devices", "lives"), [(1, [3]), pytest.param(8, [2, 3], marks=pytest.mark.long)])
def test_a_run_traces_and_compiles_its_step_once(tmp_path, devices, lives):
    compiled, called, measured = [], 0, 0

    def listen(event, duration, fun_name="", **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(fun_name)

    def on_device(batch, rng):
        nonlocal called
        called += 1
        return experiment.on_device(batch, rng)

    def on_device_eval(batch):
        nonlocal measured
        measured += 1
        return experiment.on_device_eval(batch)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for steps in lives:
            experiment = tiny_experiment(steps=3, stop_at=steps)
            counted = dataclasses.replace(experiment, on_device=on_device, on_device_eval=on_device_eval)
            train(counted, tmp_path / "run", jax.devices()[:devices])
            assert compiled.count("jit(step)") == 1
            assert called == 2  # for the shapes of what `init` gets, and in the step
            assert measured == 1  # checked before the first step, and measured by the same trace
            called = measured = compiled.clear() or 0
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.long
def test_a_run_that_is_started_again_reads_its_step_and_goes_on_as_it_was(tmp_path):
    """In processes of their own; another library that lies around (torch, TensorFlow) is not touched."""
    for name in ("torch", "tensorflow"):
        (tmp_path / "path" / name).mkdir(parents=True)
        (tmp_path / "path" / name / "__init__.py").write_text("raise SystemExit(f'{__name__} was imported')")
    config = config_file(tmp_path, checkpoint__every=3)
    environment = {"JAX_COMPILATION_CACHE_DIR": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment["PYTHONPATH"] = str(tmp_path / "path")
    states = []
    for log in ("first", "again"):
        process = start(["train", "--config", config, "--workdir", tmp_path / "run"], tmp_path / log, **environment)
        assert ended([process]) == [0], (tmp_path / log).read_text()
        states.append(read_params(find(tmp_path / "run"))[0])
        shutil.rmtree(tmp_path / "run/checkpoints/6")
    folder = tmp_path / "cache/vit_jax/compiled"
    assert "Compiled the step in " in (tmp_path / "first").read_text()
    assert f"Read the step, compiled before, from {folder} in " in (tmp_path / "again").read_text()
    jax.tree.map(np.testing.assert_array_equal, *states)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
def test_processes_of_a_run_share_the_folder_or_keep_nothing(tmp_path, shared):
    config, port = config_file(tmp_path), free_port()
    for workdir in ("first", "second"):
        running = []
        for i in range(2):
            own = ["--num-processes", 2, "--process-id", i, "--coordinator", f"127.0.0.1:{port}"]
            cache = {"XDG_CACHE_HOME": str(tmp_path / ("cache" if shared else f"cache{i}"))}
            arguments = ["train", "--config", config, "--workdir", tmp_path / workdir, *own]
            running.append(start(arguments, tmp_path / f"log.{workdir}.{i}", JAX_COMPILATION_CACHE_DIR="", **cache))
        assert ended(running) == [0, 0], logs(tmp_path)
    if shared:
        assert "Read the step, compiled before" in (tmp_path / "log.second.0").read_text()
    else:
        assert "is not there in process 1" in (tmp_path / "log.second.1").read_text()
        assert "Compiled the step in " in (tmp_path / "log.second.0").read_text()
        assert not list((tmp_path / "cache0/vit_jax/compiled").iterdir())
