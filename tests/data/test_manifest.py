"""Manifests as people write them."""

import json
import os
import pickle

import cv2
import numpy as np
import pytest

from vit_jax.data.decode import UnreadableImage, decode
from vit_jax.data.pipeline import TrainPipeline
from vit_jax.data.sources import manifest
from vit_jax.data.transforms import supervised
from vit_jax.errors import UserError

NAMES = ("a.png", "über 动物.png", "deep/c.png", "d,1.png")


@pytest.fixture
def images(tmp_path):
    """Four images; the pixels of image k are 10 k."""
    for k, name in enumerate(NAMES):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(cv2.imencode(".png", np.full((4, 5, 3), 10 * k, np.uint8))[1].tobytes())
    return tmp_path


def written(folder, text, name="list.csv"):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(folder / name)


def labels(source):
    return [source[k]["label"] for k in range(len(source))]


def test_csv_and_jsonl_are_the_same(images):
    rows = list(zip(NAMES, ("cat", "dög", "cat", "ant"), strict=True))
    text = "label,path\r\n" + "".join(f'{label},"{name}"\r\n' for name, label in rows)
    objects = "\n\n".join(json.dumps({"path": name, "label": label, "by": "me"}) for name, label in rows)
    for path in (written(images, text), written(images, "\ufeff" + text), written(images, objects, "list.JSONL")):
        source = manifest.build(path)
        assert source.label_names == ("ant", "cat", "dög") and labels(source) == [1, 2, 1, 0]
        assert [decode(source[k]["image"])[0, 0, 0] for k in range(4)] == [0, 10, 20, 30]
        assert source[1]["path"].endswith(NAMES[1])
        assert pickle.loads(pickle.dumps(source))[3] == source[3]


def test_numbers_are_indices(images):
    path = written(images, "path,label\na.png,0\na.png,3\n")
    assert manifest.build(path).label_names == ("0", "1", "2", "3")
    named = manifest.build(path, label_names=["w", "x", "y", "z"])
    assert named.label_names == ("w", "x", "y", "z") and labels(named) == labels(manifest.build(path)) == [0, 3]
    # Names that look like numbers are names first, in the order given.
    assert labels(manifest.build(path, label_names=["3", "0"])) == [1, 0]
    assert labels(manifest.build(written(images, '{"path": "a.png", "label": 2}', "x.jsonl"))) == [2]


def test_label_names_from_a_file(images):
    names = written(images, "\ufeffdog\r\n\r\ncät\r\n", "names.txt")
    source = manifest.build(written(images, "path,label\na.png,cät\n"), label_names=names)
    assert source.label_names == ("dog", "cät") and labels(source) == [1]


def test_splits_share_their_classes(images):
    path = written(images, "path,label,split\na.png,x,train\ndeep/c.png,y,train\na.png,y,val\n")
    train, val = manifest.build(path, split="train"), manifest.build(path, split="val")
    assert (len(train), len(val)) == (2, 1) and train.label_names == val.label_names == ("x", "y")
    assert len(manifest.build(path)) == 3
    with pytest.raises(UserError, match=r"no rows with split 'test'\. Known: train, val"):
        manifest.build(path, split="test")


def test_several_labels(images):
    csv = written(images, "path,label\na.png,sky; sea\ndeep/c.png,\na.png,tree\n")
    jsonl = written(
        images,
        '{"path": "a.png", "label": ["sea", "sky"]}\n{"path": "deep/c.png", "label": []}\n'
        '{"path": "a.png", "label": "tree"}',
        "list.jsonl",
    )
    for path in (csv, jsonl):
        source = manifest.build(path, multi_label=True)
        assert source.label_names == ("sea", "sky", "tree")
        np.testing.assert_array_equal(labels(source), [[1, 1, 0], [0, 0, 0], [0, 0, 1]])
        batch = TrainPipeline(source, supervised.build(4), batch_size=3, seed=0).batch(0)
        assert batch["label"].shape == (3, 3) and batch["label"].dtype == np.float32


