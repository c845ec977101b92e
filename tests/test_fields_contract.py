"""Tasks on other fields than one image and one label, through a plain config: what `data.fields` promises."""

import json
import re
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

import vit_jax
import vit_jax.evaluators
import vit_jax.tasks
from vit_jax import UserError
from vit_jax.commands import contact_sheet
from vit_jax.commands.main import main
from vit_jax.data.decode import decode
from vit_jax.data.palettes import colors_for
from vit_jax.planning.rehearsal import rehearse
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train
from vit_jax.training.metrics import round_off

COLOURS = {"red": (220, 20, 20), "green": (20, 220, 20), "blue": (20, 20, 220)}


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    """Modules of a package that its folder does not hold, as a paper adds them."""
    for package in (vit_jax.tasks, vit_jax.evaluators):
        folder = Path(__file__).parent / "toys" / package.__name__.rpartition(".")[2]
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])


def run(values, workdir):
    """The first and the last values of the log of a run."""
    train(build_experiment(values), workdir, jax.devices()[:1])
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return rows[0], {key: value for row in rows for key, value in row.items()}


def through_every_command(values, workdir, logged, images, output):
    """Sends a trained toy through resuming, evaluate, load, plan and predict; what predict wrote."""
    folder = workdir.parent
    for steps in (values["steps"] // 2, None):
        train(build_experiment(values | {"stop_at": steps}), folder / "resumed", jax.devices()[:1])
    jax.tree.map(np.testing.assert_array_equal, *(vit_jax.load(path).params for path in (workdir, folder / "resumed")))

    assert main(["evaluate", "--checkpoint", str(workdir), "--output", str(folder / "scores.json")]) == 0
    scores = json.loads((folder / "scores.json").read_text())
    del scores["checkpoint"]
    assert scores and {name: round_off(value) for name, value in scores.items()} == {
        name: logged[name] for name in scores
    }

    (folder / "config.py").write_text(f"def get_config(arg=''):\n    return {values!r}\n")
    assert main(["plan", "--config", str(folder / "config.py"), "--topology", "cpu:8", "--no-cache"]) == 0
    assert (
        main(["predict", "--checkpoint", str(workdir), *map(str, images), "--output", str(folder) + "/" + output]) == 0
    )
    found = folder / output
    return sorted(found.iterdir()) if found.is_dir() else list(map(json.loads, found.read_text().splitlines()))


def written(folder, images):
    """Images as PNG files."""
    paths = [folder / f"{name}.png" for name in "abc"[: len(images)]]
    for path, image in zip(paths, images, strict=True):
        cv2.imwrite(str(path), image[..., ::-1])
    return paths


def plain(task, data, **more):
    return {
        "seed": 0, "steps": 20, "batch_size": 16, "log_every": 10, "task": {"name": task}, "data": data,
        "optim": {"name": "adamw", "learning_rate": 0.03}, **more,
    }  # fmt: skip


def two_towers(folder):
    rng = np.random.default_rng(0)
    labels = np.arange(24) % 3
    images = np.clip(
        np.array(list(COLOURS.values()))[labels][:, None, None] + rng.normal(0, 9, (24, 12, 12, 3)), 0, 255
    )
    texts = np.array([f"a {list(COLOURS)[k]} thing, number {n}" for n, k in enumerate(labels)])
    np.savez(folder / "pairs.npz", images=images.astype(np.uint8), labels=labels, tokens=texts)
    np.savez(folder / "texts.npz", labels=labels, tokens=np.char.add("some ", texts))
    fields = {
        "image": {"name": "image"}, "label": {"name": "classes"},
        "tokens": {"name": "tokens", "tokenizer": "bytes", "length": 32},
    }  # fmt: skip
    pairs, texts = (
        {"name": "arrays", "path": str(folder / f), "fields": ["tokens"]} for f in ("pairs.npz", "texts.npz")
    )
    data = {
        "image_size": 8, "train": pairs, "eval": pairs, "fields": fields, "num_threads": 0,
        "transform": {"name": "supervised", "area": [0.5, 1.0]},
    }  # fmt: skip
    evals = {
        "texts": {"name": "knn", "train": texts, "test": texts, "features": "text_features", "k": 3},
        "images": {"name": "knn", "train": pairs, "features": "features", "k": 3},
    }
    return plain("toy_two_towers", data, evals=evals)


@pytest.mark.long
def test_two_towers_with_a_text_only_evaluation(tmp_path):
    values, workdir = two_towers(tmp_path), tmp_path / "run"
    first, last = run(values, workdir)
    assert last["train/loss"] < first["train/loss"] - 0.3  # at least log 5, since five of a batch are alike
    assert last["images/accuracy"] == 1 and last["texts/accuracy"] > 0.9

    images = np.stack([np.full((12, 12, 3), colour, np.uint8) for colour in COLOURS.values()])
    rows = through_every_command(values, workdir, last, written(tmp_path, images), "answers.jsonl")
    loaded = vit_jax.load(workdir)
    features = loaded.outputs({"image": loaded.preprocess.to_uint8(images[0])[None]}, ("features",))["features"]
    assert rows[0] == {"path": f"{tmp_path}/a.png", "text": f"mostly feature {features[0].argmax()}"}
    kind = loaded.fields["tokens"]
    tokens = kind.batched("tokens", kind.read("some red thing, number 7", "a text", None))["tokens"][None]
    found = loaded.outputs({"tokens": tokens}, ("text_features",))["text_features"]
    wanted = loaded.task.text.apply({"params": loaded.params["text"]}, tokens)
    np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted), rtol=1e-5)
    with pytest.raises(UserError, match="There is no field 'image' in this data, which has tokens"):
        loaded.outputs({"tokens": tokens}, ("features",))


