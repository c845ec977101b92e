"""benchmarks/gpu.sh: its cells end alone, are resumed, and become a table; stand-ins play the cells."""

import dataclasses
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import weights
from benchmarks.gpu.cells import FULL, Cell, cells
from benchmarks.gpu.kernels import top_kernels
from benchmarks.gpu.runner import Runner
from benchmarks.gpu.tables import page

# Plays `benchmarks.gpu.measure`: notes that it ran, and does what its settings say.
PLAY = """
import json, os, sys, time
settings, folder, out = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
open(folder + '.ran', 'a').write('x')
if settings['play'] == 'hang':
    open(folder + '.pid', 'w').write(str(os.getpid()))
    time.sleep(60)
if settings['play'] == 'oom':
    sys.exit('jaxlib...: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes')
if settings['play'] == 'crash':
    sys.exit('Traceback ...\\nValueError: no such thing')
json.dump({'speed': 7}, open(out, 'w'))
"""
# A call that is killed: its first cell is done, its second hangs.
KILLED = """
import json, os, pathlib, sys, time
from benchmarks.gpu.__main__ import stop_with_sigterm
from benchmarks.gpu.cells import Cell
from benchmarks.gpu.runner import Runner
play, folder, machine = sys.argv[1], pathlib.Path(sys.argv[2]), json.loads(sys.argv[3])
def command(settings, files, result):
    return [sys.executable, '-S', '-E', '-c', play, json.dumps(settings), str(files), str(result)]
stop_with_sigterm()
some = [Cell('fine 0', {'play': 'fine'}), Cell('hang 1', {'play': 'hang'})]
list(Runner(folder, machine, command, dict(os.environ), 50.0).run(some, {}, time.monotonic() + 50))
"""
MACHINE = {"device": "a card", "jax": "0.10.2"}


def runner(folder: Path, limit: float = 1.0, **machine: str) -> Runner:
    def play(settings, files, result):
        return [sys.executable, "-S", "-E", "-c", PLAY, json.dumps(settings), str(files), str(result)]

    return Runner(folder, MACHINE | machine, play, dict(os.environ), limit)


def plays(*names: str) -> list[Cell]:
    return [Cell(f"{name} {i}", {"play": name}) for i, name in enumerate(names)]


def statuses(runner: Runner, cells: list[Cell], seconds: float = 60.0) -> list[str]:
    return [outcome["status"] for outcome in runner.run(cells, {}, time.monotonic() + seconds)]


def runs(folder: Path) -> dict[str, int]:
    return {file.stem: len(file.read_text()) for file in folder.glob("*.ran")}


def test_a_cell_that_hangs_crashes_or_does_not_fit_ends_alone_and_what_is_final_is_kept(tmp_path):
    some = plays("hang", "oom", "crash", "fine")
    found = {}
    outcomes = list(runner(tmp_path).run(some, found, time.monotonic() + 60))
    assert [o["status"] for o in outcomes] == ["timed out", "does not fit", "failed", "measured"]
    assert outcomes[2]["why"] == "ValueError: no such thing" and found == {"fine 3": {"speed": 7}}
    assert statuses(runner(tmp_path), some[1:]) == ["does not fit", "failed", "measured"]
    assert runs(tmp_path) == {"hang-0": 1, "oom-1": 1, "crash-2": 2, "fine-3": 1}


def test_another_card_version_or_setting_is_measured_again(tmp_path):
    [cell] = plays("fine")
    for times, (given, machine) in enumerate([(cell, {}), (cell, {"jax": "0.12.0"}), (cell, {"device": "another"})], 1):
        assert statuses(runner(tmp_path, **machine), [given]) == ["measured"] and runs(tmp_path) == {"fine-0": times}
    other = dataclasses.replace(cell, settings={"play": "fine", "rounds": 3})
    assert statuses(runner(tmp_path, device="another"), [other]) == ["measured"] and runs(tmp_path) == {"fine-0": 4}


