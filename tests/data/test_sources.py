"""Sources that live in memory."""

import warnings
import zipfile

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


def test_digits_some_of_which_are_rare():
    rare = digits.build("train", classes=[7, 2, 0], per_class=(9, 2, 1))
    assert np.bincount(rare.labels).tolist() == [9, 2, 1]
    np.testing.assert_array_equal(rare.images[:9], digits.build("train", classes=[7], per_class=9).images)
    for wrong, message in (((9, 2), "2 numbers for 3 classes"), ((9, 2, 0), "leaves no images")):
        with pytest.raises(UserError, match=message):
            digits.build("train", classes=[7, 2, 0], per_class=wrong)


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
    for kind in (np.int64, np.uint64, np.uint8):
        np.savez(path, images=images, labels=np.array([1, 0], kind))
        assert arrays.build(path).label_names == ("0", "1")


def test_arrays_refuse_other_files(tmp_path):
    path = tmp_path / "set.npz"
    with pytest.raises(UserError, match=r"set\.npz"):
        arrays.build(str(path))
    np.savez(path, x=np.zeros(3))
    with pytest.raises(UserError, match="holds no array 'images'"):
        arrays.build(str(path))
    whole = path.read_bytes()
    for content in (b"", b"junk", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="could not be read"):
            arrays.build(str(path))
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UserError, match="could not be read"):
        arrays.build(str(path))


PIXELS, TWO = np.zeros((2, 4, 4, 3), np.uint8), np.array([0, 1])


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"images": np.array([{}], object), "labels": TWO}, r"has the type '\|O'"),
        (
            {"images": PIXELS, "labels": np.array([0, 2**62])},
            "would have 4611686018427387905 classes, more than 1000000",
        ),
        ({"images": PIXELS, "labels": np.array([0, -1])}, "Labels run from -1"),
        ({"images": PIXELS, "labels": np.array(["a", "b"])}, "Labels must be integers"),
        ({"images": PIXELS, "labels": np.array(1)}, "Labels must be integers"),
        ({"images": PIXELS, "labels": TWO.astype("M8[s]")}, "has the type '<M8"),
        ({"images": PIXELS[:, :0], "labels": TWO}, r"these are uint8 \[2, 0, 4, 3\]"),
        ({"images": PIXELS, "labels": TWO, "label_names": np.array("a")}, "label_names in .* are <U1 "),
        ({"images": PIXELS, "labels": TWO, "label_names": np.zeros((2, 2))}, "label_names in .* are float64"),
    ],
)
def test_arrays_of_other_types_and_ranges_are_named(tmp_path, members, message):
    path = tmp_path / "set.npz"
    np.savez(path, **members)
    with pytest.raises(UserError, match=message):
        arrays.build(str(path))


def npy(header, data=b""):
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (
            npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (4000000000000,)}"),
            r"has the shape \(4000000000000,\), but",
        ),
        (npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (2,)}", b"123"), "has 3 bytes or more for 2"),
        (npy(b"{'descr': '<f5', 'fortran_order': False, 'shape': (2,)}"), "has the type '<f5'"),
        (npy(b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}"), "has the type"),
        (npy(b"{'descr': '<f4', 'fortran_order': 1, 'shape': [2]}"), r"has the shape \[2\]"),
        (npy(b"(" * 9000), "has a damaged header"),
        (npy(b"__import__('os').abort()"), "has a damaged header"),
        (b"\x93NUMPY\1\0\xff\xff", "has a header of 65535 bytes"),
        (b"\x93NUMPY\7\0", "is not an array of numpy's"),
    ],
)
def test_headers_of_arrays_are_checked_before_memory_is_set_aside(tmp_path, member, message):
    path = tmp_path / "set.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", member)
    with pytest.raises(UserError, match=message):
        arrays.build(str(path))


def test_archives_that_cannot_be_what_they_say(tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, images=PIXELS, labels=TWO)
    whole = path.read_bytes()
    entry = whole.index(b"PK\1\2")  # the directory's first: images.npy
    for at, value, message in (
        (entry + 8, b"\1\0", "is encrypted"),
        (entry + 10, b"\x63\0", "is packed by method 99"),
        (entry + 24, b"\xff\xff\xff\x7f", "claims 2147483647 bytes, more than"),
    ):
        path.write_bytes(whole[:at] + value + whole[at + len(value) :])
        with pytest.raises(UserError, match=message):
            arrays.build(str(path))
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings(action="ignore"):
        for _ in range(2):
            archive.writestr("images.npy", npy(b""))
    with pytest.raises(UserError, match="holds the array 'images' 2 times"):
        arrays.build(str(path))


def test_arrays_refuse_what_does_not_fit_together():
    images, labels = np.zeros((2, 4, 4, 3), np.uint8), np.array([0, 1])
    arrays.ArraySource(images, labels, ["a", "b"])
    for wrong in (
        (images.astype(np.complex64), labels, ["a", "b"]),
        (images[..., 0], labels, ["a", "b"]),
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