def segmented(folder, **transform):
    """Photos with a red rectangle: its pixels as a palette PNG, its box, and five points in it."""
    rng, rows = np.random.default_rng(0), []
    for k in range(12):
        height, width = 40 + 2 * k, 60 - k
        image, mask = np.full((height, width, 3), (20, 90, 90), np.uint8), np.zeros((height, width), np.uint8)
        top, left = rng.integers([2, 2], [14, 24]).tolist()
        image[top : top + 22, left : left + 27], mask[top : top + 22, left : left + 27] = (220, 20, 20), 1
        mask[:, :2] = 255
        cv2.imwrite(str(folder / f"{k}.png"), image[..., ::-1])
        cv2.imwrite(str(folder / f"{k}_mask.png"), mask)
        points = rng.uniform([left + 1.5, top + 1.5], [left + 25.5, top + 20.5], (5, 2))
        box = [left, top, left + 27, top + 22]
        rows.append({"path": f"{k}.png", "label": 0, "mask": f"{k}_mask.png", "xy": points.tolist(), "boxes": [box]})
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = {
        "name": "manifest", "path": str(folder / "list.jsonl"), "files": {"segmentation": "mask"},
        "columns": {"points": "xy", "boxes": "boxes"},
    }  # fmt: skip
    fields = {
        "image": {"name": "image"}, "segmentation": {"name": "dense", "count": 2},
        "points": {"name": "points", "count": 4}, "boxes": {"name": "boxes", "count": 3},
    }  # fmt: skip
    data = {
        "image_size": [32, 48], "train": source, "eval": source, "fields": fields, "num_threads": 0,
        "preprocess": {"resize": "short_side", "resize_to": 52}, "transform": {"name": "supervised", **transform},
    }  # fmt: skip
    return plain("toy_segment", data, evals={"val": {"name": "toy_fits"}})


