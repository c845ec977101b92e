"""One run, many ways: devices, meshes, accumulation and interruption must not change what is learnt."""

import json

import jax
import numpy as np
import pytest

from tests import test_task_contract as toys
from tests.tiny import tiny_run
from vit_jax.checkpoints.steps import find
from vit_jax.checkpoints.store import read_params
from vit_jax.training import sharding

# Not AdamW: the gradient of a key's bias is zero but for rounding, which Adam scales up to full steps.
SGD = {"optim__name": "sgd", "optim__learning_rate": 0.1, "optim__clip_norm": 1.0}


def _params(workdir):
    params, _ = read_params(find(workdir))
    return jax.tree.map(np.asarray, params)


def test_devices_change_nothing_of_a_linear_model(tmp_path):
    """Nor of its running statistics."""
    found = []
    for devices in (1, 8):
        task, workdir = toys.BatchNormClassifier(), tmp_path / str(devices)
        _, rows, params, state = toys.run(task, toys.points, workdir, devices, steps=2, log_every=1)
        found.append(({"params": params, **state}, [row["train/loss"] for row in rows if "train/loss" in row]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *found)
    assert len(found[0][1]) == 2


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("reference")
    tiny_run(workdir, **SGD)
    return workdir, _params(workdir)


@pytest.mark.parametrize(
    ("devices", "changes"),
    [
        (8, {}),
        pytest.param(8, {"mesh__data": 2, "mesh__fsdp": 4}, marks=pytest.mark.slow),
        (8, {"mesh__data": 2, "mesh__fsdp": 2, "mesh__tensor": 2}),
        (1, {"microbatch": 4}),
        pytest.param(4, {"microbatch": 8}, marks=pytest.mark.slow),
        pytest.param(
            8,
            {"mesh__data": 4, "mesh__tensor": 2, "model__scan": True, "model__remat": "full", "microbatch": 8},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["8x1x1", "2x4x1", "2x2x2", "accumulated", "accumulated on 4 devices", "scanned, accumulated, 4x2"],
)
@pytest.mark.long
def test_the_same_parameters(reference, tmp_path, monkeypatch, request, devices, changes):
    # So small that this model's parameters are split over fsdp at all.
    monkeypatch.setattr(sharding, "_MIN_FSDP_ELEMENTS", 64)
    workdir, expected = reference
    costs = request.config.pluginmanager.get_plugin("costs")
    before = costs.programs
    tiny_run(tmp_path, devices, **SGD, **changes)
    # Orbax would cut every leaf into a slice for each of its copies, by a program of each shape.
    assert costs.programs - before < 12
    got = _params(tmp_path)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5), got, expected)
    losses = [[row["train/loss"] for row in _rows(w) if "train/loss" in row] for w in (tmp_path, workdir)]
    np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    tiny_run(workdir)
    return _params(workdir)


@pytest.mark.long
def test_resuming_is_bitwise(uninterrupted, tmp_path):
    """After one, three and one more steps; `tests/test_systems.py` stops each task once."""
    for stop in (1, 4, 5):
        tiny_run(tmp_path, stop_at=stop)
    tiny_run(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, _params(tmp_path), uninterrupted)
    assert not np.array_equal(jax.tree.leaves(uninterrupted)[0], 0)


@pytest.mark.long
def test_a_checkpoint_holds_its_own_step_although_training_went_on(tmp_path):
    """Saving is asynchronous while the step donates its buffers: the saved state must not be the next one."""
    tiny_run(tmp_path / "on", checkpoint__every=1, checkpoint__keep=6)
    tiny_run(tmp_path / "stopped", stop_at=2)
    saved, _ = read_params(tmp_path / "on" / "checkpoints" / "2")
    jax.tree.map(np.testing.assert_array_equal, saved, _params(tmp_path / "stopped"))


@pytest.mark.long
def test_lines_after_the_restored_step_are_dropped(tmp_path):
    tiny_run(tmp_path, stop_at=4)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 5, "train/loss": 99.0}) + "\n" + '{"step": 6, "train/lo')
    tiny_run(tmp_path)
    rows = _rows(tmp_path)
    assert 99.0 not in [row.get("train/loss") for row in rows]
    assert [row["step"] for row in rows if "train/loss" in row] == [2, 4, 6]


@pytest.mark.long
def test_dropout_differs_between_microbatches_and_resumes(tmp_path):
    """With dropout the accumulated run draws other masks than the plain one, and resumes bit for bit."""
    changes = {"model__dropout_rate": 0.5, "model__drop_path_rate": 0.2, "microbatch": 8, "ema_decay": 0.9}
    changes |= {"data__mix__mixup": 0.2}
    tiny_run(tmp_path / "whole", **changes)
    tiny_run(tmp_path / "parts", stop_at=3, **changes)
    tiny_run(tmp_path / "parts", **changes)
    jax.tree.map(np.testing.assert_array_equal, _params(tmp_path / "parts"), _params(tmp_path / "whole"))


def _rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
