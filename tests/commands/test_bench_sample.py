"""`vit_jax bench sample` and `vit_jax plan --sample`: what a toy generator costs, counted by hand."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from tests import toy_generator
from vit_jax.commands.main import main
from vit_jax.nn.platform import platform
from vit_jax.planning import sampler

STEP = 2 * 8 * 8 * 8 * 3  # operations of the toy's one product


@pytest.fixture(scope="module", autouse=True)
def toys():
    with toy_generator.toys():
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    values = toy_generator.config(folder) | {"evals": {}}
    (folder / "toy.py").write_text(f"def get_config(arg=''):\n    return {values!r}\n")
    return str(folder / "toy.py")


def test_with_its_cache_and_without(config, capsys):
    argv = ["bench", "sample", "--config", config, "--classes", "2", "--steps", "3", "--batch-size", "12", "--json"]
    assert main([*argv, "--rounds", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    # On the eight devices of the tests, filled up.
    assert (found["task"], found["parameters"], found["batch_size"]) == ("toy_generator", 3 * 8 * 8 * 3, 16)
    assert found["settings"] == {"guidance": 0.0, "temperature": 1.0, "steps": 3, "cache": True}
    cached, bare = (found["timed"][f"with{end} cache"] for end in ("", "out"))
    assert cached["flops_per_image"] == 3 * STEP and bare["flops_per_image"] == 6 * STEP
    assert (cached["tokens"], cached["passes"], cached["cache_bytes_of_batch"]) == (64, 3, 16 * 1024)
    assert "cache_bytes_of_batch" not in bare
    for each in (cached, bare):
        assert 0 < each["images_per_second_min"] <= each["images_per_second"] <= each["images_per_second_max"]
        assert each["tokens_per_second"] == pytest.approx(64 * each["images_per_second"], rel=1e-3)


@pytest.mark.long
def test_a_checkpoint_in_a_table(capsys):
    argv = ["bench", "sample", "--checkpoint", str(toy_generator.workdir()), "--guidance=0.5", "--prompt", "1"]
    assert main([*argv, "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    assert (
        "toy_generator, 576 parameters, batch 16, 8 cpu, median of 1\nguidance 0.5, temperature 1.0, steps 2" in printed
    )
    assert "without cache" in printed and "times as fast as without." in printed


def test_planned_without_weights(config, capsys):
    argv = ["plan", "--config", config, "--topology", "cpu:2", "--sample", "--classes", "2", "--steps", "4"]
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["batch_size"] == 16 and found["flops_per_image"] == 4 * STEP and found["flops"] == 8 * 4 * STEP
    assert (found["tokens"], found["passes"], found["cache_bytes"]) == (64, 4, 1024)
    assert found["fits"] and found["images_per_second"] > 0 and found["settings"]["steps"] == 4
    assert main(argv) == 0
    assert "It fits." in capsys.readouterr().out


def test_a_sampler_is_traced_for_the_planned_device(monkeypatch):
    """Whatever runs here: what attention is computed by depends on it."""
    traced = []
    program = SimpleNamespace(lower=lambda *_: traced.append(platform()) or program, compile=lambda **_: program)
    program.trace = lambda *_: SimpleNamespace(jaxpr=jax.make_jaxpr(lambda: ())())
    monkeypatch.setattr(sampler, "drawing", lambda *_: program)
    monkeypatch.setattr(sampler, "shapes_of", lambda *_: ({}, np.zeros(3)))
    for name in ("tpu", "cpu"):
        rows = SimpleNamespace(mesh=SimpleNamespace(devices=np.array([SimpleNamespace(platform=name)])))
        assert sampler.compiled_sampler(None, {}, None, 3, rows)[::2] == (program, 3)
    assert traced == ["tpu", "cpu"]


@pytest.mark.parametrize(
    "argv, message",
    [
        (["bench", "sample"], "There is nothing to bench, or too much. Give either --checkpoint or --config"),
        (["bench", "sample", "--config", "CONFIG", "--rounds", "0"], "--rounds is 0"),
        (["bench", "sample", "--config", "CONFIG", "--classes", "2", "--top-k", "3"], "has no --top-k. It takes --gui"),
        (["bench", "sample", "--config", "digits"], "The task 'classify' generates nothing. Use a checkpoint of a gen"),
        (["plan", "--config", "digits", "--topology", "cpu:1", "--sample"], "The task 'classify' generates nothing"),
        (["plan", "--config", "CONFIG", "--topology", "cpu:1", "--steps", "3"], "'vit_jax plan' has no flag --steps"),
        (["plan", "--config", "CONFIG", "--topology", "cpu:1", "--sample", "--sweep"], "both --sample and --sweep"),
        (["plan", "--config", "CONFIG", "--topology", "cpu:1", "--sample", "--zap=1"], "'toy_generator' has no --zap"),
    ],
)
def test_what_cannot_be_is_one_sentence(config, argv, message, capsys):
    assert main([config if each == "CONFIG" else each for each in argv]) == 2
    assert message in capsys.readouterr().err
