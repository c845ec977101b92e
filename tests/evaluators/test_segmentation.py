"""The evaluator of class maps: its matrix and its numbers against loops, on one device and on eight."""

import jax
import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.evaluators import Answers
from vit_jax.evaluators.segmentation import Segmentation, counted, scores


def drawn(seed=0, count=4):
    rng = np.random.default_rng(seed)
    label, found = (rng.integers(0, count - 1, (8, 5, 7)) for _ in range(2))  # the last class never occurs
    found[0, 0, :2] = count - 2
    there = rng.random((8, 5, 7)) < 0.8
    return np.where(there, label, 255).astype(np.int32), found.astype(np.int32), there


def by_loop(label, found, count):
    """IoU of each class that occurs, and recalls: pixel by pixel."""
    either, both, of = ([0] * count for _ in range(3))
    right = total = 0
    for wanted, got in zip(label.reshape(-1), found.reshape(-1), strict=True):
        if wanted == 255:
            continue
        total, right = total + 1, right + (wanted == got)
        of[wanted] += 1
        if wanted == got:
            both[wanted] += 1
            either[wanted] += 1
        else:
            either[wanted] += 1
            either[got] += 1
    return {
        "miou": np.mean([b / e for b, e in zip(both, either, strict=True) if e]),
        "pixel_accuracy": right / total,
        "mean_accuracy": np.mean([b / n for b, n in zip(both, of, strict=True) if n]),
        "pixels": total,
    }


def test_the_numbers_are_those_of_a_loop_and_of_any_number_of_devices():
    label, found, there = drawn()
    count = jax.jit(counted, static_argnums=3)
    confusion = np.asarray(count(label, found, there, 4), np.int64)
    assert scores(confusion) == pytest.approx(by_loop(label, found, 4), rel=1e-12)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    spread = (jax.device_put(x, rows) for x in (label, found, there))
    np.testing.assert_array_equal(count(*spread, 4), confusion)


def test_a_set_without_a_class_is_an_error_and_not_a_number():
    with pytest.raises(UserError, match="No pixel of the evaluation data has a class"):
        scores(np.zeros((3, 3), np.int64))


def test_classes_of_another_model_are_refused():
    class Pipeline:
        class source:
            label_names = ("sky", "sea")

    with pytest.raises(UserError, match="has no class 'sea' among its 2"):
        Segmentation(Pipeline()).judging(Answers(("sky", "land")))
    with pytest.raises(UserError, match="in another order"):
        Segmentation(Pipeline()).judging(Answers(("sea", "sky")))
    Segmentation(Pipeline()).judging(Answers(("sky", "sea")))
