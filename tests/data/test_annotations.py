"""Sources of annotated images, out of tiny archives in the layouts of the real ones."""

import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.pipeline import EvalPipeline, TrainPipeline
from vit_jax.data.preprocess import Preprocess
from vit_jax.data.sources import coco, sa1b
from vit_jax.errors import UserError


def instances():
    """Three images, two with objects: a cat by polygons, a dog by run lengths, and a crowd of dogs."""
    dog = np.zeros((20, 30), np.uint8)
    dog[4:12, 6:20] = 1
    packed = coco_mask.encode(np.asfortranarray(dog))
    runs = {"size": [20, 30], "counts": packed["counts"].decode()}
    crowd = {"size": [20, 30], "counts": [0, 600]}
    cat = [[2, 3, 10, 3, 10, 9, 2, 9]]
    of = lambda n, image, kind, shape, box, **more: {  # noqa: E731
        "id": n, "image_id": image, "category_id": kind, "segmentation": shape, "bbox": box, "area": 9, "iscrowd": 0, **more,
    }  # fmt: skip
    return {
        "info": {"year": 2017}, "licenses": [],
        "images": [{"id": k, "file_name": f"{k:012}.jpg", "height": 20, "width": 30} for k in (139, 285, 632)],
        "annotations": [
            of(1, 139, 17, cat, [2, 3, 8, 6]), of(2, 632, 18, runs, [6, 4, 14, 8]), of(3, 632, 17, cat, [2.5, 3, 8, 6]),
            of(4, 285, 18, crowd, [0, 0, 30, 20], iscrowd=1),
        ],
        "categories": [{"id": 17, "name": "cat", "supercategory": "animal"}, {"id": 18, "name": "dog"}],
    }  # fmt: skip


@pytest.fixture
def archive(tmp_path):
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations").mkdir()
    for k in (139, 285, 632):
        cv2.imwrite(str(tmp_path / "val2017" / f"{k:012}.jpg"), np.full((20, 30, 3), k % 256, np.uint8))
    path = tmp_path / "annotations" / "instances_val2017.json"
    path.write_text(json.dumps(instances()))
    return str(path), str(tmp_path / "val2017")


def test_coco_is_as_its_own_library_reads_it(archive):
    source, own = coco.build(*archive), COCO(archive[0])
    assert source.label_names == ("background", "cat", "dog") and source.category_ids == (0, 17, 18)
    assert source.image_ids == (139, 632) and source.paths[0].endswith("val2017/000000000139.jpg")
    assert source.remarks == (f"1 of 3 images in {archive[0]} have no objects and are left out.",)
    section = {
        "image": {"name": "image"}, "masks": {"name": "masks", "max_objects": 3, "classes": 3},
        "boxes": {"name": "boxes", "count": 3, "classes": 3},
    }  # fmt: skip
    fields = build_fields(section, Context(Preprocess((20, 30)), source.label_names))
    [batch] = EvalPipeline(source, None, 2, num_threads=0, fields=fields).iterate()
    for k, number in enumerate(source.image_ids):
        rows = own.loadAnns(own.getAnnIds([number], iscrowd=False))
        valid = batch["masks_valid"][k]
        np.testing.assert_array_equal(batch["masks"][k][valid], [own.annToMask(row) for row in rows])
        assert [source.category_ids[c] for c in batch["masks_class"][k][valid]] == [row["category_id"] for row in rows]
        boxes = batch["boxes"][k][batch["boxes_valid"][k]]
        np.testing.assert_array_equal(boxes[:, 2:] - boxes[:, :2], [row["bbox"][2:] for row in rows])
        np.testing.assert_array_equal(boxes[:, :2], [row["bbox"][:2] for row in rows])
    everything = coco.build(*archive, empty=True)
    assert everything.image_ids == (139, 285, 632) and everything[1]["boxes"].shape == (0, 5)


@pytest.mark.parametrize(
    "change, sentence",
    [
        (
            lambda c: c.pop("categories"),
            "has not the lists images, annotations and categories of COCO. Give the JSON of",
        ),
        (lambda c: c["annotations"][1].pop("bbox"), "Entry 1 of annotations in .* has no 'bbox' as COCO's have it"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, -3, 4]), r"Entry 0 .* has the box \[1, 2, -3, 4\]"),
        (
            lambda c: c["annotations"][2].update(category_id=19),
            "Entry 2 of annotations .* is of the category 19, which it does not list",
        ),
        (
            lambda c: c["annotations"][0].update(image_id=1),
            "Entry 0 of annotations .* is of the image 1, which it does not list",
        ),
        (lambda c: c["images"][1].update(id=139), "Two of the images in .* have the same id"),
        (lambda c: c["images"][0].update(file_name="../a.jpg"), r"The image '../a.jpg' in .* leads out of"),
        (lambda c: c["images"].append(3), "Entry 3 of images in .* has no 'id'"),
        (lambda c: c["annotations"].clear(), "has no image with an object"),
    ],
)
def test_another_format_than_cocos_is_one_sentence(archive, change, sentence):
    content = instances()
    change(content)
    with open(archive[0], "w") as file:
        json.dump(content, file)
    with pytest.raises(UserError, match=sentence):
        coco.build(*archive)