def test_what_the_budget_cuts_off_is_not_run_and_goes_on_later(tmp_path):
    some = plays("fine", "hang", "fine")
    assert statuses(runner(tmp_path, limit=5.0), some, seconds=1.5) == ["measured", "not run", "not run"]
    assert runs(tmp_path) == {"fine-0": 1, "hang-1": 1}
    assert statuses(runner(tmp_path, limit=5.0), some[::2], seconds=5.0) == ["measured", "measured"]
    assert runs(tmp_path) == {"fine-0": 1, "hang-1": 1, "fine-2": 1}


def test_a_killed_call_leaves_no_process_and_goes_on_where_it_was(tmp_path):
    started = subprocess.Popen(
        [sys.executable, "-c", KILLED, PLAY, str(tmp_path), json.dumps(MACHINE)], cwd=Path(__file__).parents[1]
    )
    hanging, until = tmp_path / "hang-1.pid", time.monotonic() + 60
    while not (hanging.exists() and hanging.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    started.send_signal(signal.SIGTERM)
    assert started.wait(20) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int(hanging.read_text()), 0)
    assert statuses(runner(tmp_path, 50.0), plays("fine")) == ["measured"] and runs(tmp_path)["fine-0"] == 1


def test_later_cells_vary_what_was_fastest_and_no_two_are_the_same():
    found = {}
    drawn = []
    for cell in cells(FULL, found):
        drawn.append(cell)
        fast = "xla loop" in cell.name
        if cell.settings["kind"] == "train" and not cell.name.startswith("mae"):
            found[cell.name] = {"train": {"images_per_second": 2000.0 if fast else 1000.0}}
    names = [cell.name for cell in drawn]
    assert len(set(names)) == len(names) == 23 and all(f"train {v}/16 xla loop" in " ".join(names) for v in "SBL")
    assert names.index("train B/16 cudnn loop 256") == 0 and "train B/16 xla loop 512" in names
    assert "train B/16 cudnn loop 512" not in names
    [feed] = [cell for cell in drawn if cell.settings["kind"] == "feed"]
    assert (
        "scan=False" in feed.settings["config"] and feed.settings["changes"]["model.attention_implementation"] == "xla"
    )


def test_without_a_gpu_the_table_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command.shutil, "which", lambda name: None)
    assert command.main(["--out", str(tmp_path)]) == 2
    assert "There is no GPU on this machine" in capsys.readouterr().err
    table = (tmp_path / "table.md").read_text()
    assert table.startswith("No GPU was at hand.") and table.count("| not run: no GPU |") == 23
    kept = json.loads((tmp_path / "gpu.json").read_text())
    assert kept["machine"] is None and {cell["status"] for cell in kept["cells"]} == {"not run"}


def test_the_table_has_every_figure():
    step = {
        "images_per_second": 1234.5, "images_per_second_min": 1200, "images_per_second_max": 1300, "mfu": 0.456,
        "seconds_per_step": 0.2, "seconds_per_step_std": 0.01, "peak_bytes": 31e9, "compile_seconds": 40.2,
    }  # fmt: skip
    kernels = {"kernels": [{"name": "gemm|a", "times": 3, "seconds": 0.5, "share": 0.25}]}
    drawn = list(cells(FULL, {}))
    found = {
        "train": {"train": step, "plan": {"peak_bytes": 30.5e9, "step_seconds": 0.15}, "kernels": kernels},
        "inference": {"batches": {"256": step, "1": step}, "weights_bytes": 86e6, "features_error": 0.0123},
        "feed": {"images_per_second": 900.0, "data_wait": 0.2, "loader_images_per_second": 950.0, "cpus": 12},
    }
    outcomes = [
        {"cell": c.name, "settings": c.settings, "status": "measured", "why": "", "found": found[c.settings["kind"]]}
        for c in drawn[:1] + drawn[-17:]
    ]
    outcomes[1] |= {"status": "does not fit", "why": "out of memory"}
    text = page({"device": "NVIDIA H100", "jax": "0.10.2", "bytes_limit": None}, outcomes)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert text.startswith("device NVIDIA H100, jax 0.10.2\n") and "does not fit: out of memory" in text
    for said in (
        "1,234 (1,200 to 1,300)",
        "200.0 ± 10.0 ms",
        "45.6%",
        "31.00 GB",
        "86.0 MB",
        "1.23%",
        "20.0%",
        "`gemm/a`",
    ):
        assert any(said in row for row in rows), said
    assert {len(row) for row in rows} == {8, 5, 4}


