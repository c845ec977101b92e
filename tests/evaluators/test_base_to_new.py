"""Base classes among base classes, new ones among new ones."""

import jax
import jax.numpy as jnp
import pytest

from tests.tiny import tiny_config
from vit_jax import UserError
from vit_jax.evaluators import Answers
from vit_jax.training.evaluation import Evaluation, build_evaluators, judging
from vit_jax.training.inputs import build_inputs
from vit_jax.training.sharding import make_mesh

SOURCE = {"name": "digits", "split": "test", "per_class": 7}


def evaluate(logits, **source):
    values = tiny_config(data__eval_batch_size=16)
    inputs = build_inputs(values["data"])
    evaluators = build_evaluators({"val": {"name": "base_to_new", "source": SOURCE | source}}, inputs, 16)
    names = tuple(map(str, range(10)))
    evaluators = judging(Answers(names), evaluators)
    outputs = lambda variables, batch, names, rng: {"logits": logits(batch["label"])}  # noqa: E731
    evaluation = Evaluation(evaluators, outputs, inputs.on_device_eval(), make_mesh({}, jax.devices()[:1]))
    return {name.partition("/")[2]: value for name, value in evaluation.run({}).items()}


def test_each_half_is_judged_by_itself():
    """All base images but those of 0 are right, of the new ones those of 9 alone; each is most like a class of the other
    half, which does not count."""

    def logits(label):
        one_hot = jax.nn.one_hot
        answer = jnp.where(label == 0, 1, jnp.where(label < 5, label, 9))
        other = jnp.where(label < 5, 7, 2)
        return one_hot(answer, 10) + 5 * one_hot(other, 10)

    found = evaluate(logits)
    assert found["base"] == pytest.approx(4 / 5) and found["new"] == pytest.approx(1 / 5)
    assert found["harmonic_mean"] == pytest.approx(2 * 0.8 * 0.2 / 1.0)


def test_nothing_right_is_a_mean_of_zero():
    assert evaluate(lambda label: -jax.nn.one_hot(label, 10))["harmonic_mean"] == 0


def test_a_half_without_examples():
    with pytest.raises(UserError, match="no example of a new class"):
        evaluate(lambda label: jnp.zeros((*label.shape, 10)), classes=[0, 1, 2, 3, 4])


def test_one_class_has_no_new_ones():
    inputs = build_inputs(tiny_config()["data"])
    evaluators = build_evaluators({"val": {"name": "base_to_new", "source": SOURCE}}, inputs, 16)
    with pytest.raises(UserError, match="no new class"):
        judging(Answers(("0",)), evaluators)