def test_other_keys_and_root(images):
    path = written(images, "file|x,class\nc.png,1\n")
    source = manifest.build(path, root=str(images / "deep"), path_key="file|x", label_key="class")
    assert decode(source[0]["image"])[0, 0, 0] == 20
    absolute = written(images, f"path,label\n{images / 'a.png'},1\n")
    assert len(manifest.build(absolute)) == len(manifest.build(absolute, root="/nowhere", allow_outside=True)) == 1


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_blanks_and_capitals_of_a_header(images, delimiter):
    rows = [
        (" Path", " LABEL ", "Split "),
        ("a.png", " cat", "train"),
        ("deep/c.png", "cat ", " train"),
        ("a.png", "dog", "x"),
    ]
    source = manifest.build(written(images, "\n".join(map(delimiter.join, rows))), split="train")
    assert source.label_names == ("cat", "dog") and labels(source) == [0, 0]
    # As it is asked for comes first, and a column that nobody asks for may be called anything.
    text = "LABEL;label;path\nx;cat;a.png\n".replace(";", delimiter)
    assert manifest.build(written(images, text)).label_names == ("cat",)


def test_blanks_and_spellings_of_a_label_are_one_class(images):
    text = "path,label\na.png,cafe\u0301\na.png,caf\u00e9 \na.png, caf\u00e9;tree\n"
    assert manifest.build(written(images, text), multi_label=True).label_names == ("café", "tree")
    jsonl = '{"path": "a.png", "label": "cat "}\n{"path": "a.png", "label": "cat"}'
    assert manifest.build(written(images, jsonl, "list.jsonl")).label_names == ("cat",)


def test_files_that_are_listed_twice_are_counted_and_named(images):
    text = "path,label,split\na.png,x,train\ndeep/c.png,y,train\ndeep/../a.png,z,train\n./deep/c.png,y,val\ndeep/c.png,y,val\n"
    different, split = manifest.build(written(images, text), split="train").remarks
    assert "1 files are listed in" in different and "with different labels, first '" in different
    assert different.endswith("a.png' in the lines 2 and 4")
    assert "1 files are listed in" in split and "with different splits" in split and split.endswith("lines 3 and 5")
    assert manifest.build(written(images, "path,label\na.png,x\na.png,x\n")).remarks == ()


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret.png", "deep/../../x/a.png", "gs://other/a.png"])
def test_paths_out_of_the_root_are_not_followed_unless_asked_to(images, path):
    made = written(images, f"path,label\na.png,x\n{path},y\n")
    with pytest.raises(
        UserError, match=r"1 of 2 paths in .* lead out of .*first '.*' in line 3\. .*allow_outside=True"
    ):
        manifest.build(made)
    with pytest.raises(UserError, match="lead out of gs://bucket/folder"):
        manifest.build(made, root="gs://bucket/folder")
    source = manifest.build(made, allow_outside=True, check_files=False)
    assert source.paths[1] == os.path.join(str(images), path) or "://" in path


def test_pipes_and_devices_are_never_opened(images):
    os.mkfifo(images / "pipe.png")
    (images / "zero.png").symlink_to("/dev/zero")
    made = written(images, "path,label\npipe.png,x\nzero.png,y\na.png,x\n")
    with pytest.raises(UserError, match="2 of 3 files that .* lists are missing or no files"):
        manifest.build(made)
    source = manifest.build(made, check_files=False)
    for k in range(2):
        with pytest.raises(UnreadableImage, match="it is a pipe, socket or device, not a file"):
            source[k]
    with pytest.raises(UserError, match="it is a pipe, socket or device, not a file"):
        manifest.build(str(images / "pipe.png"))
    with pytest.raises(UserError, match="label names .* could not be read"):
        manifest.build(made, label_names=str(images / "pipe.png"))


@pytest.mark.parametrize("label", ["1000000000", "9" * 30, "9" * 5000])
def test_a_label_of_a_billion_is_refused_before_its_names_are_made(images, label):
    row = '{"path": "a.png", "label": LABEL}'.replace("LABEL", label)
    for text, name in ((f"path,label\na.png,0\na.png,{label}\n", "a.csv"), (row, "a.jsonl")):
        with pytest.raises(UserError, match="more than 1000000|has no JSON object"):
            manifest.build(written(images, text, name))


