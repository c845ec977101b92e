"""`vit_jax segment` and `annotate`: what they write, and what they refuse before they compute anything."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
from flax import linen as nn

from tests.answering import answering
from vit_jax.commands import annotate, segment
from vit_jax.commands.main import main
from vit_jax.data import rle
from vit_jax.data.drawing import image_png
from vit_jax.data.preprocess import Preprocess
from vit_jax.data.sources import coco
from vit_jax.tasks.segment import Segment

PHOTO = np.random.default_rng(0).integers(0, 256, (48, 96, 3), np.uint8)
PAD = Preprocess((32, 32), resize="pad", anchor="corner")


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A model that is no file, and a photo in the folder in which the command is started."""
    loaded = answering(PAD)
    for command in (segment, annotate):
        monkeypatch.setattr(command, "open_loaded", lambda arguments: loaded)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/photo.png").write_bytes(image_png(PHOTO))
    return loaded


def run(command, *arguments):
    return main([command, "--checkpoint", "x", *map(str, arguments)])


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def test_one_point_writes_three_masks_with_what_the_model_thinks_of_them(model, tmp_path, capsys):
    assert run("segment", "photos/photo.png", "--points", "50,20", "--output", "out") == 0
    expected = model.prompted(PHOTO)(points=[(50, 20)])
    said = json.loads((tmp_path / "out/photo.json").read_text())
    assert (said["height"], said["width"], len(said["masks"])) == (48, 96, 3)
    for k, record in enumerate(said["masks"]):
        np.testing.assert_array_equal(read(tmp_path / f"out/photo_mask_{k}.png") > 0, expected.masks[k])
        np.testing.assert_array_equal(rle.decode(record["segmentation"]), expected.masks[k])
        assert record["predicted_iou"] == pytest.approx(expected.iou[k], abs=1e-4)
        assert record["stability_score"] == pytest.approx(expected.stability[k], abs=1e-4)
        assert record["area"] == expected.masks[k].sum()
    assert read(tmp_path / "out/photo_overlay.png").shape[1] > 3 * 96  # three pictures
    assert capsys.readouterr().out.startswith("photos/photo.png: ")


def test_prompts_go_together(model, tmp_path):
    drawn = np.zeros((48, 96, 3), np.uint8)
    drawn[10:30, 20:60] = 255
    (tmp_path / "m.png").write_bytes(image_png(drawn))
    prompts = ("--points", "50,20", "70.5,40,-", "--box", "10,5,90,45", "--mask", "m.png")
    assert run("segment", "photos/photo.png", *prompts, "--output", "out") == 0
    asked = {"points": [(50, 20), (70.5, 40)], "labels": [1, 0], "box": (10, 5, 90, 45), "mask": drawn[..., 0]}
    [mask] = model.prompted(PHOTO)(**asked).masks
    np.testing.assert_array_equal(read(tmp_path / "out/photo_mask_0.png") > 0, mask)
    assert not (tmp_path / "out/photo_mask_1.png").exists()


def test_everything_in_a_folder_and_what_cannot_be_read(model, tmp_path, capsys):
    (tmp_path / "photos/again.png").write_bytes(image_png(PHOTO[:, ::-1]))
    (tmp_path / "photos/broken.jpg").write_bytes(b"no image")
    grid = ("--points-per-side", 3, "--least-iou", 0.0, "--least-stability", 0.0)
    assert run("segment", "photos", "--everything", *grid, "--output", "out") == 2
    said = [json.loads(path.read_text()) for path in sorted((tmp_path / "out").glob("*.json"))]
    assert [each["path"] for each in said] == ["photos/again.png", "photos/photo.png"]
    assert all(each["masks"] for each in said)
    scores = [record["predicted_iou"] for record in said[1]["masks"]]
    assert scores == sorted(scores, reverse=True)
    assert "1 of 3 images were left out" in capsys.readouterr().err


