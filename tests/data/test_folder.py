"""Folders of images as people keep them."""

import inspect
import os
import pickle
import sys
import unicodedata

import cv2
import numpy as np
import pytest

from vit_jax.commands.image_files import expand
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


def test_links_are_followed(tmp_path):
    put(tmp_path / "elsewhere" / "deep" / "0.png", 7)
    put(tmp_path / "elsewhere" / "1.png", 8)
    root = tmp_path / "root"
    put(root / "train" / "a" / "0.png")
    (root / "train" / "b").symlink_to(tmp_path / "elsewhere")
    (root / "train" / "a" / "1.png").symlink_to(tmp_path / "elsewhere" / ".." / "elsewhere" / "absent.png")
    (root / "train" / "a" / "self").symlink_to("self")
    source = folder.build(str(root), "train")
    assert relative(source) == ["train/a/0.png", "train/a/1.png", "train/b/1.png", "train/b/deep/0.png"]
    assert source.label_names == ("a", "b") and (decode(source[3]["image"]) == 7).all()


@pytest.mark.parametrize(
    ("link", "target", "message"),
    [
        ("a/to_b", "../b", "The link .*/a/to_b leads to .*/root/b, which is below .*/root as well"),
        ("b/to_a", "../a/sub", "The link .*/b/to_a leads to .*/root/a/sub, which is below"),
        ("c", "a", "The link .*/c leads to .*/root/a, which is below"),
        ("a/up", "..", "The link .*/a/up leads to .*/root, which holds .*/root itself"),
        ("a/far", "../../..", "The link .*/a/far leads to .*, which holds .*/root itself"),
        ("a/here", ".", "The link .*/a/here leads to .*/root/a, which is below"),
    ],
)
def test_a_link_that_relabels_images_is_refused_by_training_and_predict(tmp_path, link, target, message):
    """Of two classes of 23 images, with such a link, 62 were found, and twins of one in training and test."""
    root = tmp_path / "root"
    for name in ("a/0.png", "a/1.png", "a/sub/2.png", "b/0.png", "b/1.png"):
        put(root / name)
    (root / link).symlink_to(target)
    for split in ("train", "test"):
        with pytest.raises(UserError, match=message):
            folder.build(str(root), split)
    with pytest.raises(UserError, match=message):
        expand([str(root)])


def test_two_links_to_one_folder_and_shared_splits_are_refused(tmp_path):
    for name in ("elsewhere/0.png", "root/train/a/0.png", "root/test/a/0.png"):
        put(tmp_path / name)
    for split in ("train", "test"):
        (tmp_path / "root" / split / "b").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="train/b and .*/test/b are the same folder"):
        folder.build(str(tmp_path / "root"), "train")
    (tmp_path / "root" / "train" / "c").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="train/c is the same folder as .*/train/b"):
        expand([str(tmp_path / "root" / "train")])


def test_what_is_passed_over_and_there_twice_is_counted(tmp_path, capsys):
    for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png", "a/2.TIF", "a/3.tiff", "b/4.gif", "b/5.tif", "b/x.txt"):
        put(tmp_path / name, suffix=".png")
    (tmp_path / "a" / "again.png").symlink_to("1.png")
    others, twins = folder.build(str(tmp_path), "train").remarks
    assert others.startswith("2 .tif, 1 .gif, 1 .tiff and 1 other file in ") and "passed over" in others
    assert twins.startswith("1 files in ") and twins.endswith("are there twice by links, first a/1.png and a/again.png")
    assert len(expand([str(tmp_path)])) == 5
    assert "2 .tif, 1 .gif, 1 .tiff and 1 other file below" in capsys.readouterr().err


def test_a_file_that_is_there_twice_goes_to_one_side(tmp_path):
    for name in ("a", "b"):
        for k in range(40):
            put(tmp_path / name / f"{k}.png")
    for k in range(20):
        (tmp_path / "a" / f"twin {k}.png").symlink_to(f"{k}.png")
        (tmp_path / "b" / f"other {k}.png").symlink_to(f"../a/{k}.png")
    train, test = (folder.build(str(tmp_path), split, holdout=0.3) for split in ("train", "test"))
    files = [{os.path.realpath(os.path.join(s.root, path)) for path in s.paths} for s in (train, test)]
    assert not files[0] & files[1] and len(train) + len(test) == 120
    (remark,) = train.remarks
    assert remark.startswith("20 files in ")
    assert remark.endswith("are in several classes by links, first a/0.png and b/other 0.png")


