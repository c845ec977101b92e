"""ImageNet in each form that people keep it in: the same images with the same labels."""

import io
import json
import pickle
import re
import tarfile

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from tests.data.test_webdataset import shard
from vit_jax.data.decode import UnreadableImage
from vit_jax.data.label_names import label_names, synsets
from vit_jax.data.sources import imagenet
from vit_jax.errors import UserError

SYNSETS = ("n01440764", "n01443537", "n02088094")  # places 0, 1 and 160
NAMES = tuple(label_names("imagenet1k")[k] for k in (0, 1, 160))
OF = [2, 0, 1, 0, 2]  # the class of each validation image
DEVKIT = "ILSVRC2012_devkit_t12"


def png(value):
    return cv2.imencode(".png", np.full((4, 5, 3), value, np.uint8))[1].tobytes()


def named(k):
    return f"ILSVRC2012_val_{k + 1:08d}.JPEG"


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def flat(root, folder="val"):
    for k in range(len(OF)):
        write(root / folder / named(k), png(k))
    return root


def devkit(root, packed=False):
    """Its numbers are not those of the sorted synsets, and it has synsets that are above others."""
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(3, SYNSETS[0], "tench", 0), (1, SYNSETS[1], "goldfish", 0), (2, SYNSETS[2], "hound", 0),
            (4, "n00001740", "entity", 3)]  # fmt: skip
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, kind)[:, None]})
    truth = "".join(f"{(3, 1, 2)[k]}\n" for k in OF).encode()
    files = {"data/meta.mat": meta.getvalue(), "data/ILSVRC2012_validation_ground_truth.txt": truth}
    for name, data in files.items():
        write(root / DEVKIT / name, data)
    if packed:
        with tarfile.open(root / f"{DEVKIT}.tar.gz", "w:gz") as archive:
            archive.add(root / DEVKIT, DEVKIT)
        for name in files:
            (root / DEVKIT / name).unlink()
        (root / DEVKIT / "data").rmdir()
        (root / DEVKIT).rmdir()
    return root


def seen(source):
    assert source.label_names == NAMES and source.field_names == {"image", "label"}
    return sorted((example["image"], example["label"]) for example in (source[k] for k in range(len(source))))


VALIDATION = sorted((png(k), label) for k, label in enumerate(OF))


def test_folders_of_synsets(tmp_path):
    for base in (tmp_path / "a", tmp_path / "b/ILSVRC/Data/CLS-LOC"):
        for k, label in enumerate(OF):
            write(base / "val" / SYNSETS[label] / named(k), png(k))
    for root in ("a", "b"):
        source = imagenet.build(str(tmp_path / root), "val")
        assert seen(source) == VALIDATION
    assert source.labels.tolist() == [0, 0, 1, 2, 2]
    assert pickle.loads(pickle.dumps(source))[2] == source[2]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("tar", [False, True])
def test_validation_without_folders(tmp_path, tar, packed):
    if tar:
        shard(tmp_path / "ILSVRC2012_img_val.tar", {named(k): png(k) for k in (3, 1, 2, 0, 4)})
    else:
        flat(tmp_path)
    source = imagenet.build(str(devkit(tmp_path, packed)), "val")
    assert seen(source) == VALIDATION and source.labels.tolist() == OF
    where = f"{tmp_path}/ILSVRC2012_img_val.tar, member {named(1)}" if tar else f"{tmp_path}/val/{named(1)}"
    assert source[1]["path"] == where


def test_the_list_of_kaggle(tmp_path):
    rows = [f"ILSVRC2012_val_{k + 1:08d},{SYNSETS[OF[k]]} 1 2 3 4 {SYNSETS[OF[k]]} 5 6 7 8 " for k in (4, 0, 3, 1, 2)]
    (tmp_path / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows, ""]))
    flat(tmp_path, "ILSVRC/Data/CLS-LOC/val")
    assert seen(imagenet.build(str(tmp_path), "val")) == VALIDATION
    (tmp_path / "LOC_val_solution.csv").write_text("a\nb\n")
    with pytest.raises(UserError, match="it has other lines than"):
        imagenet.build(str(tmp_path), "val")


def training(path):
    inner = {}
    for label, synset in enumerate(SYNSETS):
        with tarfile.open(path.parent / "inner.tar", "w") as archive:
            for k in range(2):
                member = tarfile.TarInfo(f"{synset}_{k}.JPEG")
                member.size = len(png(10 * label + k))
                archive.addfile(member, io.BytesIO(png(10 * label + k)))
        inner[f"{synset}.tar"] = (path.parent / "inner.tar").read_bytes()
    return shard(path, inner)