def test_images_elsewhere_are_read_where_that_is_allowed(archive):
    content = instances()
    for image in content["images"]:
        image["file_name"] = f"../val2017/{image['file_name']}"
    with open(archive[0], "w") as file:
        json.dump(content, file)
    source = coco.build(*archive, allow_outside=True)
    assert source[0]["image"] and source.image_ids == (139, 632)


def test_what_is_no_json_is_one_sentence(archive, tmp_path):
    for text, sentence in (("{", "is no JSON"), ("[1]", "has not the lists"), (b"\xff\xfe\xff", "is no JSON")):
        (tmp_path / "x.json").write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(UserError, match=sentence):
            coco.build(str(tmp_path / "x.json"), archive[1])
    with pytest.raises(UserError, match="could not be read: No such file"):
        coco.build(str(tmp_path / "none.json"), archive[1])


@pytest.fixture
def segments(tmp_path):
    """Two images of SA-1B in two folders, with two masks and one, and an image without a JSON."""
    for k, (folder, count) in enumerate((("sa_000000", 2), ("sa_000001", 1)), 1):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / f"sa_{k}.jpg"), np.zeros((20, 30, 3), np.uint8))
        rows = []
        for n in range(count):
            mask = np.zeros((20, 30), np.uint8)
            mask[2 + n : 9, 3 : 12 + 3 * n] = 1
            packed = coco_mask.encode(np.asfortranarray(mask))
            rows.append(
                {
                    "segmentation": {"size": [20, 30], "counts": packed["counts"].decode()}, "id": n, "crop_box": [0, 0, 30, 20],
                    "bbox": coco_mask.toBbox(packed).tolist(), "area": int(mask.sum()), "predicted_iou": 0.9,
                    "stability_score": 0.95, "point_coords": [[4.0, 4.0]],
                }
            )  # fmt: skip
        image = {"image_id": k, "width": 30, "height": 20, "file_name": f"sa_{k}.jpg"}
        (tmp_path / folder / f"sa_{k}.json").write_text(json.dumps({"image": image, "annotations": rows}))
    cv2.imwrite(str(tmp_path / "sa_000001" / "sa_3.jpg"), np.zeros((20, 30, 3), np.uint8))
    return tmp_path


def test_sa1b_has_masks_and_their_boxes(segments):
    source = sa1b.build(str(segments))
    assert len(source) == 2 and source.remarks == (
        f"1 of 3 images in {segments} have no JSON beside them and are left out.",
    )
    section = {
        "image": {"name": "image"}, "masks": {"name": "masks", "max_objects": 2}, "boxes": {"name": "boxes", "count": 2}
    }  # fmt: skip
    fields = build_fields(section, Context(Preprocess((20, 30)), ()))
    [batch] = EvalPipeline(source, None, 2, num_threads=0, fields=fields).iterate()
    assert batch["masks_valid"].tolist() == [[True, True], [True, False]]
    for masks, boxes, valid in zip(batch["masks"], batch["boxes"], batch["masks_valid"], strict=True):
        for mask, (left, top, right, bottom) in zip(masks[valid], boxes[valid].astype(int), strict=True):
            assert mask.sum() == (right - left) * (bottom - top) == mask[top:bottom, left:right].sum()


def test_a_json_of_another_format_beside_an_image_is_stepped_over_in_training(segments):
    path = segments / "sa_000001" / "sa_2.json"
    source = sa1b.build(str(segments))
    fields = build_fields(
        {"image": {"name": "image"}, "masks": {"name": "masks", "max_objects": 2}}, Context(Preprocess((20, 30)), ())
    )
    for text in ("{}", "[]", '{"annotations": [{"bbox": [1, 2, 3, 4]}]}', '{"annotations": []}', "{"):
        path.write_text(text)
        sentence = "has no objects" if "[]}" in text else r"sa_2.json is no JSON of masks as SA-1B has them. Unpack it"
        with pytest.raises(UserError, match=sentence):
            list(EvalPipeline(source, None, 2, num_threads=0, fields=fields).iterate())
        assert TrainPipeline(source, None, 4, 0, num_threads=0, fields=fields).batch(0)["corrupt"].sum() == 2
    with pytest.raises(UserError, match=r"has no image sa_\*.jpg with its JSON"):
        (segments / "empty").mkdir()
        sa1b.build(str(segments / "empty"))
    with pytest.raises(UserError, match="nowhere cannot be listed"):
        sa1b.build(str(segments / "nowhere"))
