"""The steps of the contrastive methods, many ways: devices and interruption must not change what is learnt."""

import json

import jax
import numpy as np
import pytest

from tests.tiny_contrastive import RESNET, VIT, contrastive_run
from vit_jax import UserError
from vit_jax.checkpoints.steps import find
from vit_jax.checkpoints.store import read_params

# As in test_equivalence: Adam scales rounding up to full steps.
SGD = {"optim__name": "sgd", "optim__learning_rate": 0.05, "optim__clip_norm": 1.0}
LARS = {"optim__name": "lars", "optim__learning_rate": 0.3, "optim__weight_decay": 1e-4}
CASES = {"simclr-resnet": ("simclr", RESNET, LARS), "moco_v3-vit": ("moco_v3", VIT, SGD)}


def saved(workdir, product="params"):
    params, state = read_params(find(workdir), product)
    return jax.tree.map(np.asarray, {"params": params, "state": state})


def losses(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row["train/loss"] for row in rows if "train/loss" in row]


@pytest.mark.parametrize("task", ["simclr", "moco_v3"])
def test_gradients_are_not_accumulated(tmp_path, task):
    """Each example is compared with the others of its batch, so that parts of one are another loss."""
    with pytest.raises(UserError, match="cannot accumulate gradients: .* batch"):
        contrastive_run(tmp_path / "run", task, VIT, **SGD, model__depth=1, microbatch=4)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.slow if "simclr" in c else ()) for c in CASES])
@pytest.mark.long
def test_devices_accumulation_and_resuming(tmp_path, case):
    task, model, optim = CASES[case]
    contrastive_run(tmp_path / "one", task, model, **optim, steps=4, log_every=1)
    expected = saved(tmp_path / "one")
    assert len(losses(tmp_path / "one")) == 4 and np.isfinite(losses(tmp_path / "one")).all()

    contrastive_run(tmp_path / "eight", task, model, devices=8, **optim, steps=4, log_every=1)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4), saved(tmp_path / "eight"), expected
    )
    np.testing.assert_allclose(losses(tmp_path / "eight"), losses(tmp_path / "one"), rtol=1e-3)

    for stop in (2, 4):
        contrastive_run(tmp_path / "parts", task, model, **optim, steps=4, stop_at=stop, log_every=1)
    for product in ("params", "ema") if task == "moco_v3" else ("params",):
        jax.tree.map(
            np.testing.assert_array_equal, saved(tmp_path / "parts", product), saved(tmp_path / "one", product)
        )
