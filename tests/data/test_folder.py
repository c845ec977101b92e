"""Folders of images as people keep them."""

import os
import pickle
import unicodedata

import cv2
import numpy as np
import pytest

from vit_jax.data.decode import UnreadableImage, decode
from vit_jax.data.sources import folder
from vit_jax.errors import UserError


def put(path, value=0, suffix=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = cv2.imencode(suffix or path.suffix.lower(), np.full((4, 5, 3), value, np.uint8))[1]
    path.write_bytes(encoded.tobytes())


def relative(source):
    return [path.replace(os.sep, "/") for path in source.paths]


def test_split_folders(tmp_path):
    for split, count in (("train", 3), ("val", 1)):
        for label, name in enumerate(("zebra", "ant", "Ünicode 动物")):
            for k in range(count):
                put(tmp_path / split / name / f"bild {k} é.png", 10 * label + k)
    train = folder.build(str(tmp_path), "train")
    assert train.label_names == ("ant", "zebra", "Ünicode 动物")
    assert len(train) == 9 and len(folder.build(str(tmp_path), "val")) == 3
    np.testing.assert_array_equal(train.labels, [0, 0, 0, 1, 1, 1, 2, 2, 2])
    example = train[7]
    assert example["label"] == 2 and example["path"].endswith("bild 1 é.png")
    assert (decode(example["image"]) == 21).all()
    again = pickle.loads(pickle.dumps(train))
    assert again[7] == example


def test_suffixes_nesting_and_hidden_files(tmp_path):
    for name in ("a.JPG", "b.jpeg", "c.PNG", "d.webp", "deep/er/e.png"):
        put(tmp_path / "train" / "x" / name)
    put(tmp_path / "train" / "x" / ".hidden.png")
    put(tmp_path / "train" / "x" / ".thumbnails" / "f.png")
    put(tmp_path / "train" / ".git" / "g.png")
    (tmp_path / "train" / "x" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / "README").write_text("not a class")
    (tmp_path / "annotations").mkdir()
    source = folder.build(str(tmp_path), "train")
    assert relative(source) == [f"train/x/{name}" for name in ("a.JPG", "b.jpeg", "c.PNG", "d.webp", "deep/er/e.png")]


def test_held_out_part(tmp_path):
    for name in ("a", "b"):
        for k in range(60):
            put(tmp_path / name / f"{k}.png")
    put(tmp_path / "few" / "0.png")
    put(tmp_path / "few" / "1.png")
    put(tmp_path / "one" / "0.png")
    train, test = (folder.build(str(tmp_path), split, holdout=0.2) for split in ("train", "test"))
    assert train.label_names == test.label_names == ("a", "b", "few", "one")
    assert not set(train.paths) & set(test.paths) and len(train) + len(test) == 123
    np.testing.assert_array_equal(np.bincount(test.labels, minlength=4)[2:], [1, 0])
    np.testing.assert_array_equal(np.bincount(train.labels, minlength=4)[2:], [1, 1])
    assert 10 < len(test) < 40
    # The same everywhere: this pins the hash.
    assert [path for path in test.paths if path.startswith("a/")][:4] == PINNED
    assert folder.build(str(tmp_path), "test", holdout=0.2).paths == test.paths
    assert folder.build(str(tmp_path), "test", holdout=0.2, seed=1).paths != test.paths


PINNED = ["a/0.png", "a/1.png", "a/15.png", "a/17.png"]


def test_held_out_part_stays_when_files_are_added(tmp_path):
    for k in range(40):
        put(tmp_path / "a" / f"{k}.png")
    before = set(folder.build(str(tmp_path), "test", holdout=0.3).paths)
    for k in range(40, 60):
        put(tmp_path / "a" / f"{k}.png")
    after = set(folder.build(str(tmp_path), "test", holdout=0.3).paths)
    assert before < after and all(int(path[2:-4]) >= 40 for path in after - before)


def test_both_parts_of_a_class_are_never_empty(tmp_path):
    for k in range(5):
        put(tmp_path / "a" / f"{k}.png")
    assert len(folder.build(str(tmp_path), "test", holdout=1e-9)) == 1
    assert len(folder.build(str(tmp_path), "train", holdout=1 - 1e-9)) == 1


def test_a_class_called_train_is_not_a_split(tmp_path):
    for name in ("plane", "train"):
        for k in range(3):
            put(tmp_path / name / f"{k}.png")
    put(tmp_path / "train" / "steam" / "3.png")
    source = folder.build(str(tmp_path), "train")
    assert source.label_names == ("plane", "train")
    assert len(source) + len(folder.build(str(tmp_path), "test")) == 7


def test_accents_are_one_class_however_the_file_system_spells_them(tmp_path):
    put(tmp_path / "train" / unicodedata.normalize("NFC", "café") / "0.png")
    put(tmp_path / "test" / unicodedata.normalize("NFD", "café") / "0.png")
    test = folder.build(str(tmp_path), "test")
    assert test.label_names == folder.build(str(tmp_path), "train").label_names
    decode(test[0]["image"])


def test_names_that_are_not_unicode(tmp_path):
    for k in range(3):
        put(tmp_path / "a" / os.fsdecode(b"\xff\xfe%d.png" % k))
    assert len(folder.build(str(tmp_path), "train")) == 2


def test_links_are_followed_but_not_in_circles(tmp_path):
    put(tmp_path / "elsewhere" / "0.png", 7)
    root = tmp_path / "root"
    put(root / "train" / "a" / "0.png")
    (root / "train" / "b").symlink_to(tmp_path / "elsewhere")
    (root / "train" / "a" / "up").symlink_to(root / "train")
    (root / "train" / "a" / "self").symlink_to("self")
    (root / "train" / "a" / "here").symlink_to(".")
    source = folder.build(str(root), "train")
    assert relative(source)[0] == "train/a/0.png"
    assert source.label_names == ("a", "b")
    assert (decode(source[len(source) - 1]["image"]) == 7).all()
    assert len(source) < 6


def test_dangling_links_are_reported_when_read(tmp_path):
    put(tmp_path / "train" / "a" / "0.png")
    (tmp_path / "train" / "a" / "1.png").symlink_to("gone.png")
    source = folder.build(str(tmp_path), "train")
    with pytest.raises(UnreadableImage, match=r"1\.png could not be read"):
        source[1]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_is_not_an_image(tmp_path):
    put(tmp_path / "train" / "a" / "0.png")
    os.mkfifo(tmp_path / "train" / "a" / "1.png")
    assert len(folder.build(str(tmp_path), "train")) == 1


@pytest.mark.parametrize(
    "files, split, message",
    [
        ([], "train", "no class folders"),
        (["cat.png", "dog.png"], "train", "no class folders"),
        (["train/a/0.png", "val/a/0.png"], "test", "no split 'test': its splits are train, val"),
        (["a/0.png", "a/1.png"], "val", "no folder 'val'"),
        (["a/0.png", "b/0.png"], "test", "one image per class"),
        (["train/a/0.png", "train/b/0.png", "test/a/0.png"], "test", "Class 'b' is in .*train but not in .*test"),
        (["train/a/0.png", "test/b/0.png", "test/a/0.png"], "train", "Class 'b' is in .*test but not in .*train"),
        (["train/a/0.png", "train/b/x.txt", "test/a/0.png", "test/b/0.png"], "train", "train/b has no images"),
        (["a/0.png", "a/1.png", "b/readme"], "train", "b has no images"),
    ],
)
def test_what_is_missing_is_said(tmp_path, files, split, message):
    for name in files:
        path = tmp_path / name
        put(path, suffix=".png")
    with pytest.raises(UserError, match=message):
        folder.build(str(tmp_path), split)


def test_missing_root_and_bad_share(tmp_path):
    with pytest.raises(UserError, match="There is no folder"):
        folder.build(str(tmp_path / "nowhere"), "train")
    with pytest.raises(UserError, match="holdout"):
        folder.build(str(tmp_path), "train", holdout=1.0)
