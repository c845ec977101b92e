"""IDX files."""

import gzip
import os
import struct

import numpy as np
import pytest

from vit_jax.data.sources import idx
from vit_jax.errors import UserError

IMAGES = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
LABELS = np.array([2, 0, 1], np.uint8)


def packed(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture(params=["", ".gz"])
def root(request, tmp_path):
    for prefix, keep in (("train", 3), ("t10k", 2)):
        for name, array in (("images-idx3", IMAGES), ("labels-idx1", LABELS)):
            data = packed(array[:keep])
            path = tmp_path / f"{prefix}-{name}-ubyte{request.param}"
            path.write_bytes(gzip.compress(data) if request.param else data)
    return tmp_path


def test_splits(root):
    train, test = idx.build("train", str(root)), idx.build("test", str(root), label_names=["a", "b", "c"])
    assert (len(train), len(test)) == (3, 2)
    assert train.label_names == ("0", "1", "2") and test.label_names == ("a", "b", "c")
    np.testing.assert_array_equal(train.images, np.repeat(IMAGES[..., None], 3, -1))
    assert [train[k]["label"] for k in range(3)] == [2, 0, 1]


def spoil(root, start, data):
    [path] = [p for p in root.iterdir() if p.name.startswith(start)]
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize(
    ("start", "data", "message"),
    [
        ("train-images", packed(IMAGES)[:-1], "train-images.* is cut short or damaged: 59 bytes of 60"),
        ("train-images", packed(IMAGES) + b"x", "61 bytes of 60"),
        ("train-images", packed(IMAGES)[:9], "not an IDX file"),
        ("train-images", b"", "not an IDX file"),
        ("train-images", packed(LABELS), "not an IDX file of bytes in 3 dimensions"),
        ("train-images", struct.pack(">HBB3I", 0, 8, 3, *[2**32 - 1] * 3), "cut short or damaged: 0 bytes"),
        ("train-labels", packed(LABELS[:2]), "3 images and 2 labels"),
    ],
)
def test_damaged_files_are_named(root, start, data, message):
    spoil(root, start, data)
    with pytest.raises(UserError, match=message):
        idx.build("train", str(root))
    assert len(idx.build("test", str(root))) == 2


def test_labels_out_of_range(root):
    with pytest.raises(UserError, match="Labels run from 0 to 2, but there are 2 label names"):
        idx.build("train", str(root), label_names=["a", "b"])


def test_damaged_compression(tmp_path):
    whole = gzip.compress(packed(IMAGES))
    for data in (whole[:20], b"no gzip", whole[:15] + b"\xff\xff\xff" + whole[18:]):
        (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(data)
        with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz could not be read"):
            idx.build("train", str(tmp_path))


def test_missing_files(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no split 'val'"):
        idx.build("val", str(tmp_path))
    with pytest.raises(UserError, match=r"There is no file .*train-images-idx3-ubyte, with or without \.gz. Check"):
        idx.build("train", str(tmp_path))
    monkeypatch.setattr(os.path, "exists", lambda path: False)
    with pytest.raises(UserError, match="apt-get install dataset-fashion-mnist"):
        idx.build("train")


@pytest.mark.skipif(not os.path.isdir(idx.FASHION_MNIST), reason="dataset-fashion-mnist is not installed")
def test_fashion_mnist():
    test = idx.build("test")
    assert len(test) == 10_000 and test.label_names[9] == "Ankle boot"
    np.testing.assert_array_equal(np.bincount(test.labels), [1000] * 10)
    assert test[0]["image"].shape == (28, 28, 3) and test.label_names[test[0]["label"]] == "Ankle boot"


def test_fewer_examples(root):
    train = idx.build("train", str(root), examples=2)
    assert [train[k]["label"] for k in range(len(train))] == [2, 0]
    with pytest.raises(UserError, match="has 3 examples of 'train', not 4"):
        idx.build("train", str(root), examples=4)
