"""The numbers of a line of the log, with a clock that the test moves."""

import time

import jax
import numpy as np
import pytest

from tests.tiny import tiny_config, tiny_experiment, tiny_run
from vit_jax.planning.rehearsal import rehearse
from vit_jax.training import open_run
from vit_jax.training.metrics import Throughput, read_metrics


class Clock:
    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def __call__(self, seconds):
        self.now += seconds


def test_a_window(monkeypatch):
    clock = Clock(monkeypatch)
    throughput = Throughput(64, chips=4, flops=3e9, peak=1e12, began=90.0)
    clock(10)  # compiling
    throughput.start(1)
    with throughput.waiting([]):  # nothing was running: the devices waited
        clock(2)
    clock(8)
    with throughput.paused():
        clock(30)
    found = throughput.window(11)
    assert found["images_per_second"] == pytest.approx(64.0) and found["images_per_second_per_chip"] == 16.0
    assert found["mfu"] == pytest.approx(16 * 3e9 / 1e12)
    assert found["data_wait"] == pytest.approx(0.2)
    assert found["productive"] == pytest.approx(8 / 60)
    clock(40)
    assert throughput.window(12)["productive"] == pytest.approx(48 / 100), "of all time since the run began"
    assert throughput.window(12) == {}


@pytest.mark.parametrize(("dtype", "has_mfu"), [("bfloat16", True), ("float32", False)])
def test_a_run_in_bfloat16_logs_its_share_of_the_peak(monkeypatch, dtype, has_mfu):
    monkeypatch.setattr(open_run, "peak_flops", lambda kind: 1e12)
    batch = {"image": jax.ShapeDtypeStruct((16, 8, 8, 3), np.uint8)}
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    throughput = open_run._throughput(tiny_experiment(model__dtype=dtype), batch, mesh, 0.0, lambda: 1e9)
    assert ("mfu" in throughput.window(1)) == has_mfu


def test_operations_are_counted_where_there_is_a_peak(monkeypatch):
    batch = {"image": jax.ShapeDtypeStruct((16, 8, 8, 3), np.uint8)}
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    experiment, seen = tiny_experiment(model__dtype="bfloat16"), []
    monkeypatch.setattr(open_run, "Throughput", lambda *args: seen.append(args[2:4]))
    open_run._throughput(experiment, batch, mesh, 0.0, lambda: pytest.fail("there is no peak here"))
    monkeypatch.setattr(open_run, "peak_flops", lambda kind: 1e12)
    open_run._throughput(experiment, batch, mesh, 0.0, lambda: 100.0)
    assert seen == [(None, None), (100.0, 1e12)]


def test_a_sharpness_aware_step_is_two_gradients():
    """In the log of a run as in plans and benchmarks."""
    flops = [
        rehearse(tiny_config(model__depth=1, **more), 10, jax.devices()[:1]).training_flops()
        for more in ({}, {"optim__sam": "{}"})
    ]
    assert flops[1] == 2 * flops[0] > 0


def test_without_a_known_peak_there_is_no_mfu():
    throughput = Throughput(8, flops=1e9)
    time.sleep(0.001)
    assert "mfu" not in throughput.window(1)


@pytest.mark.long
def test_a_run_logs_them(tmp_path):
    tiny_run(tmp_path, devices=2)
    row = next(row for row in reversed(read_metrics(tmp_path)) if "images_per_second" in row)
    assert row["images_per_second_per_chip"] == pytest.approx(row["images_per_second"] / 2, rel=1e-4)
    assert 0 <= row["data_wait"] <= 1 and 0 < row["productive"] < 1


@pytest.mark.long
def test_a_step_is_over_before_an_evaluation_begins(monkeypatch, tmp_path):
    """Its time counts; with an evaluation after each step nothing would be left to count."""
    wait, awaited, over = jax.block_until_ready, [], []
    monkeypatch.setattr(jax, "block_until_ready", lambda tree: awaited.append(tree) or wait(tree))

    class Noted(Throughput):
        def waiting(self, running):
            self.running = running
            return super().waiting(running)

        def paused(self):
            over.append(awaited[-1] is self.running)
            return super().paused()

    monkeypatch.setattr(open_run, "Throughput", Noted)
    tiny_run(tmp_path, steps=5, log_every=5, eval_every=1)
    assert over[:4] == [True] * 4