def test_the_archive_of_training(tmp_path):
    """Archives in an archive, which stay where they are."""
    path = training(tmp_path / "ILSVRC2012_img_train.tar")
    source = imagenet.build(str(tmp_path), "train")
    assert seen(source) == sorted((png(10 * label + k), label) for label in range(3) for k in range(2))
    assert source[3]["path"] == f"{path}, member {SYNSETS[1]}_1.JPEG"
    data = path.read_bytes()
    inside = data.index(f"{SYNSETS[1]}_1.JPEG".encode())
    for cut, message in (
        (data[: len(data) // 2], r"ILSVRC2012_img_train\.tar is cut short or damaged"),
        (data[:inside] + b"?" * 512 + data[inside + 512 :], rf"member {SYNSETS[1]}\.tar, is cut short or damaged"),
    ):
        path.write_bytes(cut)
        with pytest.raises(UserError, match=message):
            imagenet.build(str(tmp_path), "train")
    path.write_bytes(data[: len(data) // 2])
    assert source[0]["image"] == png(0)
    with pytest.raises(UnreadableImage, match=rf"member {SYNSETS[2]}_1\.JPEG could not be read: it is cut short"):
        source[5]


@pytest.mark.parametrize("folders", [SYNSETS, ("0", "1", "160")])
def test_sets_of_folders_alone(tmp_path, folders):
    """ImageNet-A, -R, -Sketch and C by synsets, V2 by numbers; what lies beside them does not matter."""
    (tmp_path / "val" / "other").mkdir(parents=True)
    for k, label in enumerate(OF):
        write(tmp_path / "imagenet-x" / folders[label] / f"{k}.jpeg", png(k))
    assert seen(imagenet.build(str(tmp_path / "imagenet-x"), "all")) == VALIDATION


def test_labels_of_real(tmp_path):
    flat(devkit(tmp_path))
    real = [[160, 3], [0], [], [0, 999], [5]]
    (tmp_path / "real.json").write_text(json.dumps(real))
    source = imagenet.build(str(tmp_path), "val", real=str(tmp_path / "real.json"))
    assert source.label_names == label_names("imagenet1k") and len(synsets("imagenet1k")) == 1000
    for k, row in enumerate(real):
        assert np.flatnonzero(source[k]["label"]).tolist() == sorted(row) and source[k]["label"].dtype == np.float32
    for content, message in (
        (real[:4], "no list of labels for each validation image"),
        ([*real[:4], [1000]], "labels outside ImageNet's 1000 classes for image 5"),
        ("x", "no list of labels"),
        (None, "it is no JSON"),
    ):
        (tmp_path / "real.json").write_text(json.dumps(content) if content else "{")
        with pytest.raises(UserError, match=message):
            imagenet.build(str(tmp_path), "val", real=str(tmp_path / "real.json"))
    write(tmp_path / "a" / SYNSETS[0] / "x.jpg", png(1))
    with pytest.raises(UserError, match="x.jpg is no validation image of ImageNet"):
        imagenet.build(str(tmp_path / "a"), "all", real=str(tmp_path / "real.json"))


def test_mistakes(tmp_path):
    def refused(message, split="val", root=tmp_path):
        with pytest.raises(UserError, match=message):
            imagenet.build(str(root), split)

    refused("There is no folder", root=tmp_path / "gone")
    refused("no split 'test'", "test")
    refused(re.escape("holds neither val/ nor ILSVRC2012_img_val.tar"))
    flat(tmp_path)
    refused("nothing that says what they are")
    devkit(tmp_path)
    truth = tmp_path / DEVKIT / "data/ILSVRC2012_validation_ground_truth.txt"
    truth.write_bytes(truth.read_bytes()[:-2])
    refused(f"Nothing says of which class {named(4)} is")
    for data in (b"9\n" * 5, b"x\n", b"4\n" * 5):  # the last is above the classes
        truth.write_bytes(data)
        refused("is not the devkit of ILSVRC2012")
    (tmp_path / DEVKIT / "data/meta.mat").write_bytes(b"no file of MATLAB's" * 20)
    refused("is not the devkit of ILSVRC2012")
    truth.unlink()
    refused("could not be read: No such file")
    shard(devkit(tmp_path / "b") / "ILSVRC2012_img_val.tar", {"other.txt": b""})
    refused("holds no images", root=tmp_path / "b")
    write(tmp_path / "c/cats/1.jpg", png(0))
    refused("has a class 'cats', which is none of ImageNet's thousand", "all", tmp_path / "c")