GOOD = "path,label\n" + "a.png,x\n" * 3


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (GOOD.encode() + b"b\xfccher.png,x\n", {}, "1 of 6 lines of .* has bytes that are not UTF-8, first line 5"),
        (GOOD + "no.png,x\nnot.png,x\n", {}, "2 of 5 files that .* lists are missing or no files: first '.*no.png' in line 5"),
        (GOOD + "empty.png,x\n", {}, "1 of 4 files that .* lists are empty: first '.*empty.png' in line 5"),
        (GOOD + "no.png,x\nempty.png,x\n", {}, "1 of 5 files .* are missing or no files, and 1 are empty"),
        (GOOD + "a\0.png,x\n", {}, "are missing"),
        (GOOD + ".,x\n", {"root": "/nowhere"}, "4 of 4 files"),
        (GOOD + "d,1.png,x\n", {}, "1 of 4 lines of .* has other than 2 fields, first line 5. Put fields with commas"),
        (GOOD + "a.png\n", {}, "other than 2 fields"),
        ("Path,PATH,label\na.png,a.png,x\n", {}, r"has the columns \['Path', 'PATH'\] for 'path'"),
        ("path,label,label\na.png,x,y\n", {}, r"has the columns \['label', 'label'\] for 'label'"),
        (GOOD + ",x\n", {}, "1 of 4 lines of .* has no 'path', first line 5"),
        (GOOD + 'a.png,"x\n', {}, "not a CSV file"),
        (GOOD + "a.png,\n", {}, "a label that is neither a name nor an index, first line 5"),
        (GOOD, {"split": "train"}, "3 of 3 lines of .* have no 'split', first line 2"),
        (GOOD, {"path_key": "file"}, "no column 'file' but path, label. Write a header line"),
        (GOOD, {"label_key": "class"}, "3 of 3 lines .* have no 'class'"),
        (GOOD + "a.png,y\n", {"label_names": ["w", "x"]}, r"1 of 4 .* outside the 2 classes \('y'\), first line 5"),
        ("path,label\na.png,0\na.png,7\n", {"label_names": ["w", "x"]}, r"\('7'\), first line 3. Indices go from 0"),
        ("path,label\na.png,-1\na.png,0\n", {"label_names": ["w", "x"]}, r"\('-1'\), first line 2. Indices go"),
        (GOOD, {"label_names": ["x", "x"]}, "name a class twice"),
        (GOOD, {"label_names": "nowhere.txt"}, "label names nowhere.txt could not be read"),
        ("", {}, "has no rows"),
        ("path,label\n", {}, "has no rows"),
        (b"\xff\xfe" + GOOD.encode("utf-16-le"), {}, "not UTF-8"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_csv_is_said(images, text, options, message):
    (images / "empty.png").write_bytes(b"")
    with pytest.raises(UserError, match=message):
        manifest.build(written(images, text), **options)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'path': 'a.png'}", "1 of 2 lines of .* has no JSON object, first line 2"),
        ("[1]", "no JSON object"),
        ("[" * 10_000, "no JSON object"),
        ('{"path": 3, "label": "x"}', "no 'path'"),
        ('{"path": "a.png", "label": null}', "no 'label'"),
        ('{"path": "a.png", "label": ["x"]}', "neither a name nor an index"),
        ('{"path": "a.png", "label": 1.5}', "neither a name nor an index"),
        ('{"path": "a.png", "label": true}', "neither a name nor an index"),
    ],
)
def test_what_is_wrong_with_a_jsonl_is_said(images, line, message):
    path = written(images, '{"path": "a.png", "label": "x"}\n' + line + "\n", "list.jsonl")
    with pytest.raises(UserError, match=message):
        manifest.build(path)


def test_a_missing_manifest(tmp_path):
    with pytest.raises(UserError, match="could not be read: No such file"):
        manifest.build(str(tmp_path / "no.csv"))


def test_files_may_be_left_to_training(images):
    os.remove(images / "a.png")
    path = written(images, "path,label\na.png,x\ndeep/c.png,y\n")
    source = manifest.build(path, check_files=False)
    batch = TrainPipeline(source, supervised.build(4), batch_size=2, seed=0).batch(0)
    assert batch["corrupt"].sum() == 1 and batch["label"].tolist() == [1, 1]