def trace(folder: Path, events: list[dict]) -> Path:
    folder.joinpath("a.trace.json.gz").write_bytes(gzip.compress(json.dumps({"traceEvents": events}).encode()))
    return folder


def named(kind: str, pid: int, tid: int, name: str) -> dict:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}


def test_kernels_are_those_of_a_gpus_streams_once(tmp_path):
    lines = [named("process_name", 1, 0, "/device:GPU:0"), named("process_name", 2, 0, "/host:CPU")]
    lines += [named("thread_name", 1, 13, "Stream #13(Compute)"), named("thread_name", 1, 9, "XLA Ops")]
    work = [(1, 13, "gemm", 0, 6.0), (1, 13, "gemm", 7, 2.0), (1, 13, "fusion", 9, 2.0), (1, 9, "dot.1", 0, 9.0)]
    work += [(2, 5, "dispatch", 0, 50.0)]
    events = [{"ph": "X", "pid": p, "tid": t, "name": n, "ts": at, "dur": d} for p, t, n, at, d in work]
    found = top_kernels(trace(tmp_path, lines + events), 1)
    [kernel] = found["kernels"]
    assert (kernel["name"], kernel["times"]) == ("gemm", 2) and kernel["share"] == pytest.approx(0.8)
    assert found["seconds"] == pytest.approx(10e-6)


def test_an_operation_that_holds_others_counts_what_is_its_own(tmp_path):
    work = [("while", 0, 10.0), ("dot", 1, 4.0), ("add", 6, 3.0), ("dot", 12, 4.0)]
    events = [
        {"ph": "X", "pid": 1, "tid": 1, "name": n, "ts": at, "dur": d, "args": {"hlo_op": n}} for n, at, d in work
    ]
    found = top_kernels(
        trace(tmp_path, [*events, {"ph": "X", "pid": 1, "tid": 1, "name": "python", "ts": 0, "dur": 99}])
    )
    took = {kernel["name"]: round(kernel["seconds"] * 1e6, 6) for kernel in found["kernels"]}
    assert took == {"dot": 8.0, "while": 3.0, "add": 3.0}


def test_int8_weights_are_within_half_a_step_of_each_output_and_restored_for_the_model():
    rng = np.random.default_rng(0)
    head_scales = np.array([1.0, 100.0])[:, None]
    params = {
        "attention": {"query": {"kernel": rng.normal(size=(6, 2, 3)) * head_scales, "bias": rng.normal(size=(2, 3))}},
        "fc1": {"kernel": np.concatenate([rng.normal(size=(6, 4)), np.zeros((6, 1))], 1)},
    }  # fmt: skip
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    small = weights.small(params, "int8")
    back = weights.usable(small)
    for name, axes in (("attention", 0), ("fc1", 0)):
        before = params[name]["query"]["kernel"] if name == "attention" else params[name]["kernel"]
        after = back[name]["query"]["kernel"] if name == "attention" else back[name]["kernel"]
        step = np.abs(before).max(axes, keepdims=True) / 127
        assert after.dtype == jnp.bfloat16 and (np.abs(after - before) <= step * 0.5 + 0.01 * np.abs(before)).all()
    assert (back["attention"]["query"]["bias"] == params["attention"]["query"]["bias"]).all()
    assert weights.size(small) < 0.5 * weights.size(params)
    assert weights.size(weights.small(params, "bfloat16")) == weights.size(params) - 2 * (36 + 30)