def test_splits_by_their_usual_names(tmp_path):
    for name in ("training/a/0.png", "validation/a/0.png"):
        put(tmp_path / name)
    for asked, taken in (("train", "training"), ("val", "validation"), ("test", "validation")):
        source = folder.build(str(tmp_path), asked)
        assert relative(source) == [f"{taken}/a/0.png"]
        assert source.remarks == (f"{tmp_path} has no {asked!r}: its {taken!r} is taken",)
    put(tmp_path / "test" / "a" / "0.png")
    assert relative(folder.build(str(tmp_path), "test")) == ["test/a/0.png"]


def test_a_folder_that_may_not_be_listed(tmp_path, monkeypatch):
    put(tmp_path / "a" / "0.png")
    put(tmp_path / "a" / "locked" / "1.png")
    real = os.scandir

    def scandir(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)  # root may list everything
    with pytest.raises(UserError, match="The folder .*/a/locked cannot be listed: Permission denied"):
        folder.build(str(tmp_path), "train")


def test_folders_nested_more_deeply_than_python_calls(tmp_path, monkeypatch):
    limit, depth = sys.getrecursionlimit(), 200
    put(tmp_path / "a" / "0.png")
    monkeypatch.chdir(tmp_path / "a")
    for _ in range(depth):
        os.mkdir("d")
        os.chdir("d")
    try:
        sys.setrecursionlimit(len(inspect.stack(0)) + 150)
        assert len(folder.build(str(tmp_path), "train")) == 1
    finally:
        sys.setrecursionlimit(limit)
        for _ in range(depth):
            os.chdir("..")
            os.rmdir("d")


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
        (["train/a/0.png", "val/a/0.png", "dev/a/0.png"], "test", "no split 'test': its splits are dev, train, val"),
        (["train/a/0.png", "val/a/0.png"], "extra", "no split 'extra': its splits are train, val"),
        (["train/ /0.png", "train/a/0.png"], "train", "has a folder ' '. Rename it"),
        (["a /0.png", "a/0.png"], "train", r"The class folders \['a', 'a '\] of .* are called alike"),
        (["a/0.png", "b/0.tif", "b/1.heic", "b/2.tif"], "train", "b has no images but 2 .tif and 1 .heic"),
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


def test_missing_root_and_bad_share(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="There is no folder"):
        folder.build(str(tmp_path / "nowhere"), "train")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"There is no folder nowhere in {tmp_path}"):
        folder.build("nowhere", "train")
    with pytest.raises(UserError, match="holdout"):
        folder.build(str(tmp_path), "train", holdout=1.0)


def test_files_beside_the_images_are_further_fields(tmp_path):
    for k, name in enumerate(("cat/1.jpg", "cat/deep/2.png", "dog/3.jpg")):
        put(tmp_path / "photos" / "train" / name, k)
        put(tmp_path / "masks" / "train" / name, 100 + k, ".png")
        (tmp_path / "masks" / "train" / name).rename((tmp_path / "masks" / "train" / name).with_suffix(".PNG"))
    beside = {"segmentation": str(tmp_path / "masks")}
    source = folder.build(str(tmp_path / "photos"), "train", beside=beside)
    assert source.field_names == {"image", "label", "segmentation"}
    assert [decode(pickle.loads(pickle.dumps(source))[k]["segmentation"])[0, 0, 0] for k in range(3)] == [100, 101, 102]
    put(tmp_path / "masks" / "train" / "dog" / "3.webp")
    with pytest.raises(UserError, match=r"masks has 2 files \(3.PNG, 3.webp\) for train/dog/3.jpg, the first of 1"):
        folder.build(str(tmp_path / "photos"), "train", beside=beside)
    put(tmp_path / "photos" / "train" / "cat" / "4.jpg")
    with pytest.raises(UserError, match="masks has no file for train/cat/4.jpg, the first of 2 such images"):
        folder.build(str(tmp_path / "photos"), "train", beside=beside)
    for wrong, message in (
        ({"label": "x"}, "'label', which the folder itself gives"),
        ({"a": "gone"}, "no folder gone .*for 'a'"),
    ):
        with pytest.raises(UserError, match=message):
            folder.build(str(tmp_path / "photos"), "train", beside=wrong)
