"""Pairs written as ArrayRecord: what is left out, and going on where a run was stopped."""

import io
import json
import re
import signal
import tarfile

import cv2
import numpy as np
import pytest
import tensorflow_datasets

from vit_jax.commands.main import main
from vit_jax.data import pair_records, queries
from vit_jax.data.pair_records import Rules
from vit_jax.data.sources import pairs, tfds
from vit_jax.errors import UserError


def png(value):
    return cv2.imencode(".png", np.full((6, 9, 3), value, np.uint8))[1].tobytes()


def listed(folder, rows):
    """A manifest of images by their number and what is said of them."""
    for k, (number, _) in enumerate(rows):
        (folder / f"{k}.png").write_bytes(b"no image" if number is None else png(number))
    text = "\n".join(json.dumps({"path": f"{k}.png", "text": text}) for k, (_, text) in enumerate(rows))
    (folder / "list.jsonl").write_text(text)
    return str(folder / "list.jsonl")


def read(folder, name="mine", split="train"):
    source = tfds.build(name, split, str(folder), label_key=None, fields={"text": "text"})
    return [(source[k]["image"], source[k]["text"]) for k in range(len(source))]


ROWS = [
    (0, "a red cat"), (1, ["", "x" * 30]), (0, "a copy"), (None, "a cat that is damaged"), (2, ["a dog", "y" * 30]),
    (3, "two Cats"), (4, "a red dog"), (5, "A RED cat, asleep"), (6, "catalogue"),
]  # fmt: skip


def test_what_is_left_out_is_counted(tmp_path, capsys):
    listed(tmp_path, [(number, text or " ") for number, text in ROWS[:1] + ROWS[2:]])
    (tmp_path / "queries.txt").write_text("cat\ndog\nRed cat\n")
    command = ["prepare", "pairs", "mine", "--manifest", str(tmp_path / "list.jsonl"), "--data-dir", str(tmp_path)]
    command += ["--queries", str(tmp_path / "queries.txt"), "--per-query", "1", "--longest", "25"]
    assert main(command) == 0
    said = capsys.readouterr()
    rows = [line.rsplit(maxsplit=1) for line in said.out.splitlines()[2:-1]]
    # "a red cat" counts for "red cat", which comes first in it, "asleep" for "cat"; then "dog" has enough.
    assert {reason: int(count) for reason, count in rows} == {
        "pairs": 8, "image there before": 1, "unreadable": 1, "no query in it": 2, "its queries have enough": 1,
        "kept": 3, "captions left out of them": 1,
    }  # fmt: skip
    assert "1 images could not be read, first: " in said.err and "2.png" in said.err
    assert read(tmp_path) == [(png(0), b"a red cat"), (png(2), b"a dog"), (png(5), b"A RED cat, asleep")]
    folder = tmp_path / "mine/1.0.0"
    assert {path.suffix for path in folder.iterdir()} == {".json", ".array_record-00000"}
    # TFDS itself reads it too.
    stock = tensorflow_datasets.builder_from_directory(folder).as_data_source(split="train")
    assert list(stock[1]["text"]) == [b"a dog"] and (stock[1]["image"] == 2).all()
    assert main(command) == 2 and "mine/1.0.0 exists already" in capsys.readouterr().err


class Stopped:
    """True at the nth time."""

    def __init__(self, after):
        self.left = after

    def __call__(self):
        self.left -= 1
        return self.left < 0


