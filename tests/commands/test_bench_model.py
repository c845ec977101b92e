"""The bench runs what it says, reports it whole, and refuses what it cannot run."""

import json
import time

import jax
import pytest

from benchmarks.gpu.kernels import top_kernels
from vit_jax.commands import bench_model
from vit_jax.commands.main import main
from vit_jax.training import chips
from vit_jax.training.units import IMAGES

TINY = ["--rounds", "3", "--warmup", "1", "--classes", "7", "--batch-size", "8"]
ONE_BLOCK = "--config.model.depth=1"


def test_speeds_are_of_the_timed_steps_alone(monkeypatch):
    """Of steps of 2, 4 and 8 seconds after two that do not count."""
    clock, calls = iter([0, 50, 100, 102, 102, 106, 106, 114]), []
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    seconds = bench_model.seconds_of(lambda: calls.append(0), rounds=3, warmup=2)
    assert seconds == [2, 4, 8] and len(calls) == 5
    found = bench_model.speeds(seconds, 8, IMAGES)
    assert found == {
        "images_per_second": 2, "images_per_second_min": 1, "images_per_second_max": 4, "seconds_per_step": 4,
        "seconds_per_step_std": pytest.approx(2.494438, abs=1e-6),
    }  # fmt: skip
    found |= {"peak_bytes": 3 << 20, "compile_seconds": 1.5}
    model = bench_model.variant_config("mu/8")["model"]
    results = {"device": "cpu", "devices": 1, "model": model, "parameters": 1234, "batch_size": 8, "image_size": [16, 16],
               "rounds": 3, "loader": {"skipped": "no data"}, "train": found, "inference": found}  # fmt: skip
    said = bench_model.show(results)
    assert "mu/8, 1,234 parameters, batch 8 at 16x16, 1 cpu, median of 3" in said and "Data: no data" in said
    assert "1.0 to 4.0" in said and "3 MiB" in said and "MFU" not in said


@pytest.mark.long
def test_a_variant_is_timed(capsys):
    argv = ["bench", "--variant", "mu/8", "--image-size", "16", *TINY, ONE_BLOCK, "--config.model.pooling=mean"]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "mu/8" in out and "images/s" in out and "batch 8 at 16x16" in out
    assert main([*argv, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    for name in ("train", "inference"):
        found = results[name]
        speeds = [found[f"images_per_second{end}"] for end in ("_min", "", "_max")]
        assert 0 < speeds[0] <= speeds[1] <= speeds[2]
        assert found["seconds_per_step"] == pytest.approx(8 / speeds[1], rel=0.01)
        assert found["compile_seconds"] > 0 and found["seconds_per_step_std"] >= 0
        assert found["peak_bytes"] > 4 * results["parameters"] and found["peak_bytes_from"] == "compiler"
        assert "mfu" not in found  # a CPU's peak is not in the table
    assert results["model"]["pooling"] == "mean" and results["parameters"] > 5_000
    assert results["train"]["flops_per_image"] == 3 * results["inference"]["flops_per_image"]


@pytest.mark.long
def test_a_config_is_timed_without_its_data(capsys):
    assert main(["bench", "--config", "digits:smoke", *TINY, ONE_BLOCK, "--config.data.train.name=gone", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert "no source named 'gone'" in results["loader"]["skipped"]
    assert results["batch_size"] == 8 and results["image_size"] == [16, 16] and results["model"]["width"] == 64


@pytest.mark.parametrize(
    ("config", "factor"),
    [
        pytest.param("simclr_i1k:model=mu/16,smoke", 6, marks=pytest.mark.slow),
        ("moco_v3_i1k:variant=mu/16,smoke", 8),
    ],
)
@pytest.mark.long
def test_a_task_with_two_views_is_timed_and_counted(capsys, config, factor):
    argv = ["bench", "--config", config, *TINY, "--config.data.image_size=(32,32)", "--config.model.dtype=float32"]
    assert main([*argv, "--config.task.hidden=32" if "moco" in config else "--config.task.head_out=8", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    # MoCo v3's projection of patches is frozen: no gradient of its weights, of 4 patches by 768 by 32, in both views.
    spared = 2 * 2 * 4 * 768 * 32 if "moco" in config else 0
    assert results["train"]["flops_per_image"] == factor * results["inference"]["flops_per_image"] - spared
    assert results["train"]["images_per_second"] > 0


@pytest.mark.long
def test_loader_and_trace(capsys, tmp_path):
    argv = ["bench", "--config", "digits:smoke", *TINY, "--profile", str(tmp_path), ONE_BLOCK]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "Data: " in out and "images/s" in out.split("Data: ")[1] and f"xprof --logdir {tmp_path}" in out
    [trace] = tmp_path.rglob("*.xplane.pb")
    planes = jax.profiler.ProfileData.from_file(str(trace)).planes
    steps = {event.name for plane in planes for line in plane.lines for event in line.events}
    assert "train" in steps
    # What benchmarks/gpu.sh makes of the same trace.
    found = top_kernels(tmp_path, 5)
    assert len(found["kernels"]) == 5 and 0 < sum(k["share"] for k in found["kernels"]) < 1
    assert found["kernels"] == sorted(found["kernels"], key=lambda k: -k["seconds"]) and found["seconds"] > 0


def _check_plan(results):
    """The plan's figures are of the step that was timed; no step is faster."""
    planned = results["train"]["plan"]
    assert planned["peak_bytes"] == results["train"]["peak_bytes"], "a CPU's peak is the compiler's too"
    assert planned["step_seconds"] == pytest.approx(
        sum(k["seconds"] for k in planned["kernels"] if k["kind"] != "collective")
    )
    assert 0 < planned["step_seconds"] < results["train"]["seconds_per_step"]


@pytest.mark.long
def test_mfu_is_of_the_bfloat16_peak(capsys, monkeypatch):
    monkeypatch.setattr(chips, "peak_flops", lambda kind: 1e12)
    monkeypatch.setattr(chips, "chip_of", lambda kind: chips.GPUS["h100"])
    argv = ["bench", "--variant", "mu/8", "--image-size", "16", *TINY, "--config.model.dtype=bfloat16"]
    assert main([*argv, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    _check_plan(results)
    assert "planned" in bench_model.show(results)
    train = results["train"]
    expected = train["flops_per_image"] * train["images_per_second"] / (1e12 * results["devices"])
    assert train["mfu"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_a_config_that_counts_in_epochs_and_mixes(capsys):
    small = ["--config.model.variant=mu/16", "--config.model.representation_size=none", "--image-size", "32"]
    assert main(["bench", "--config", "vit_i1k", *TINY, *small, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["train"]["images_per_second"] > 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "either --config or --variant"),
        (["--variant", "mu/8", "--config", "digits"], "either --config or --variant"),
        (["--variant", "mu8"], "There is no ViT 'mu8'"),
        (["--variant", "mu/16", "--image-size", "24", *TINY], "does not divide into patches"),
        (["--variant", "mu/8", "--batch-size", "7"], "7 examples does not divide"),
        (["--variant", "mu/8", "--rounds", "0"], "--rounds is 0"),
    ],
)
def test_mistakes(capsys, argv, message):
    assert main(["bench", *argv]) == 2
    assert message in capsys.readouterr().err
