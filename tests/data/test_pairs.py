"""Pictures and their texts by a list of files."""

import json
import pickle

import cv2
import numpy as np
import pytest

from vit_jax.data.decode import UnreadableImage
from vit_jax.data.sources import pairs
from vit_jax.errors import UserError
from vit_jax.training.inputs import build_inputs

NAMES = ("a.png", "deep/b.png", "c.png")


@pytest.fixture
def images(tmp_path):
    """Three images; the pixels of image k are 10 k."""
    for k, name in enumerate(NAMES):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(cv2.imencode(".png", np.full((4, 5, 3), 10 * k, np.uint8))[1].tobytes())
    return tmp_path


def written(folder, rows, name="list.jsonl"):
    text = rows if isinstance(rows, str) else "\n".join(json.dumps(row) for row in rows)
    (folder / name).write_text(text)
    return str(folder / name)


def test_one_text_or_several_of_jsonl_and_csv(images):
    texts = ("a cat", ["a dog", " ein Hund ", "a dog"], ["zwei Katzen"])
    rows = [
        {"path": name, "text": text, "kind": "xyx"[k]} for k, (name, text) in enumerate(zip(NAMES, texts, strict=True))
    ]
    source = pairs.build(written(images, rows), label_key="kind")
    assert [source[k]["text"] for k in range(3)] == ["a cat", ["a dog", "ein Hund"], "zwei Katzen"]
    assert source.labels == [0, 1, 0] and source.label_names == ("x", "y") and source[1]["label"] == 1
    assert source.field_names == {"image", "text", "label"}
    assert pickle.loads(pickle.dumps(source))[1] == source[1]
    plain = pairs.build(written(images, rows))
    assert plain[1] == {"image": source[1]["image"], "text": ["a dog", "ein Hund"], "path": f"{images}/deep/b.png"}
    assert plain.field_names == {"image", "text"} and plain.label_names == ()
    table = "path,name,also,more\na.png,a cat,,\ndeep/b.png,a dog,hound,pet\nc.png,,two cats,\n"
    source = pairs.build(written(images, table, "list.csv"), text_key=["name", "also", "more"])
    assert [source[k]["text"] for k in range(3)] == ["a cat", ["a dog", "hound", "pet"], "two cats"]


def test_training_draws_a_text_and_evaluation_takes_the_first(images):
    rows = [{"path": name, "text": [f"{k} {n}" for n in range(4)], "split": "train"} for k, name in enumerate(NAMES)]
    section = {"name": "pairs", "path": written(images, rows), "split": "train"}
    data = {
        "image_size": [4, 5], "num_workers": 0, "transform": {"name": "supervised"}, "train": section,
        "fields": {"image": {"name": "image"}, "text": {"name": "tokens", "length": 6}},
    }  # fmt: skip
    inputs = build_inputs(data)
    kinds = inputs.kinds()
    pipeline = inputs.train_pipeline(inputs.train_source(), 3, 0)
    shown = [kinds["text"].text(row) for step in range(20) for row in pipeline.batch(step)["text"]]
    assert {text[0] for text in shown} == set("012") and {text[2] for text in shown} == set("0123")
    assert [kinds["text"].text(row) for row in pipeline.batch(7)["text"]] == shown[21:24]
    [batch] = inputs.eval_pipeline(3, "config.evals.val", section).iterate()
    assert [kinds["text"].text(row) for row in batch["text"]] == ["0 0", "1 0", "2 0"]
    assert batch["image"][:, 0, 0, 0].tolist() == [0, 10, 20]


GOOD = [{"path": "a.png", "text": "a cat"}, {"path": "c.png", "text": "a dog"}]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([*GOOD, {"path": "x.png", "text": "y"}, {"path": "z.png", "text": "z"}], {},
         r"2 of 4 files that .* lists are missing or no files: first '.*x\.png' in line 3"),
        ([*GOOD, {"path": "deep/b.png", "text": " "}], {}, "1 of 3 lines of .* has an empty text, first line 3"),
        ([{"path": "a.png", "text": ["x", ""]}, {"path": "c.png", "text": ""}], {}, "2 of 2 lines .* first line 1"),
        ([{"path": "a.png", "text": []}, *GOOD], {}, "1 of 3 lines of .* has no text as 'text', first line 1"),
        ([{"path": "a.png", "text": 3}, *GOOD], {}, "1 of 3 lines of .* has no text as 'text', first line 1"),
        ([{"path": "a.png"}, *GOOD], {"text_key": ["text", "more"]}, "no text as 'text' or 'more', first line 1"),
        ([*GOOD, {"path": "./a.png", "text": "a bus"}, {"path": "a.png", "text": "a van"}], {},
         "2 of 4 lines of .* list an image again with another text, first line 3 that of line 1. Set repeated='join'"),
        ([*GOOD, {"path": "../a.png", "text": "x"}], {}, "lead out of"),
        ([{"path": "a.png", "text": "x", "y": "p"}, {"path": "a.png", "text": "z", "y": "q"}],
         {"repeated": "join", "label_key": "y"}, "lists the image of line 1 in line 2 with another label"),
        (GOOD, {"label_names": ["x"]}, "label_names are given without a label_key"),
        (GOOD, {"text_key": []}, "text_key is empty"),
        (GOOD, {"split": "train"}, "2 of 2 lines of .* have no 'split'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_list_is_one_sentence(images, rows, options, message):
    with pytest.raises(UserError, match=message):
        pairs.build(written(images, rows), **options)


def test_rows_of_one_image_are_joined_where_that_is_meant(images):
    rows = [*GOOD, {"path": "./a.png", "text": ["a bus", "a cat"]}, {"path": "c.png", "text": "a dog"}]
    source = pairs.build(written(images, rows), repeated="join")
    assert [source[k]["text"] for k in range(len(source))] == [["a cat", "a bus"], "a dog"]
    same = pairs.build(written(images, [*GOOD, GOOD[1]]))  # nothing else is said, so that nothing is wrong
    assert [same[k]["text"] for k in range(len(same))] == ["a cat", "a dog"]
    leak = [{**row, "split": split} for row, split in ((GOOD[0], "train"), (GOOD[1], "train"), (GOOD[0], "test"))]
    [remark] = pairs.build(written(images, leak), split="test").remarks
    assert "1 files are listed in" in remark and "different splits" in remark and "lines 1 and 3" in remark


def test_images_may_be_left_to_training(images):
    source = pairs.build(written(images, [*GOOD, {"path": "x.png", "text": "y"}]), check_files=False)
    with pytest.raises(UnreadableImage, match="x.png could not be read"):
        source[2]
