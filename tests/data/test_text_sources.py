"""Texts from files: documents, and texts in pairs."""

import json
import pickle

import numpy as np
import pytest

from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.pipeline import EvalPipeline, TrainPipeline
from vit_jax.data.sources import documents, text_pairs
from vit_jax.errors import UserError


def written(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def texts(source):
    return [source[k]["text"] for k in range(len(source))]


def test_documents_of_files_paragraphs_and_lines(tmp_path):
    for k, text in enumerate(("\ufeffone\r\ntwo\n\n\nthree\n", "fünf")):
        written(tmp_path / f"{k}.txt", text)
    pattern = f"{tmp_path}/*.txt"
    assert texts(documents.build(pattern)) == ["one\ntwo\n\n\nthree\n", "fünf"]
    assert texts(documents.build(pattern, each="paragraph")) == ["one\ntwo", "three", "fünf"]
    source = documents.build([f"{tmp_path}/1.txt", pattern], each="line")
    assert texts(source) == ["fünf", "one", "two", "three"]  # a file that is named twice is read once
    assert source[3]["path"] == f"Line 5 of {tmp_path}/0.txt" and source.field_names == {"text"}
    assert pickle.loads(pickle.dumps(source))[3] == source[3]


def test_documents_of_jsonl_and_their_classes(tmp_path):
    rows = [{"text": "a", "kind": "news"}, {"text": "b\nc", "kind": "lore"}, {"text": "d", "kind": "news"}]
    path = written(tmp_path / "x.jsonl", "\n\n".join(map(json.dumps, rows)))
    source = documents.build(path, label_key="kind")
    assert source.label_names == ("lore", "news") and source.labels.tolist() == [1, 0, 1]
    assert source[1] == {"text": "b\nc", "label": 0, "path": f"Line 3 of {path}"}
    known = documents.build(path, label_key="kind", label_names=["news", "x", "lore"])
    assert known.labels.tolist() == [0, 2, 0] and known.label_names == ("news", "x", "lore")
    for folder in ("b", "a"):
        written(tmp_path / "by" / folder / "1.txt", f"of {folder}")
    source = documents.build(f"{tmp_path}/by/**/*.txt", folder_labels=True)
    assert source.label_names == ("a", "b") and [(source[k]["text"], source[k]["label"]) for k in (0, 1)] == [
        ("of a", 0),
        ("of b", 1),
    ]
    numbers = written(tmp_path / "n.jsonl", "\n".join(json.dumps({"text": "t", "y": y}) for y in (10, 9, 2)))
    assert documents.build(numbers, label_key="y").label_names == ("2", "9", "10")


def test_pairs_of_tsv_and_jsonl(tmp_path):
    path = written(tmp_path / "x.tsv", 'en\tde\tkind\nthe "cat\tdie Katze\tp\n\na dog\tein Hund\tq\n')
    source = text_pairs.build(path, fields={"source": "en", "target": "de"}, label_key="kind")
    assert source[0] == {"source": 'the "cat', "target": "die Katze", "label": 0, "path": f"Line 2 of {path}"}
    assert source.field_names == {"source", "target", "label"} and source.label_names == ("p", "q")
    bare = written(tmp_path / "bare.tsv", "a\tb\nc\td")
    source = pickle.loads(pickle.dumps(text_pairs.build(bare, columns=["source", "target"])))
    assert [source[k]["target"] for k in range(len(source))] == ["b", "d"]
    rows = written(tmp_path / "x.jsonl", json.dumps({"premise": "a", "hypothesis": "b", "label": 1}))
    source = text_pairs.build(
        rows, fields={"text": ["premise", "hypothesis"]}, label_key="label", label_names=["no", "yes"]
    )
    assert source[0] == {"text": ["a", "b"], "label": 1, "path": f"Line 1 of {rows}"}


def test_pairs_become_batches_of_two_fields_or_of_one(tmp_path):
    path = written(tmp_path / "x.tsv", "source\ttarget\nab\tcde\n")
    both = {"source": {"name": "tokens", "length": 6}, "target": {"name": "tokens", "length": 6, "bos": False}}
    pipeline = TrainPipeline(text_pairs.build(path), None, 2, 0, num_threads=0, fields=build_fields(both, Context()))
    batch = pipeline.batch(0)
    assert batch["source"][1].tolist() == [1, 100, 101, 2, 0, 0] and batch["target_mask"].sum() == 8
    one = build_fields({"text": {"name": "token_pair", "tokenizer": "bytes", "length": 9}}, Context())
    source = text_pairs.build(path, fields={"text": ["source", "target"]})
    [batch] = EvalPipeline(source, None, 1, num_threads=0, fields=one).iterate()
    assert batch["text"].tolist() == [[1, 100, 101, 2, 102, 103, 104, 2, 0]]


@pytest.mark.parametrize(
    ("name", "content", "options", "sentence"),
    [
        ("x.txt", "  \n", {}, r"x\.txt is an empty text\. Leave it out"),
        ("x.txt", "", {"each": "line"}, r"x\.txt is an empty text"),
        ("x.txt", b"good\nb\xe4d\n", {}, r"x\.txt has bytes that are not UTF-8 in line 2\. Save it as UTF-8"),
        ("x.txt", "a", {"label_key": "y"}, r"x\.txt is no JSONL and has no 'y'"),
        ("x.txt", "a", {"label_key": "y", "folder_labels": True}, "have classes twice"),
        ("x.jsonl", '{"text": "a"}\n[1]', {}, r"x\.jsonl has no JSON object in line 2"),
        ("x.jsonl", '{"text": "a"}\n{"text": " "}', {}, r"Line 2 of .*x\.jsonl has an empty text as 'text'"),
        ("x.jsonl", '{"txt": "a"}', {}, r"Line 1 of .*x\.jsonl has no 'text'\. Did you mean 'txt'"),
        ("x.jsonl", '{"text": 3}', {}, r"Line 1 of .*x\.jsonl has no text as 'text'"),
        ("x.jsonl", '{"text": "a"}', {"label_key": "y"}, r"Line 1 of .* has no 'y'"),
        ("x.jsonl", '{"text": "a", "y": [1]}', {"label_key": "y"}, r"Line 1 of .* has the label \[1\]"),
        ("x.jsonl", '{"text": "a", "y": "cta"}', {"label_key": "y", "label_names": ["cat"]}, "Did you mean 'cat'"),
        ("x.jsonl", '{"text": "a", "y": 1}', {"label_key": "y", "label_names": ["cat"]}, "has the label 1"),
    ],
)
def test_bad_documents_are_one_sentence(tmp_path, name, content, options, sentence):
    with pytest.raises(UserError, match=sentence):
        documents.build(written(tmp_path / name, content), **options)


@pytest.mark.parametrize(
    ("name", "content", "options", "sentence"),
    [
        ("x.tsv", "source\ttarget\na\tb\tc\n", {}, r"Line 2 of .* has 3 fields for the 2 columns source, target"),
        ("x.tsv", "source\ttarget\na\t \n", {}, r"Line 2 of .* has an empty text as 'target'"),
        ("x.tsv", b"source\ttarget\na\t\xff\n", {}, r"x\.tsv has bytes that are not UTF-8 in line 2"),
        ("x.tsv", "source\ttraget\na\tb\n", {}, r"Line 2 of .* has no 'target'. Did you mean 'traget'"),
        ("x.tsv", "source\ttarget\na\tb\n", {"label_key": "y"}, r"Line 2 of .* has no 'y'"),
        ("x.tsv", "source\tsource\na\tb\n", {}, "has a column twice: source, source"),
        ("x.tsv", "source\ttarget\n", {}, "has no line of texts below its header"),
        ("x.jsonl", '{"source": "a"}', {}, r"Line 1 of .* has no 'target'"),
    ],
)
def test_bad_pairs_are_one_sentence(tmp_path, name, content, options, sentence):
    with pytest.raises(UserError, match=sentence):
        text_pairs.build(written(tmp_path / name, content), **options)


def test_files_that_are_not_there_are_one_sentence(tmp_path):
    for build in (documents.build, text_pairs.build):
        with pytest.raises(UserError, match=r"No file is named like .*\*\.txt"):
            build(f"{tmp_path}/*.txt")
        with pytest.raises(UserError, match=r"none\.txt could not be read: No such file"):
            build(f"{tmp_path}/none.txt")
        with pytest.raises(UserError, match="There are no files of texts"):
            build([])


def test_balanced_training_knows_the_classes(tmp_path):
    rows = "\n".join(json.dumps({"text": "ab"[k > 0], "y": "ab"[k > 0]}) for k in range(5))
    source = documents.build(written(tmp_path / "x.jsonl", rows), label_key="y")
    fields = build_fields({"text": {"name": "tokens", "length": 4}, "label": {"name": "classes"}}, Context())
    pipeline = TrainPipeline(source, None, 8, 0, num_threads=0, balance=True, fields=fields)
    np.testing.assert_array_equal(np.bincount(pipeline.batch(0)["label"]), [4, 4])
