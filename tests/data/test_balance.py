"""Balanced training: every class equally often, as a function of seed and step, whatever reads and restarts."""

import numpy as np
import pytest

from tests.tiny import tiny_experiment
from vit_jax.data.decode import UnreadableImage
from vit_jax.data.order import Mixture, class_counts
from vit_jax.data.pipeline import TrainPipeline
from vit_jax.data.sources.arrays import ArraySource
from vit_jax.data.sources.manifest import ManifestSource
from vit_jax.errors import UserError

LABELS = np.repeat([0, 1, 3], [90, 9, 1])  # class 2 has no example
rng = np.random.default_rng(0)
LABELS = LABELS[rng.permutation(100)]


def images(n, first=0):
    return np.broadcast_to(np.arange(first, first + n)[:, None, None, None], (n, 2, 2, 3)).astype(np.uint8)


def pipeline(source=None, **options):
    source = source or ArraySource(images(100), LABELS, list("abcd"))
    return TrainPipeline(
        source, lambda example, rng: example, **{"batch_size": 12, "seed": 5, "balance": True} | options
    )


def rows(batch):
    return batch["image"][:, 0, 0, 0].tolist()


def test_every_class_is_as_frequent_and_goes_through_epochs():
    batches = [pipeline().batch(step) for step in range(45)]
    for batch in batches:
        assert np.bincount(batch["label"], minlength=4).tolist() == [4, 4, 0, 4]
        assert batch["label"].tolist() == LABELS[rows(batch)].tolist()
    seen = np.array([index for batch in batches for index in rows(batch)])  # 180 examples a class
    for label, times in ((0, 2), (1, 20), (3, 180)):
        counts = np.bincount(seen[LABELS[seen] == label], minlength=100)[label == LABELS]
        assert counts.tolist() == [times] * (label == LABELS).sum()


def test_the_order_is_random_and_the_seeds():
    orders = {tuple(pipeline(batch_size=3).batch(step)["label"].tolist()) for step in range(40)}
    assert len(orders) == 6
    assert rows(pipeline(seed=6).batch(0)) != rows(pipeline().batch(0))
    assert sorted(rows(pipeline(batch_size=270).batch(0))) == sorted(rows(pipeline(batch_size=270, seed=6).batch(0)))


def test_a_function_of_the_step_for_any_slices_and_start():
    train = pipeline()
    wanted = rows(train.batch(7))
    assert rows(pipeline().batch(7)) == wanted
    with train.iterate(start_step=6) as batches:
        next(batches)
        assert rows(next(batches)) == wanted
    assert [row for i in range(3) for row in rows(train.batch(7, slices=3, index=i))] == wanted
    twice = pipeline(repeats=2).batch(0)
    assert twice["label"][::2].tolist() == twice["label"][1::2].tolist()


class Spoilt(ArraySource):
    def __getitem__(self, index):
        if index % 2:
            raise UnreadableImage("bad", "replace it")
        return super().__getitem__(index)


def test_an_unreadable_image_is_replaced_within_its_class():
    labels = np.arange(20) // 10
    batch = pipeline(Spoilt(images(20), labels, ["a", "b"]), batch_size=40).batch(0)
    assert np.bincount(batch["label"]).tolist() == [20, 20] and 5 < batch["corrupt"].sum() < 35


def test_several_labels_and_none():
    """Images 0 to 2 have the label a, 2 has b too, and 3 none: a, b and none come equally often."""
    source = ManifestSource(list("wxyz"), [[0], [0], [0, 1], []], ["a", "b"], multi_label=True)
    elements = pipeline(source)._elements._order
    drawn = [next(elements.candidates(element)) for element in range(3 * 120)]  # 120 times each
    assert np.bincount(drawn).tolist() == [40, 40, 160, 120]


def test_each_part_of_a_mixture_by_itself():
    parts = [ArraySource(images(40), np.arange(40) // 30, ["a", "b"]), ArraySource(images(10, 100), np.arange(10) // 9, ["a", "b"])]  # fmt: skip
    batch = pipeline(Mixture(parts, (0.75, 0.25)), batch_size=16).batch(0)
    first = np.array(rows(batch)) < 100
    assert np.bincount(batch["label"][first]).tolist() == [6, 6] and np.bincount(batch["label"][~first]).tolist() == [
        2,
        2,
    ]


def test_a_source_that_would_have_to_be_read():
    class Records:
        label_names = ("a",)

        def __len__(self):
            return 1

    with pytest.raises(UserError, match="know all labels before it starts"):
        pipeline(Records())
    with pytest.raises(UserError, match="weights need all labels before training.*Give a number for each class"):
        class_counts(Records())


def test_how_many_each_class_has():
    one = ArraySource(images(100), LABELS, list("abcd"))
    assert class_counts(one) == (90, 9, 0, 1)
    several = ManifestSource(list("wxyz"), [[0], [0], [0, 1], []], ["e", "a"], multi_label=True)
    assert class_counts(several) == (3, 1)
    several.labels = [0, 1, 1, 0]  # as pairs of images and texts have them
    assert class_counts(several) == (2, 2)
    several.labels = [(0,), (0,), (0, 1), ()]
    assert class_counts(Mixture([one, several], (0.9, 0.1))) == (91, 9, 0, 1, 3)


def test_the_option():
    train = tiny_experiment(data__balance=True, data__train__per_class=None).pipeline
    assert np.bincount(train.batch(0)["label"], minlength=10).max() == 2  # ten classes in a batch of 16
