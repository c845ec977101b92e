"""Evaluation counts every example exactly once, whatever the batch size and the number of devices."""

import jax
import numpy as np
import pytest

from tests.tiny import tiny_config
from vit_jax import UserError
from vit_jax.training.evaluation import Evaluation, build_evaluators
from vit_jax.training.inputs import build_inputs
from vit_jax.training.sharding import make_mesh

SOURCE = {"name": "digits", "split": "test"}  # 355 images, which no batch size below divides


def evaluate(batch_size, devices, outputs, **changes):
    values = tiny_config(data__eval_batch_size=batch_size, **changes)
    evaluators = build_evaluators(
        {"val": {"name": "classification", "source": SOURCE}}, build_inputs(values["data"]), 16
    )
    mesh = make_mesh({}, jax.devices()[:devices])
    return Evaluation(evaluators, outputs, lambda batch: batch, mesh).run({})


def test_exact_counts_and_metrics():
    def outputs(variables, batch):
        return {"logits": 3.0 * jax.nn.one_hot(batch["index"] % 10, 10)}

    from vit_jax.data.sources import digits

    source = digits.build("test")
    labels = np.array([source[i]["label"] for i in range(355)])
    right = labels == np.arange(355) % 10
    normaliser = np.log(np.exp(3.0) + 9)
    for batch_size, devices in ((16, 1), (100, 4), (64, 8), (512, 8)):
        metrics = evaluate(batch_size, devices, outputs)
        assert metrics["val/examples"] == 355
        assert metrics["val/accuracy"] == pytest.approx(right.mean())
        assert metrics["val/loss"] == pytest.approx((normaliser - 3.0 * right).mean(), rel=1e-5)


def test_a_label_without_a_class():
    with pytest.raises(UserError, match="labels that the model has no class for"):
        evaluate(64, 1, lambda variables, batch: {"logits": jax.nn.one_hot(batch["label"], 4)})


def test_an_output_that_the_task_lacks():
    with pytest.raises(UserError, match="'val' needs 'logits', which this task does not give. It gives samples"):
        evaluate(64, 1, lambda variables, batch: {"samples": batch["image"]})


def test_batch_that_the_devices_cannot_split():
    with pytest.raises(UserError, match="100 examples does not divide over 8 devices"):
        evaluate(100, 8, lambda variables, batch: {"logits": jax.nn.one_hot(batch["label"], 10)})