@pytest.mark.parametrize(
    "transform",
    [{"area": [0.4, 1.0]}, pytest.param({"area": [0.4, 1.0], "rotate": 40, "shift": 0.1}, marks=pytest.mark.long)],
)
def test_labels_points_and_boxes_follow_the_image(tmp_path, transform):
    values, workdir = segmented(tmp_path, border="constant", **transform), tmp_path / "run"
    _, last = run(values, workdir)
    for of in ("train", "val"):
        # Where colours meet, an interpolated pixel is of neither.
        assert last[f"{of}/pixels_fit"] > 0.97
        assert last[f"{of}/points_fit"] > 0.98
        assert last[f"{of}/boxes_fit"] > 0.99
    assert last["val/accuracy"] > 0.9
    assert last["train/points_dropped"] == 1 and last["train/boxes_dropped"] == 0
    if "rotate" in transform:
        image = np.full((32, 48, 3), (20, 90, 90), np.uint8)
        image[8:20, 10:30] = (220, 20, 20)
        [picture] = through_every_command(values, workdir, last, written(tmp_path, [image]), "masks/")
        mask = decode(picture.read_bytes())[..., 0] > 127
        assert picture.name == "000000_a.png" and mask.shape == (32, 48)
        assert mask[8:20, 10:30].mean() > 0.9 and mask.mean() < 0.5  # seen 52 / 32 times as large


@pytest.mark.long
def test_a_sampler_is_asked_for_samples(tmp_path, capsys):
    images = np.random.default_rng(0).normal(160, 40, (24, 8, 8, 3)).clip(0, 255).astype(np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(24) % 3)
    source = {"name": "arrays", "path": str(tmp_path / "images.npz")}
    data = {
        "image_size": 8, "train": source, "eval": source, "num_threads": 0,
        "transform": {"name": "supervised", "crop": "none", "flip": False},
    }  # fmt: skip
    evals = {"samples": {"name": "toy_moments", "of": "samples"}, "loss": {"name": "toy_moments", "of": "loss"}}
    values, workdir = plain("toy_sampler", data, evals=evals, steps=60), tmp_path / "run"
    first, last = run(values, workdir)
    assert last["train/loss"] < first["train/loss"] - 0.2
    wanted = (images / 127.5 - 1).mean()
    assert abs(last["samples/mean"] - wanted) < 0.1 and last["loss/mean"] == pytest.approx(last["train/loss"], abs=0.2)

    pictures = through_every_command(values, workdir, last, written(tmp_path, images[:3]), "samples/")
    pictures = np.stack([decode(path.read_bytes()) for path in pictures])
    assert len(np.unique(pictures, axis=0)) == 3 and abs(pictures.mean() - images.mean()) < 20
    # Sample 2 is the same in a batch of its own.
    batch = {"image": images[2:3], "index": np.array([2])}
    loaded = vit_jax.load(workdir)
    [alone] = loaded.task.answers(loaded.outputs(batch, ("samples",)), loaded.fields)
    np.testing.assert_array_equal(alone, pictures[2])
    assert main(["predict", "--checkpoint", str(workdir), str(tmp_path / "a.png")]) == 2
    assert "This task answers with pictures. Name a directory" in capsys.readouterr().err


def test_plan_and_bench_make_batches_from_the_specs(tmp_path):
    for values, keys in (
        (two_towers(tmp_path), {"image", "label", "tokens", "tokens_mask", "corrupt"}),
        (segmented(tmp_path), {"image", "segmentation", "corrupt", *(
            f"{name}{end}" for name in ("points", "boxes") for end in ("", "_valid", "_dropped"))}),
    ):  # fmt: skip
        rehearsal, real = rehearse(values, 3, jax.devices()[:1]), build_experiment(values).pipeline.batch(0)
        batch = rehearsal.batch()
        assert set(batch) == set(real) == keys
        assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {k: (v.shape, v.dtype) for k, v in real.items()}
        assert set(rehearsal.eval_batch()) == keys - {"corrupt"}
        assert rehearsal.program.lower().as_text()
    text = changed(two_towers(tmp_path), fields={"tokens": {"name": "tokens", "length": 9}}, transform=None)
    with pytest.raises(UserError, match="no field 'image' to transform"):
        rehearse(changed(text, transform={"name": "supervised"}), 3, jax.devices()[:1])


