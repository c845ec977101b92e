"""Sources that live in memory."""

import numpy as np
import pytest

from vit_jax.data.sources import arrays, digits
from vit_jax.errors import UserError
from vit_jax.naming import named_module


def test_digits_split_every_class_without_overlap():
    train, test = digits.build("train"), digits.build("test")
    assert (len(train), len(test)) == (1442, 355)
    assert train.label_names == test.label_names == tuple("0123456789")
    assert np.bincount(test.labels).min() >= 34
    everything = np.concatenate([train.images, test.images])
    assert everything.shape == (1797, 8, 8, 3) and everything.max() == 255
    assert len(np.unique(everything.reshape(1797, -1), axis=0)) == 1797  # no image is twice in the set


def test_digits_example():
    example = digits.build("train")[5]
    assert example["image"].shape == (8, 8, 3) and example["image"].dtype == np.uint8
    assert example["label"] == 0 and isinstance(example["label"], int)


def test_digits_classes_are_renumbered_in_their_order():
    some = digits.build("train", classes=[7, 2])
    assert some.label_names == ("7", "2")
    full = digits.build("train")
    np.testing.assert_array_equal(some.images[some.labels == 0], full.images[full.labels == 7])
    np.testing.assert_array_equal(some.images[some.labels == 1], full.images[full.labels == 2])


def test_digits_per_class():
    few = digits.build("train", per_class=3)
    np.testing.assert_array_equal(np.bincount(few.labels), [3] * 10)


@pytest.mark.parametrize(
    "wrong",
    [
        {"split": "val"},
        {"split": "train", "classes": (1, 1)},
        {"split": "train", "classes": (10,)},
        {"split": "train", "classes": ()},
        {"split": "train", "per_class": 0},
    ],
)
def test_digits_refuse(wrong):
    with pytest.raises(UserError):
        digits.build(**wrong)


def test_arrays_from_a_file(tmp_path):
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    path = str(tmp_path / "set.npz")
    np.savez(path, images=images, labels=[1, 0], label_names=["cat", "dög"])
    source = arrays.build(path)
    assert source.label_names == ("cat", "dög") and len(source) == 2
    assert source[0]["label"] == 1
    np.testing.assert_array_equal(source[1]["image"], images[1])
    np.savez(path, images=images, labels=[1, 0])
    assert arrays.build(path).label_names == ("0", "1")


def test_arrays_refuse_other_files(tmp_path):
    path = tmp_path / "set.npz"
    with pytest.raises(UserError, match=r"set\.npz"):
        arrays.build(str(path))
    np.savez(path, x=np.zeros(3))
    with pytest.raises(UserError, match="holds the arrays"):
        arrays.build(str(path))
    whole = path.read_bytes()
    for content in (b"", b"junk", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="could not be read"):
            arrays.build(str(path))
    np.savez(path, images=np.array([{}], object), labels=[0])
    with pytest.raises(UserError, match="could not be read"):
        arrays.build(str(path))
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UserError, match="holds the arrays"):
        arrays.build(str(path))


def test_arrays_refuse_what_does_not_fit_together():
    images, labels = np.zeros((2, 4, 4, 3), np.uint8), np.array([0, 1])
    arrays.ArraySource(images, labels, ["a", "b"])
    for wrong in (
        (images.astype(np.float32), labels, ["a", "b"]),
        (images[..., :1], labels, ["a", "b"]),
        (images, labels[:1], ["a", "b"]),
        (images, labels.astype(float), ["a", "b"]),
        (images, labels, ["a"]),
        (images, labels - 1, ["a", "b"]),
    ):
        with pytest.raises(UserError):
            arrays.ArraySource(*wrong)


def test_every_source_and_transform_is_found_by_name():
    for name in ("arrays", "digits", "folder", "idx", "manifest", "mixture", "tfds"):
        assert callable(named_module("source", name).build)
    assert callable(named_module("transform", "supervised").build)