def test_annotations_are_read_by_the_source_coco(model, tmp_path, capsys):
    grid = ("--points-per-side", 3, "--least-iou", 0.0, "--least-stability", 0.0)
    assert run("annotate", "photos", *grid, "--output", "found.json", "--thumbnails", "seen") == 0
    said = json.loads((tmp_path / "found.json").read_text())
    assert said["categories"] == [{"id": 1, "name": "object"}]
    assert said["images"] == [{"id": 1, "file_name": "photos/photo.png", "width": 96, "height": 48}]
    assert [row["id"] for row in said["annotations"]] == list(range(1, len(said["annotations"]) + 1))
    example = coco.build(str(tmp_path / "found.json"), str(tmp_path))[0]
    assert len(json.loads(example["masks"])) == len(said["annotations"]) > 0
    np.testing.assert_array_equal(example["boxes"][0][:2], said["annotations"][0]["bbox"][:2])
    assert read(tmp_path / "seen/000001_photo.png").shape == (48, 96, 3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "There is no prompt. Give --points, --box, --mask or --text, or --everything."),
        (["--points", "96,2"], "The point 96,2 lies outside of the photo, which is 96x48."),
        (["--points", "5"], "--points 5 is no point. Write x,y and for one that is not on it x,y,-."),
        (["--points", "5,6,7"], "--points 5,6,7 is no point."),
        (["--points", "5,nan"], "--points 5,nan is no point."),
        (["--box", "1,2,3"], "--box is 1,2,3. Give left, top, right and bottom"),
        (["--box", "40,10,20,30"], "The box 40,10,20,30 has no area, or is turned round."),
        (["--mask", "small.png"], "The mask is 10x8, and the photo 96x48."),
        (["--mask", "none.png"], "none.png could not be read"),
        (["--text", "a wheel"], "This model takes no text as a prompt. Use a checkpoint of the task 'sam_text'."),
        (["--everything", "--text", "a wheel"], "--everything is asked for, and a prompt too."),
        (["--everything", "--points", "5,5"], "--everything is asked for, and a prompt too."),
        (["--everything", "--least-iou", "2"], "the grid of clicks.least_iou is 2.0"),
        (["--everything", "--points-per-side", "0"], "points_per_side is 0"),
    ],
)  # fmt: skip
def test_prompts_that_mean_nothing(model, tmp_path, capsys, arguments, said):
    (tmp_path / "small.png").write_bytes(image_png(PHOTO[:8, :10]))
    assert run("segment", "photos/photo.png", *arguments, "--output", "out") == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_model_without_prompts(tmp_path, capsys, monkeypatch, model):
    monkeypatch.setattr(type(model), "model", property(lambda self: None))
    for arguments in (
        ["segment", "photos", "--points", "5,5", "--output", "out"],
        ["annotate", "photos", "--output", "f.json"],
    ):
        assert run(*arguments) == 2
        assert "x takes no prompts. Use a checkpoint of SAM" in capsys.readouterr().err


def test_a_semantic_checkpoint_gives_the_class_of_each_pixel_of_the_photo(model, tmp_path, capsys, monkeypatch):
    names = ("sky", "sea", "sand")
    semantic = dataclasses.replace(model, task=Segment(nn.Dense(1), {}, names, "segmentation", 255, None, 0.4))
    monkeypatch.setattr(segment, "open_loaded", lambda arguments: semantic)
    asked = []

    def outputs(self, batch, names):
        """In the left half of what the model sees it is sky, in the right half sand."""
        asked.append(len(batch["image"]))
        return {"class_map": np.broadcast_to(np.where(np.arange(32) < 16, 0, 2), (len(batch["image"]), 32, 32))}

    monkeypatch.setattr(type(model), "outputs", outputs)
    for k, photo in enumerate([PHOTO[:, :48], PHOTO[:24]]):
        (tmp_path / f"photos/{k}.png").write_bytes(image_png(photo))
    assert run("segment", "photos", "--batch-size", 2, "--output", "out") == 0
    assert asked == [2, 2]  # three photos, the last batch filled up
    for k, (name, shape) in enumerate([("0", (48, 48)), ("1", (24, 96)), ("photo", (48, 96))]):
        classes = read(tmp_path / f"out/{k:06d}_{name}_classes.png")
        expected = np.where(np.arange(shape[1]) < shape[1] // 2, 0, 2)
        np.testing.assert_array_equal(classes, np.broadcast_to(expected, shape))
        assert (tmp_path / f"out/{k:06d}_{name}_overlay.png").exists()
    assert capsys.readouterr().out.splitlines()[0] == "photos/0.png: sky 50.0%, sand 50.0%"
    assert run("segment", "photos", "--points", "5,5", "--output", "out") == 2
    assert "takes no prompts" in capsys.readouterr().err
