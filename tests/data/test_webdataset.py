"""Pairs in tar shards, read by index."""

import io
import json
import pickle
import tarfile

import cv2
import numpy as np
import pytest

from vit_jax.data.decode import UnreadableImage
from vit_jax.data.sources import webdataset
from vit_jax.data.tar_index import members
from vit_jax.errors import UserError
from vit_jax.training.inputs import build_inputs


def png(value):
    return cv2.imencode(".png", np.full((4, 5, 3), value, np.uint8))[1].tobytes()


def shard(path, files, **options):
    """An archive of files by name, in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as archive:
        for name, data in files.items() if isinstance(files, dict) else files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def shards(tmp_path):
    """Two shards of two pairs each, and what else such shards have."""
    long = f"{'long/' * 30}2"
    shard(tmp_path / "s/00.tar", {
        "0.png": png(0), "0.txt": b"null\n", "0.json": b"{}", "a.b/1.txt": "\ufeffein Hund".encode(), "a.b/1.PNG": png(10),
    })  # fmt: skip
    shard(tmp_path / "s/01.tar", {
        f"{long}.jpg": png(20), f"{long}.json": json.dumps({"caption": ["two", " ", "zwei "], "alt": "deux"}).encode(),
        "3.cls": b"3", "3.webp": png(30), "3.json": b'{"caption": "three"}',
    })  # fmt: skip
    return tmp_path / "s"


def texts(source):
    return [source[k]["text"] for k in range(len(source))]


@pytest.mark.parametrize("pattern", ["{00..01}.tar", "0{0,1}.tar", "*.tar", "{0,1}{0..1}.tar"])
def test_pairs_are_found_by_their_names(shards, pattern):
    if pattern == "{0,1}{0..1}.tar":
        for name in ("10", "11"):
            (shards / f"{name}.tar").write_bytes((shards / "00.tar").read_bytes())
    source = webdataset.build(f"{shards}/{pattern}")
    assert texts(source)[:4] == ["null", "ein Hund", ["two", "zwei"], "three"] and not source.remarks
    assert [source[k]["image"] for k in range(4)] == [png(10 * k) for k in range(4)]
    assert source[1]["path"] == f"{shards}/00.tar, member a.b/1.PNG" and source.field_names == {"image", "text"}
    assert len(source) == (8 if pattern == "{0,1}{0..1}.tar" else 4)
    assert pickle.loads(pickle.dumps(source))[3] == source[3]
    assert webdataset.build(f"{shards}/01.tar", json_key="alt")[0]["text"] == "deux"


def inputs_of(paths):
    return build_inputs({
        "image_size": [4, 5], "num_workers": 0, "transform": {"name": "supervised"},
        "train": {"name": "webdataset", "paths": str(paths)},
        "fields": {"image": {"name": "image"}, "text": {"name": "tokens", "length": 12}},
    })  # fmt: skip


def test_batches_are_a_function_of_the_step(shards):
    inputs = inputs_of(shards / "*.tar")
    pipelines = [inputs.train_pipeline(inputs.train_source(), 2, 0) for _ in range(2)]
    batches = [pipelines[0].batch(step) for step in range(6)]
    for step in (5, 0, 3):
        again = pipelines[1].batch(step)
        assert all(np.array_equal(batches[step][name], again[name]) for name in again)
    text = inputs.kinds()["text"].text
    shown = {(int(b["image"][i, 0, 0, 0]), text(b["text"][i])) for b in batches for i in range(2)}
    assert shown <= {(0, "null"), (10, "ein Hund"), (20, "two"), (20, "zwei"), (30, "three")} and len(shown) >= 4


def test_what_is_cut_short_or_alone_is_counted_and_the_rest_goes_on(shards):
    data = (shards / "01.tar").read_bytes()
    at = data.index(b"3.webp")
    names = ["0.png", "a.b/1.PNG", "long/" * 30 + "2.jpg"]
    for end, alone in ((at + 512 + 20, 1), (at + 100, 1), (at, 1), (at - 1, 1)):
        (shards / "01.tar").write_bytes(data[:end])
        source = webdataset.build(f"{shards}/*.tar")
        assert [source[k]["path"].split("member ")[1] for k in range(len(source))] == names
        cut, left = source.remarks
        assert cut == f"1 of 2 tar shards are cut short or damaged, first {shards}/01.tar"
        assert left == f"{alone} members of tar shards have no partner and are left out, first 3.cls in {shards}/01.tar"
    (shards / "01.tar").write_bytes(b"")
    assert len(webdataset.build(f"{shards}/*.tar").remarks) == 1
    broken = bytearray(data)
    broken[at + 148 : at + 156] = b"?" * 8  # its checksum
    (shards / "01.tar").write_bytes(broken)
    assert len(webdataset.build(f"{shards}/*.tar")) == 3
    shard(shards / "01.tar", [("1.png", png(1)), ("1.png", png(2)), ("1.txt", b"one"), ("2.txt", b"x"), ("2.npy", b"")])
    source = webdataset.build(f"{shards}/01.tar")
    assert texts(source) == ["one"] and source[0]["image"] == png(1)
    assert source.remarks == (
        f"3 members of tar shards have no partner and are left out, first 1.png in {shards}/01.tar",
    )


def test_images_with_a_class(shards):
    """As ImageNet is kept in shards: the class in .cls, or under a key of .json."""
    for number in range(2):
        shard(shards / f"c{number}.tar", {
            "0.png": png(number), "0.cls": b"%d\n" % (2 * number), "0.json": b'{"kind": "%s"}' % (b"eel", b"cat")[number],
        })  # fmt: skip
    source = webdataset.build(f"{shards}/c*.tar", label="cls")
    assert source.label_names == ("0", "1", "2") and source.labels.tolist() == [0, 2] and not source.remarks
    assert source[1] == {"image": png(1), "label": 2, "path": f"{shards}/c1.tar, member 0.png"}
    assert pickle.loads(pickle.dumps(source))[0]["image"] == png(0)
    named = webdataset.build(f"{shards}/c*.tar", label="kind")
    assert named.label_names == ("cat", "eel") and named.labels.tolist() == [1, 0]
    thousand = webdataset.build(f"{shards}/c*.tar", label="cls", label_names="imagenet1k")
    assert len(thousand.label_names) == 1000 and thousand.labels.tolist() == [0, 2]
    data = (shards / "c1.tar").read_bytes()
    (shards / "c1.tar").write_bytes(data[: data.index(b"0.json") + 4])
    assert webdataset.build(f"{shards}/c*.tar", label="cls").remarks == (
        f"1 of 2 tar shards are cut short or damaged, first {shards}/c1.tar",
    )
    (shards / "c1.tar").write_bytes(b"")
    with pytest.raises(UnreadableImage, match=r"c1\.tar, member 0\.png could not be read: it is cut short"):
        source[1]


def test_labels_are_read_with_each_shard_open_once(shards, monkeypatch):
    shard(
        shards / "c.tar",
        {name: data for k in range(9) for name, data in ((f"{k}.png", png(k)), (f"{k}.cls", b"%d" % k))},
    )
    opened = []
    monkeypatch.setattr(webdataset, "open", lambda *args: opened.append(args) or open(*args), raising=False)  # noqa: SIM115
    assert webdataset.build(f"{shards}/c.tar", label="cls").labels.tolist() == list(range(9))
    assert len(opened) == 1


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (b"3", {"label_names": ["a", "b"]}, "has the label 3 in image 1, outside its 2 classes"),
        (b"-1", {"label_names": ["a", "b"]}, "has the label '-1' in image 1, outside its 2 classes"),
        (b"", {}, "has a label that is neither a number nor a name"),
        (b"\xff", {}, r"member 1\.cls, says no label"),
        (b"1", {"label": "kind"}, r"member 1\.json, says no label 'kind'"),
        (b"1", {"label": "list"}, "has a label that is neither a number nor a name"),
    ],
)
def test_classes_that_are_none(shards, content, settings, message):
    shard(shards / "c.tar", {"1.png": png(0), "1.cls": content, "1.json": b'{"list": [1]}'})
    with pytest.raises(UserError, match=message):
        webdataset.build(f"{shards}/c.tar", **{"label": "cls"} | settings)


@pytest.mark.parametrize("name", ["../1.png", "/etc/1.png", "a/../../1.png"])
def test_names_that_lead_out_are_refused(shards, name):
    shard(shards / "01.tar", {"0.png": png(0), "0.txt": b"x", name: png(0)})
    with pytest.raises(UserError, match=rf"01\.tar has a member '{name}', which leads out of it"):
        webdataset.build(f"{shards}/*.tar")


def test_links_are_no_members(shards):
    with tarfile.open(shards / "01.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo("0.txt")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    assert members(f"{shards}/01.tar") == ([], True)


def test_what_is_no_shard_is_one_sentence(shards, tmp_path):
    (shards / "01.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(UserError, match="01.tar is no tar archive, or a compressed one"):
        webdataset.build(f"{shards}/*.tar")
    shard(shards / "02.tar", {"0.png": png(0), "1.txt": b"x"})
    (shards / "05.tar").write_bytes((shards / "02.tar").read_bytes()[:600])  # within its first image
    for paths, message in (
        (f"{shards}/{{03..04}}.tar", "03.tar is no file"),
        (f"{shards}/x*.tar", "No file is named like"),
        (f"{shards}/{{0..99999999}}.tar", "is more than 1000000 files"),
        (str(shards), "is no file"),
        (f"{shards}/02.tar", "No image with a text is in [^,]*02.tar. Name"),
        (f"{shards}/05.tar", "No image with a text is in .*05.tar, of which 1 are cut short or damaged"),
    ):
        with pytest.raises(UserError, match=message):
            webdataset.build(paths)


def test_a_bad_text_is_replaced_in_training_as_a_bad_image_is(tmp_path):
    bad = {"1": b" \n", "2": b"\xff", "3": b"[" * 10_000, "4": b'{"caption": 3}', "5": b'{"caption": []}'}
    files = {"0.png": png(0), "0.txt": b"good"}
    for name, text in bad.items():
        files |= {f"{name}.png": png(1), f"{name}.{'json' if text[:1] in (b'[', b'{') else 'txt'}": text}
    path = shard(tmp_path / "x.tar", files)
    source = webdataset.build(str(path))
    for index, reason in enumerate(
        ["an empty text", "bytes that are not UTF-8", "no JSON object", "no text 'caption'", "an empty text"], 1
    ):
        with pytest.raises(UnreadableImage, match=rf"x\.tar, member {index}\.png has {reason}"):
            source[index]
    path.write_bytes(path.read_bytes()[:600])  # while a run goes on
    with pytest.raises(UnreadableImage, match="is cut short"):
        source[2]
    inputs = inputs_of(shard(path, files))
    batch = inputs.train_pipeline(inputs.train_source(), 6, 0).batch(0)
    text = inputs.kinds()["text"].text
    assert batch["corrupt"].sum() == 5 and [text(row) for row in batch["text"]] == ["good"] * 6
