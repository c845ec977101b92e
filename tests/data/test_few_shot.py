"""A few examples of each class: which, and what is refused."""

import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.data.sources import few_shot

DIGITS = {"name": "digits", "split": "train", "per_class": 6}


def test_so_many_of_each_class_and_the_same_ones_every_time():
    source = few_shot.build(source=DIGITS, shots=3, seed=1)
    assert len(source) == 30 and len(source.label_names) == 10
    np.testing.assert_array_equal(np.bincount(source.labels), [3] * 10)
    assert [source[i]["label"] for i in range(30)] == source.labels.tolist()
    again, other = (few_shot.build(source=DIGITS, shots=3, seed=seed) for seed in (1, 2))
    images = [np.stack([s[i]["image"] for i in range(30)]) for s in (source, again, other)]
    np.testing.assert_array_equal(images[0], images[1])
    assert (images[0] != images[2]).any()


def test_more_shots_keep_those_of_fewer_and_base_classes_those_of_all():
    one, two = (few_shot.build(source=DIGITS, shots=shots) for shots in (1, 2))
    base, new = (few_shot.build(source=DIGITS, shots=2, classes=classes) for classes in ("base", "new"))
    for i in range(10):
        np.testing.assert_array_equal(one[i]["image"], two[2 * i]["image"])
        part = base if i < 5 else new
        np.testing.assert_array_equal(part[2 * (i % 5)]["image"], two[2 * i]["image"])
    assert base.labels.max() == 4 and new.labels.min() == 5 and base.label_names == two.label_names


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"shots": 7}, "The class '.*' has 6 examples, fewer than the 7 shots"),
        ({"source": "digits"}, "takes examples of a source"),
    ],
)
def test_what_is_refused(change, sentence):
    with pytest.raises(UserError, match=sentence):
        few_shot.build(**{"source": DIGITS, "shots": 2, **change})


def test_a_source_without_classes_is_refused(tmp_path):
    np.savez(tmp_path / "texts.npz", text=np.array(["a", "b"]))
    texts = {"name": "arrays", "path": str(tmp_path / "texts.npz"), "fields": ["text"]}
    with pytest.raises(UserError, match="one class each"):
        few_shot.build(source=texts, shots=1)
