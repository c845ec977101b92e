"""A run on texts says its speed in examples and tokens, everywhere; one on images says what it always did."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import vit_jax.tasks
from vit_jax.commands import bench_model
from vit_jax.commands.main import main
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.planning.rehearsal import rehearse
from vit_jax.training.config import override
from vit_jax.training.experiment import build_experiment
from vit_jax.training.metrics import read_metrics
from vit_jax.training.open_run import _throughput
from vit_jax.training.units import Units, examples_of, units_of

TEXT = {"name": "tokens", "length": 12}


def shapes(**sizes):
    return {name: jax.ShapeDtypeStruct(size, np.int32) for name, size in sizes.items()}


def test_what_is_counted_is_in_the_batch():
    """Not what a field says of itself: a batch may have another length, or several texts of an example."""
    fields = build_fields({"text": TEXT, "target": TEXT, "label": {"name": "classes"}}, Context())
    batch = shapes(text=(4, 20), target=(4, 3, 8), label=(4,))
    assert units_of(batch, fields) == Units("examples", 44)
    assert units_of({**batch, "image": None}, fields) == Units("images", 44)
    assert (
        units_of(shapes(image=(4, 8, 8, 3), label=(4,)), build_fields({"label": {"name": "classes"}}, Context()))
        == Units()
    )


def test_the_names_of_a_speed():
    found = Units("examples", 10).per_second(2.5, "_min")
    assert found == {"examples_per_second_min": 2.5, "tokens_per_second_min": 25.0}
    assert Units().per_second(2.5) == {"images_per_second": 2.5}
    assert Units("examples", 10).per_second(None) == {"examples_per_second": None, "tokens_per_second": None}
    assert examples_of(Units().per_second(1.0)) == "images" and examples_of({"examples_per_second": 1}) == "examples"


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """The plain config of a run on texts alone."""
    toys = Path(__file__).parents[1] / "toys" / "tasks"
    monkeypatch.setattr(vit_jax.tasks, "__path__", [*vit_jax.tasks.__path__, str(toys)])
    lines = np.array([f"text number {i}"[:10] for i in range(32)])
    np.savez(tmp_path / "texts.npz", text=lines, labels=np.zeros(32, np.int32))
    return {
        "seed": 0, "steps": 2, "batch_size": 8, "log_every": 1, "task": {"name": "toy_next_token"},
        "data": {
            "train": {"name": "arrays", "path": str(tmp_path / "texts.npz"), "fields": ["text"]},
            "fields": {"text": TEXT},
        },
        "optim": {"name": "sgd", "learning_rate": 0.1},
    }  # fmt: skip


def test_operations_are_asked_with_the_shapes_of_the_batch(texts):
    found = rehearse(texts, 1)
    size = found.task.table.features
    assert found.forward_flops() == 2 * 12 * size and found.training_flops() == 3 * found.forward_flops()
    shorter = rehearse(override(texts, {"data.fields.text.length": "6"}), 1)
    assert shorter.training_flops() == found.training_flops() / 2
    text = build_experiment(texts)
    row = _throughput(text, found.shapes, found.mesh, 0.0, found.training_flops).window(3)
    assert row["tokens_per_second_per_chip"] == pytest.approx(12 * row["examples_per_second_per_chip"])
    assert "images_per_second" not in row


@pytest.mark.long
def test_a_run_a_plan_and_a_bench_of_texts(texts, tmp_path, capsys):
    config = tmp_path / "config.py"
    config.write_text(f"def get_config(arg=''):\n    return {texts!r}\n")
    named = ["--config", str(config)]
    assert main(["train", *named, "--workdir", str(tmp_path / "run")]) == 0
    row = read_metrics(tmp_path / "run")[-1]
    assert row["tokens_per_second"] == pytest.approx(12 * row["examples_per_second"], rel=1e-5)
    assert not any("image" in key for key in row)
    capsys.readouterr()

    assert main(["plan", *named, "--topology", "cpu:1", "--no-cache"]) == 0
    out = capsys.readouterr().out
    assert "examples/s" in out and "tokens/s" in out and "images" not in out
    assert main(["plan", *named, "--topology", "cpu:1", "--no-cache", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokens_per_second"] == pytest.approx(12 * found["examples_per_second"]) and found["mfu"] > 0

    assert main(["bench", *named, "--rounds", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for name in ("train", "inference"):
        assert found[name]["tokens_per_second"] == pytest.approx(12 * found[name]["examples_per_second"], rel=1e-3)
    assert found["train"]["flops_per_example"] == 3 * found["inference"]["flops_per_example"]
    assert found["loader"]["tokens_per_second"] > 0
    out = bench_model.show(found)
    assert "examples/s" in out and "tokens/s" in out and "images" not in out
