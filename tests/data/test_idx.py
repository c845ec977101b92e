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
        (
            "train-images",
            struct.pack(">HBB3I", 0, 8, 3, *[2**32 - 1] * 3),
            "claims 79228162458924105385300197375 bytes, more than it can hold",
        ),
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


def test_a_part_that_is_held_out(root):
    held_out = idx.build("train", str(root), skip=1)
    assert [held_out[k]["label"] for k in range(len(held_out))] == [0, 1]
    assert [example["label"] for example in idx.build("train", str(root), skip=1, examples=1)] == [0]
    with pytest.raises(UserError, match="has 1 examples of 'train' after the first 2, not 2"):
        idx.build("train", str(root), skip=2, examples=2)
    for skip in (3, -1):
        with pytest.raises(UserError, match=f"3 examples of 'train', and skip={skip}"):
            idx.build("train", str(root), skip=skip)


def places(source, shape):
    """Top left corners; the images must be whole there, with nothing around them."""
    found = []
    for example in source:
        rows, columns = (example["image"].any(axis=(2, axis)).nonzero()[0] for axis in (1, 0))
        found.append((int(rows[0]), int(columns[0])))
        assert (rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1) == shape
    return found


def write(folder, name, array):
    (folder / name).write_bytes(packed(array))


@pytest.fixture
def many(tmp_path):
    """400 images without black, and no two alike."""
    images = np.random.default_rng(0).integers(1, 256, (400, 3, 2), dtype=np.uint8)
    for prefix in ("train", "t10k"):
        write(tmp_path, f"{prefix}-images-idx3-ubyte", images)
        write(tmp_path, f"{prefix}-labels-idx1-ubyte", np.zeros(400, np.uint8))
    return tmp_path, images


def test_images_lie_anywhere_on_the_canvas(many):
    root, images = many
    source = idx.build("train", str(root), canvas=(6, 4))
    assert source[0]["image"].shape == (6, 4, 3)
    found = places(source, (3, 2))
    for k, (top, left) in enumerate(found):
        seen = source[k]["image"][top : top + 3, left : left + 2]
        np.testing.assert_array_equal(seen, np.repeat(images[k, ..., None], 3, axis=-1))
    # 12 places with 33 images expected at each.
    counts = np.unique(found, axis=0, return_counts=True)[1]
    assert len(counts) == 12 and counts.min() > 12 and counts.max() < 60
    assert places(idx.build("train", str(root), canvas=6), (3, 2)) != found


def test_the_place_is_that_of_seed_split_and_number(many):
    root, _ = many

    def found(split="train", **options):
        return places(idx.build(split, str(root), canvas=9, **options), (3, 2))

    every = found()
    assert found() == every and found(seed=1) != every and found("test") != every
    assert found(skip=100, examples=50) == every[100:150]


def test_places_stay_where_they_are(many):
    """Published figures rest on them."""
    assert places(idx.build("train", str(many[0]), canvas=36, examples=4), (3, 2)) == [
        (21, 7),
        (17, 27),
        (19, 32),
        (15, 12),
    ]


def test_a_canvas_that_is_too_small(root):
    assert idx.build("train", str(root), canvas=(4, 5))[0]["image"].shape == (4, 5, 3)
    with pytest.raises(UserError, match=r"Images of 4x5 do not fit canvas=\[4, 4\]"):
        idx.build("train", str(root), canvas=4)
    with pytest.raises(UserError, match="is not a size in pixels"):
        idx.build("train", str(root), canvas="36")
    for seed in (-1, 1.5, True):
        with pytest.raises(UserError, match="is out of range"):
            idx.build("train", str(root), canvas=9, seed=seed)
