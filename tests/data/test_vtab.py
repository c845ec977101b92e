"""VTAB's tasks: splits and labels by hand, and the lists of VTAB-1k."""

import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.data.sources import vtab as source
from vit_jax.data.vtab import TASKS, group_means, task_of, tfds_split


def test_the_table():
    """The classes are those that other users of the lists have."""
    classes = (102, 100, 47, 102, 37, 10, 397, 2, 10, 45, 5, 8, 6, 6, 4, 16, 16, 18, 9)
    assert tuple(task.classes for task in TASKS.values()) == classes
    groups = [task.group for task in TASKS.values()]
    assert [groups.count(group) for group in ("natural", "specialised", "structured")] == [7, 4, 8]
    with pytest.raises(UserError, match="VTAB has no task 'cifar100'. Did you mean 'cifar'"):
        task_of("cifar100")


@pytest.mark.parametrize(
    ("task", "train", "expected"),
    [
        ("cifar", 50000, ("train[:800]", "train[45000:45200]", "test")),
        ("dtd", 1880, ("train[:800]", "validation[:200]", "test")),
        ("eurosat", 27000, ("train[:800]", "train[16200:16400]", "train[21600:]")),
        ("resisc45", 31501, ("train[:800]", "train[18900:19100]", "train[25200:]")),
        ("clevr_dist", 70000, ("train[:800]", "train[63000:63200]", "validation")),
        ("smallnorb_azi", 24300, ("train[:800]", "test[:200]", "test[50%:]")),
        ("dsprites_ori", 737280, ("train[:800]", "train[589824:590024]", "train[663552:]")),
    ],
)
def test_splits(task, train, expected):
    found = {split: tfds_split(TASKS[task], split, train) for split in ("train800", "val200", "train1000", "test")}
    assert (found["train800"], found["val200"], found["test"]) == expected
    assert found["train1000"] == f"{expected[0]}+{expected[1]}"


def test_labels_that_vtab_makes():
    assert [TASKS["clevr_count"].label(np.zeros(n)) for n in (3, 10)] == [0, 7]
    depths = [7.9, 8.0, 8.1, 9.2, 9.7, 10.5]
    assert [TASKS["clevr_dist"].label(np.array([1, 2, d, 3, 4, 99.0])) for d in depths] == [0, 0, 1, 3, 4, 5]
    places = np.array([[0, 0, 5.0], [0, 0, 15.0], [0, 0, 30.0]])
    label = TASKS["kitti"].label
    assert [label(places, kinds) for kinds in ([0, 1, 2], [4, 1, 2], [4, 5, 2], [3, 3, 3])] == [0, 1, 2, 3]
    assert label(np.zeros(0), np.zeros(0)) == 3 and label(np.array([1.0, 2, 9]), 2) == 1
    assert [TASKS["dsprites_loc"].label(k) for k in (0, 1, 2, 31)] == [0, 0, 1, 15]
    assert [TASKS["dsprites_ori"].label(k) for k in (2, 3, 5, 39)] == [0, 1, 2, 15]


def test_what_tfds_gives(monkeypatch):
    """Of its features the label, and of sprites the pixels."""

    class Features:
        label_names = ()

        def __init__(self, *arguments):
            self.arguments = arguments

        def __len__(self):
            return 1

        def __getitem__(self, index):
            places = {"places": np.array([0, 0, 12.0]), "kinds": np.int64(0)}
            return {"image": np.ones((2, 2, 3), np.uint8), "path": "x", "label": 9, **places}

    monkeypatch.setattr(source, "TfdsSource", Features)
    monkeypatch.setattr(source, "decode", lambda image, name: image)
    kitti = source.build(task="kitti", split="val200")
    assert kitti[0]["label"] == 1 and kitti[0]["image"].max() == 1 and kitti.label_names == ("0", "1", "2", "3")
    assert kitti._source.arguments[1] == "validation[:200]"
    assert kitti._source.arguments[5] == {"places": ("objects/location",), "kinds": ("objects/type",)}
    sprites = source.build(task="dsprites_loc", split="train800")
    assert sprites[0]["label"] == 4 and sprites[0]["image"].min() == 255
    with pytest.raises(UserError, match="'dtd' has 0 classes, and VTAB's dtd 47"):
        source.build(task="dtd", split="test")


def test_lists(tmp_path):
    folder = tmp_path / "svhn"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "1 a.png").write_bytes(b"one")
    (folder / "val200.txt").write_text("images/1 a.png 7\n\n")
    found = source.build(task="svhn", split="val200", root=str(tmp_path))
    assert len(found) == 1 and found[0]["label"] == 7 and found[0]["image"] == b"one" and len(found.label_names) == 10
    for text, sentence in (
        ("images/1.png 10", "Line 1 of .* is no path and a label below 10: 'images/1.png 10'"),
        ("images/1.png", "is no path and a label"),
        ("images/1.png -1", "is no path and a label"),
        ("a 1\n../1.png 3", "Line 2 of .* leads out of its folder"),
        ("/etc/passwd 3", "leads out of its folder"),
        ("", "lists no images"),
    ):
        (folder / "val200.txt").write_text(text)
        with pytest.raises(UserError, match=sentence):
            source.build(task="svhn", split="val200", root=str(tmp_path))


def test_means():
    assert group_means({"dtd": 0.5, "svhn": 0.7, "kitti": 0.2}) == pytest.approx({"natural": 0.6, "structured": 0.2})
    assert group_means({name: 0.5 for name in TASKS})["mean"] == 0.5