def test_a_contact_sheet_draws_what_lies_on_the_image_and_writes_texts(tmp_path):
    values = segmented(tmp_path)
    bare = changed(values, fields={"image": {"name": "image"}})
    drawn, plain = (decode(contact_sheet.sheet(each, 2, 3)[0]) for each in (values, bare))
    assert drawn.shape == plain.shape and (drawn != plain).mean() > 0.1
    # With names of the classes the picture says below what its colours mean.
    listed = tmp_path / "list.jsonl"
    rows = [
        json.loads(line) | {"label": ("table", "thing")[k % 2]}
        for k, line in enumerate(listed.read_text().splitlines())
    ]
    listed.write_text("\n".join(map(json.dumps, rows)))
    named = decode(contact_sheet.sheet(values, 2, 3)[0])
    strip = named[-20:]
    assert len(named) > len(drawn) + 10
    for tint in colors_for(("table", "thing")):
        assert (strip == tint).all(-1).any()
    assert contact_sheet.sheet(two_towers(tmp_path), 2, 2)
    texts = {"fields": {"tokens": {"name": "tokens", "length": 40}, "label": {"name": "classes"}}}
    texts = changed(two_towers(tmp_path), **texts, transform=None, image_size=None)
    with pytest.raises(UserError, match="this data has none. Write its texts: --output sheet.txt"):
        contact_sheet.sheet(texts, 2, 2)
    lines = contact_sheet.texts(texts, 3)[0].splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"{k} {name}" for k in range(3) for name in ("tokens", "label")]
    assert all(re.fullmatch(r"\d tokens: a (red|green|blue) thing, number \d+", line) for line in lines[::2])
    said, count = contact_sheet.texts(texts, 1000)  # each example once, however many are asked for
    assert count < 1000 and len(said.splitlines()) == 2 * count
    assert len({line.partition(": ")[2] for line in said.splitlines()[::2]}) == count
    with pytest.raises(UserError, match="This data has images"):
        contact_sheet.texts(two_towers(tmp_path), 3)


def changed(values, **data):
    return {**values, "data": {**values["data"], **data}}


def test_a_field_that_nobody_reads(tmp_path):
    values = segmented(tmp_path)
    values["data"]["train"]["columns"]["label"] = "label"
    extra = changed(values, fields={**values["data"]["fields"], "label": {"name": "classes", "count": 1}})
    with pytest.raises(
        UserError, match="Neither the task nor an evaluator reads the field 'label'. Remove config.data"
    ):
        train(build_experiment(extra), tmp_path / "run", jax.devices()[:1])
    assert not (tmp_path / "run").exists()
    # An evaluator is a reader too.
    evals = {"val": {"name": "toy_moments", "of": "mask_logits", "field": "label"}}
    train(build_experiment({**extra, "evals": evals, "steps": 1}), tmp_path / "run", jax.devices()[:1])


def test_what_does_not_fit_is_one_sentence(tmp_path):
    values = segmented(tmp_path)
    fields = values["data"]["fields"]
    wrong = {
        "does not move 'segmentation' with the image": {"transform": {"name": "two_views"}},
        "does not move 'segmentation'": {"transform": {"name": "supervised", "randaugment": {"layers": 1, "magnitude": 5}}},
        "'segmentation' would no longer fit": {"mix": {"mixup": 0.2}},
        "There is no field named 'densed'": {"fields": {**fields, "segmentation": {"name": "densed"}}},
        "The name 'valid' of a field": {"fields": {**fields, "valid": {"name": "classes"}}},
        "lies on an image, and there is none": {
            "fields": {"points": fields["points"]}, "transform": None, "image_size": None},
        "no field 'depth' but": {"fields": {**fields, "depth": {"name": "dense"}}},
        "There is no tokenizer named 'byte'": {"fields": {**fields, "t": {"name": "tokens", "length": 9, "tokenizer": "byte"}}},
        "both give 'boxes_valid'": {"fields": {**fields, "boxes_valid": {"name": "classes"}}},
    }  # fmt: skip
    for sentence, data in wrong.items():
        with pytest.raises(UserError, match=sentence):
            build_experiment(changed(values, **data)).pipeline.batch(0)