def test_a_run_that_is_stopped_or_killed_writes_what_it_would_have(tmp_path):
    rows = [(k % 17 if k % 7 else None, f"{'cat' if k % 3 else 'dog'} {k}") for k in range(40)]
    source = pairs.build(listed(tmp_path, rows))
    splits = {"train": source, "test": pairs.build(listed(tmp_path, [*rows, (99, "cat"), (98, "dog")]))}
    asked = queries.Queries(["cat", "dog"])

    def write(folder, **options):
        return pair_records.write("mine", splits, str(folder), Rules(per_query=5), asked, part_bytes=400, **options)

    written, whole = write(tmp_path / "whole")
    assert written and whole["train"].read == 40 and whole["train"].kept == 10 and whole["test"].kept == 7
    expected = [read(tmp_path / "whole", split=split) for split in splits]
    assert len(expected[0]) == 10 and len(list((tmp_path / "whole/mine/1.0.0").glob("*train*"))) > 2

    def killed(after):
        asked = Stopped(after)

        def told(count):
            if asked():
                raise OSError("killed")

        return told

    for case, after in enumerate([(0,), (3, 5, 1), (39,), (40,), (20, 20, 20), (-9, 7, -33, -50)]):
        folder = tmp_path / f"stopped{case}"
        for one in after:
            if one == "killed":
                with pytest.raises(OSError, match="killed"):
                    write(folder, progress=lambda count: (count == 1 and Stopped(9)()) or killed(count))
            else:
                assert write(folder, stopped=Stopped(one))[0] is None
        written, tallies = write(folder)
        assert [read(folder, split=split) for split in splits] == expected and tallies == whole
    begun = tmp_path / "begun"
    assert write(begun, stopped=Stopped(3))[0] is None
    with pytest.raises(UserError, match="was begun from other pairs or with other rules"):
        pair_records.write("mine", splits, str(begun), Rules(per_query=6), asked)


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path, monkeypatch, capsys):
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for k in range(20):
            for name, data in ((f"{k}.png", png(k)), (f"{k}.json", json.dumps({"caption": f"number {k}"}).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    command = ["prepare", "pairs", "mine", "--shards", str(tmp_path / "{0..0}.tar"), "--data-dir", str(tmp_path)]
    serialize = tensorflow_datasets.features.FeaturesDict.serialize_example
    written = []

    def interrupted(features, example):
        written.append(example["text"])
        if len(written) == 8:
            signal.raise_signal(signal.SIGINT)
        return serialize(features, example)

    monkeypatch.setattr(tensorflow_datasets.features.FeaturesDict, "serialize_example", interrupted)
    assert main(command) == 130
    assert "8 of 20 pairs are done; the same command goes on" in capsys.readouterr().err
    assert main(command) == 0
    assert written == [[f"number {k}"] for k in range(20)]  # none of them twice
    assert read(tmp_path) == [(png(k), f"number {k}".encode()) for k in range(20)]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["pairs", "mine"], "One of the arguments --shards --manifest is required"),
        (["pairs", "mine", "--manifest", "list.jsonl", "--longest", "0"], "--longest is 0"),
        (["pairs", "mine", "--manifest", "list.jsonl", "--longest", "3", "--shortest", "4"], "--longest is below"),
        (["pairs", "mine", "--manifest", "list.jsonl", "--per-query", "3"], "--per-query goes with --queries"),
        (["pairs", "mine", "--manifest", "list.jsonl", "--queries", "none.txt"], "none.txt in .* could not be read"),
        (["pairs", "mine", "--manifest", "list.jsonl", "--queries", "empty.txt"], "There are no queries"),
        (["pairs", "mine", "--manifest", "list.jsonl", "--shortest", "99"],
         "Nothing of the split 'train' is kept. See why: 2 caption too short or long"),
        (["pairs", "mnist", "--manifest", "list.jsonl"], "'mnist' is a data set of TFDS"),
        (["pairs", "My set", "--manifest", "list.jsonl"], "'My set' cannot name a data set"),
        (["pairs", "mine", "--shards", "x.tar", "--splits", "train"], "--splits goes with --manifest"),
        (["pairs", "mine", "--shards", "x.tar", "--text-key", "a", "b"], "Shards have one --text-key"),
        (["queries", "list.jsonl", "--least", "9"], "No word occurs 9 times"),
        (["queries", "list.jsonl", "--least", "0"], "--least is below 1"),
        (["queries", "list.jsonl", "--output", "x.json"], "--output x.json does not end in .txt"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    listed(tmp_path, [(0, "a cat"), (1, "a dog")])
    (tmp_path / "empty.txt").write_text("\n ?! \n")
    assert main(["prepare", *arguments, *(["--data-dir", "out"] if arguments[0] == "pairs" else [])]) == 2
    assert re.search(sentence, capsys.readouterr().err)


def test_queries_are_words_and_telling_pairs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    texts = ["The New York bus, the x-ray bus!", "New York: the bus. It's the end", "the bus is the New York of it's"]
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    assert main(["prepare", "queries", "texts.jsonl", "--least", "2", "--bigrams", "1"]) == 0
    # "the bus" occurs as often as "new york", and says less: each of the two stands beside other words too.
    assert (tmp_path / "queries.txt").read_text().split("\n") == ["the", "bus", "new", "york", "it's", "new york", ""]
    assert capsys.readouterr().out == "queries.txt: 5 words and 1 pairs of words out of 3 texts\n"
    found = queries.read("queries.txt")
    assert list(found) == ["the", "bus", "new", "york", "it's", "new york"]
    assert found.found_in(["New-York, NEW YORK, it’s", "cats"]) == ["new", "new york", "york", "it's"]
