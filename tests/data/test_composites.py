"""Cut-outs out of packages and folders, and the scenes that are made of them."""

import hashlib
import json

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from vit_jax.commands.main import main
from vit_jax.data.decode import decode, decode_rgba
from vit_jax.data.sources import composites
from vit_jax.errors import UserError
from vit_jax.training.config import load_config
from vit_jax.training.inputs import build_inputs

_CODES = [f"{0x1F400 + n:X}" for n in range(24)]


def solid(color, share):
    """A square of 64 pixels whose upper part is there."""
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[: round(64 * share)] = (*color, 255)
    return pixels


def package(root):
    """Emoji as the package of an art has them: blue beasts, red tools, a flag, and one that is hardly there."""
    folder = root / "emoji-datasource-google"
    (folder / "img" / "google" / "64").mkdir(parents=True)
    kinds = ["Beasts", "Tools"] * 11 + ["Flags", "Tools"]
    entries = []
    for n, (code, kind) in enumerate(zip(_CODES, kinds, strict=True)):
        pixels = solid((250, 10, 10) if kind == "Beasts" else (10, 10, 250), 0.05 if n == 23 else 0.8)
        cv2.imwrite(str(folder / "img" / "google" / "64" / f"{code.lower()}.png"), pixels)
        entries.append(
            {
                "unified": code,
                "image": f"{code.lower()}.png",
                "name": f"THING {n}",
                "category": kind,
                "has_img_google": True,
            }
        )
    (folder / "emoji.json").write_text(json.dumps(entries))
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The folder that the command writes, of the package, two stamps, and eight pieces of two photos."""
    root = tmp_path_factory.mktemp("cutouts")
    package(root)
    (root / "stamps").mkdir()
    (root / "photos").mkdir()
    for name in ("old_boat", "kite"):
        cv2.imwrite(str(root / "stamps" / f"{name}.png"), solid((10, 250, 10), 0.5))
    for k, photo in enumerate(load_sample_images().images):
        for column in range(4):
            piece = photo[:, 150 * column : 150 * column + 150]
            cv2.imwrite(str(root / "photos" / f"{k}_{column}.png"), piece[..., ::-1])
    large = cv2.resize(load_sample_images().images[0], (1200, 900))
    cv2.imwrite(str(root / "photos" / "large.jpg"), large)
    folders = [str(root / name) for name in ("emoji-datasource-google", "stamps", "photos")]
    assert main(["prepare", "cutouts", "--from", *folders, "--output", str(root / "out")]) == 0
    return root / "out"


def test_a_small_sam_learns_from_scenes_and_from_what_was_annotated(prepared, tmp_path):
    """What `annotate` writes has no class of each pixel, which scenes have and nobody reads here."""
    cv2.imwrite(str(tmp_path / "a.png"), np.full((64, 64, 3), 7, np.uint8))
    record = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [4, 4, 8, 8], "area": 64}
    said = {
        "images": [{"id": 1, "file_name": "a.png", "height": 64, "width": 64}],
        "annotations": [{**record, "segmentation": [[4, 4, 12, 4, 12, 12, 4, 12]]}],
        "categories": [{"id": 1, "name": "object"}],
    }
    (tmp_path / "found.json").write_text(json.dumps(said))
    values = load_config(f"composites_sam:data={prepared},annotations={tmp_path / 'found.json'},scenes=8,smoke")
    inputs = build_inputs(values["data"])
    batch = inputs.train_pipeline(inputs.train_source(), 20, 0).batch(0)
    annotated = (batch["image"] == 7).all((1, 2, 3))
    assert annotated.sum() == 10 and batch["masks_valid"][annotated].sum(1).tolist() == [1] * 10
    assert "segmentation" not in batch and batch["masks_valid"][~annotated].any(1).all()


def test_cutouts_are_held_out_by_name_and_photos_shrunk(prepared, capsys):
    rows = [json.loads(line) for line in (prepared / "cutouts.jsonl").read_text().splitlines()]
    assert len(rows) == 24 and {row["category"] for row in rows} == {"Beasts", "Tools", "stamps"}
    order = sorted([*_CODES[:22], "old_boat.png", "kite.png"], key=lambda x: hashlib.sha256(f"0 {x}".encode()).digest())
    held_out = {name.lower().removesuffix(".png") for name in order[:4]}
    assert {
        row["path"].split("/")[-1][:-4].removeprefix("google_") for row in rows if row["split"] == "test"
    } == held_out
    for row in rows:
        assert row["path"].startswith(row["split"] + "/cutouts/")
        assert decode_rgba((prepared / row["path"]).read_bytes(), "x").shape == (64, 64, 4)
    assert {row["text"] for row in rows if row["category"] == "stamps"} == {"old boat", "kite"}
    photos = {path.stem: path for path in prepared.glob("*/photos/*.png")}
    assert len(photos) == 9 and len(list(prepared.glob("test/photos/*"))) == 2
    assert min(decode(photos["large"].read_bytes()).shape[:2]) == 512
    np.testing.assert_array_equal(decode(photos["1_2"].read_bytes()), load_sample_images().images[1][:, 300:450])


def test_scenes_know_every_pixel(prepared):
    source = composites.build(str(prepared), "train", 40, 48, plates=0.0)
    assert source.label_names == ("background", "Beasts", "Tools", "stamps") and len(source) == 40
    for k in range(12):
        example = source[k]
        image, labels = example["image"].astype(int), example["segmentation"]
        for kind, color in ((1, (10, 10, 250)), (2, (250, 10, 10)), (3, (10, 250, 10))):
            # Edges are soft.
            inner = cv2.erode((labels == kind).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
            assert np.abs(image[inner] - color).max(initial=0) <= 3
        assert 1 <= len(example["masks"]) <= 3
        for mask, box in zip(example["masks"], example["boxes"], strict=True):
            assert (labels[mask["segmentation"] > 0] == mask["class"]).all() and box[4] == mask["class"]
    assert len({source[k]["image"].tobytes() for k in range(12)}) == 12


def test_an_object_on_a_plate_is_within_a_larger_one(prepared):
    source = composites.build(str(prepared), "train", 40, 64, plates=1.0, objects=(1, 1))
    plate = source.label_names.index("plate")
    for k in range(10):
        whole, part = source[k]["masks"]
        assert whole["class"] == plate != part["class"]
        inside, outside = part["segmentation"] > 0, whole["segmentation"] > 0
        assert (inside <= outside).all() and 1.2 * inside.sum() < outside.sum()
    half = composites.build(str(prepared), "train", 200, 64, objects=(1, 1))
    assert 70 < sum(len(half[k]["masks"]) == 2 for k in range(200)) < 130


def test_a_scene_is_a_function_of_split_seed_and_index(prepared):
    build = lambda split="train", **more: composites.build(str(prepared), split, 9, 32, **more)  # noqa: E731
    first = build()[5]
    again = build(classes=None)[5]
    np.testing.assert_array_equal(first["image"], again["image"])
    np.testing.assert_array_equal(first["boxes"], again["boxes"])
    for other in (build(seed=1), build("test"), build(backgrounds="textures")):
        assert (other[5]["image"] != first["image"]).any()
    tools = build(classes=["Tools"], plates=0.0)
    assert tools.label_names == ("background", "Tools")
    assert {int(box[4]) for k in range(9) for box in tools[k]["boxes"]} == {1}


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"classes": ["Toools"]}, "has no category 'Toools'. Did you mean 'Tools'"),
        ({"classes": []}, r"classes=\[\] is not a choice of categories"),
        ({"objects": (0, 1)}, "a scene has objects"),
        ({"split": "val"}, "has no rows with split 'val'"),
        ({"root": "nowhere"}, "The manifest nowhere/cutouts.jsonl in .* could not be read"),
    ],
)
def test_what_cannot_be_made_is_one_sentence(prepared, options, sentence):
    with pytest.raises(UserError, match=sentence):
        composites.build(**{"root": str(prepared), "split": "train", "length": 3, **options})


def test_folders_without_cutouts_or_photos_are_one_sentence(prepared, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    cv2.imwrite(str(tmp_path / "photo.png"), np.zeros((9, 9, 3), np.uint8))
    for folder, sentence in ((tmp_path / "empty", "holds no images"), (tmp_path, "No images with transparency are in")):
        assert main(["prepare", "cutouts", "--from", str(folder), "--output", str(tmp_path / "out")]) == 2
        assert sentence in capsys.readouterr().err
    cv2.imwrite(str(tmp_path / "cut.png"), solid((1, 2, 3), 0.5))
    assert main(["prepare", "cutouts", "--from", str(tmp_path), "--output", str(tmp_path / "out")]) == 0
    manifest = tmp_path / "out" / "cutouts.jsonl"
    with pytest.raises(UserError, match="train/photos.* holds no photos. Prepare some with 'vit_jax prepare cutouts'"):
        (tmp_path / "out" / "train" / "photos" / "photo.png").unlink()
        composites.build(str(tmp_path / "out"), "train", 2)
    manifest.write_text('{"path": "train/cutouts/cut.png", "split": "train"}\n')
    with pytest.raises(UserError, match="has no 'category'"):
        composites.build(str(tmp_path / "out"), "train", 2, backgrounds="textures")
