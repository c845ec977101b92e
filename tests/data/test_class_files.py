"""Cityscapes, ADE20K and folders of masks, out of tiny archives in their layouts."""

import cv2
import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.palettes import palette
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.data.preprocess import Preprocess
from vit_jax.data.sources import ade20k, cityscapes, mask_folder


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)


def image(height=6, width=8):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


# Ids and names of the classes that are evaluated, as cityscapesScripts lists them.
STREETS = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
    20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck",
    28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
}  # fmt: skip


def test_cityscapes_has_its_19_classes_and_no_others(tmp_path):
    """The numbers of cityscapesScripts: road is 7, bicycle 33; parking (9) and a licence plate (-1) do not count."""
    labels = np.array([[7, 8, 9, 24], [33, 32, 0, 255]], np.uint8)
    for split, city, name in (("train", "aachen", "aachen_000000_000019"), ("val", "ulm", "ulm_000001_000019")):
        write(tmp_path / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", image(2, 4))
        write(tmp_path / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", labels)
        write(tmp_path / "gtFine" / split / city / f"{name}_gtFine_color.png", image(2, 4))
    source = cityscapes.build(str(tmp_path), "train")
    assert len(source) == 1 and source.label_names == palette("cityscapes").names
    np.testing.assert_array_equal(source[0]["segmentation"], [[0, 1, 255, 11], [18, 17, 255, 255]])
    every = tmp_path / "gtFine" / "train" / "aachen" / "aachen_000000_000019_gtFine_labelIds.png"
    write(every, np.arange(34, dtype=np.uint8)[None])
    found = source[0]["segmentation"][0].tolist()
    assert {number: source.label_names[k] for number, k in enumerate(found) if k != 255} == STREETS
    with pytest.raises(UserError, match="no folder .*leftImg8bit/test"):
        cityscapes.build(str(tmp_path), "test")
    path = tmp_path / "gtFine" / "val" / "ulm" / "ulm_000001_000019_gtFine_labelIds.png"
    write(path, np.full((2, 4), 77, np.uint8))
    with pytest.raises(UserError, match=r"ulm_000001_000019_gtFine_labelIds.png has the number 77 in it"):
        cityscapes.build(str(tmp_path), "val")[0]
    path.unlink()
    with pytest.raises(UserError, match="has no labels .*ulm_000001_000019_gtFine_labelIds.png"):
        cityscapes.build(str(tmp_path), "val")


def test_ade20k_counts_from_one(tmp_path):
    write(tmp_path / "images" / "training" / "ADE_train_00000001.jpg", image())
    write(tmp_path / "annotations" / "training" / "ADE_train_00000001.png", np.array([[0, 1, 150, 2]] * 6, np.uint8))
    source = ade20k.build(str(tmp_path), "training")
    np.testing.assert_array_equal(source[0]["segmentation"][0], [255, 0, 149, 1])
    assert source.label_names[0] == "wall" and len(source.label_names) == 150
    write(tmp_path / "annotations" / "training" / "ADE_train_00000001.png", np.full((6, 8), 151, np.uint8))
    with pytest.raises(UserError, match="ADE_train_00000001.png has the number 151"):
        source[0]
    with pytest.raises(UserError, match="no folder .*images/validation"):
        ade20k.build(str(tmp_path), "validation")


def test_a_folder_of_masks(tmp_path):
    for k in range(5):
        write(tmp_path / "images" / "a" / f"{k}.png", image())
        write(tmp_path / "masks" / "a" / f"{k}.png", np.full((6, 8), (0, 1, 2, 255, 1)[k], np.uint8))
    with pytest.raises(UserError, match="Nothing says what the numbers in the masks"):
        mask_folder.build(str(tmp_path), "train")
    (tmp_path / "classes.txt").write_text("ground\ntree\nroof\n")
    train, test = (mask_folder.build(str(tmp_path), split) for split in ("train", "test"))
    assert train.label_names == ("ground", "tree", "roof")
    assert len(train) + len(test) == 5 and not set(train.paths) & set(test.paths) and len(test)
    values = {
        path[-5]: int(source[i]["segmentation"][0, 0])
        for source in (train, test)
        for i, path in enumerate(source.paths)
    }
    assert values == {"0": 0, "1": 1, "2": 2, "3": 255, "4": 1}
    with pytest.raises(UserError, match=r"masks/a/\d.png has the number [12] in it"):
        for source in (mask_folder.build(str(tmp_path), s, classes=["ground"]) for s in ("train", "test")):
            for i in range(len(source)):
                source[i]
    with pytest.raises(UserError, match="no val/images/"):
        mask_folder.build(str(tmp_path), "val")
    write(tmp_path / "val" / "images" / "x.png", image())
    with pytest.raises(UserError, match="for 'segmentation'"):
        mask_folder.build(str(tmp_path), "val")


def test_a_mask_of_another_size_is_said_with_its_image(tmp_path):
    write(tmp_path / "images" / "x.png", image())
    write(tmp_path / "images" / "y.png", image())
    write(tmp_path / "masks" / "x.png", np.zeros((5, 8), np.uint8))
    write(tmp_path / "masks" / "y.png", np.zeros((5, 8), np.uint8))
    source = mask_folder.build(str(tmp_path), "train", classes=["a", "b"])
    section = {"image": {"name": "image"}, "segmentation": {"name": "dense", "count": 2}}
    preprocess = Preprocess((4, 4))
    pipeline = EvalPipeline(source, preprocess, 1, num_threads=0, fields=build_fields(section, Context(preprocess)))
    with pytest.raises(UserError, match=r"images/[xy].png, field 'segmentation', is 8x5 on an image of 8x6"):
        next(iter(pipeline.iterate()))


def test_the_alpha_channel_is_a_mask(tmp_path):
    rgba = np.dstack([image(), np.zeros((6, 8), np.uint8)])
    rgba[1:3, 2:5, 3], rgba[4, 4, 3] = 255, 90
    write(tmp_path / "train" / "images" / "x.png", rgba)
    source = mask_folder.build(str(tmp_path), "train", masks="alpha")
    wanted = np.zeros((6, 8), int)
    wanted[1:3, 2:5] = 1
    np.testing.assert_array_equal(source[0]["segmentation"], wanted)
    assert source.label_names == ("background", "object")
