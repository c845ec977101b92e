"""Documents in windows: every token predicted once, whose document it is, the same for any order of asking."""

import json
import pickle

import numpy as np
import pytest

from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.order import Mixture
from vit_jax.data.sources.documents import DocumentSource
from vit_jax.data.tokenizers import bytes as byte_tokens
from vit_jax.data.windows import Windows
from vit_jax.errors import UserError
from vit_jax.training.inputs import build_inputs, workers_for

TEXTS = ["abc", "d", "", "efghijk", "lm"]
END = byte_tokens.build().eos_id


def windows(length, texts=TEXTS):
    return Windows(DocumentSource(texts, texts), "text", byte_tokens.build(), length)


def inputs(tmp_path, texts=("ab",), length=5, **more):
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    section = {"name": "documents", "paths": str(path)}
    fields = {"text": {"name": "packed", "length": length}, **more}
    return build_inputs({"train": section, "eval": section, "fields": fields, "num_threads": 0, "num_workers": 0})


def test_a_window_starts_with_the_last_token_of_the_one_before():
    found = windows(4)
    stream = [END, *(byte for text in TEXTS for byte in [*byte_tokens.build().encode(text), END])]
    assert found.num_tokens == len(stream) == 19
    rows = [found[k]["text"] for k in range(len(found))]
    assert [row.ids.tolist() for row in rows] == [stream[k : k + 4] for k in range(0, 18, 3)]
    # Every token but the first is predicted exactly once.
    assert [i for row in rows for i in row.ids[1:]] == stream[1:]
    assert rows[0].ids.dtype == np.int32
    # A row that ends with its window leaves no window of one token, in which nothing is predicted.
    assert len(windows(7)) == 3 and len(windows(7)[2]["text"].ids) == 7 and len(windows(19)) == 1


def test_each_token_knows_its_document():
    rows = [windows(8)[k]["text"].documents.tolist() for k in range(3)]
    # The end token before a document is its first.
    assert rows == [[0, 0, 0, 0, 1, 1, 2, 3], [0] * 8, [0, 1, 1, 1, 2]]


def test_batches_are_full_and_the_same_in_any_order_of_asking(tmp_path):
    made = inputs(tmp_path, ["abc", "d", "efghijk", "lm"])
    source = made.train_source()
    assert workers_for(source) == 0 and len(source) == 5
    pipeline = made.train_pipeline(source, 2, 3)
    steps = [pipeline.batch(step) for step in range(4)]
    again = made.train_pipeline(pickle.loads(pickle.dumps(source)), 2, 3)
    for step in (3, 0, 2, 1):
        for name, value in again.batch(step).items():
            np.testing.assert_array_equal(value, steps[step][name])
    specs = made.kinds().specs
    assert {name: (value.shape[1:], str(value.dtype)) for name, value in steps[0].items() if name != "corrupt"} == {
        name: (spec.shape, spec.dtype) for name, spec in specs.items()
    }
    with made.eval_pipeline(3, "x").iterate() as batches:
        batches = list(batches)
    assert [batch["valid"].tolist() for batch in batches] == [[1, 1, 1], [1, 1, 0]]
    last = {name: value[1] for name, value in batches[1].items()}
    assert last["text_mask"].tolist() == [True] * 2 + [False] * 3
    assert last["text"].tolist()[1:] == [END, 0, 0, 0] and last["text_documents"].tolist() == [0, 1, 1, 1, 1]
    assert made.kinds()["text"].caption("text", {name: value[0] for name, value in batches[0].items()}) == "abc"


def test_parts_of_a_mixture_are_packed_each_by_itself():
    fields = build_fields({"text": {"name": "packed", "length": 4}}, Context())
    parts = [DocumentSource([letter * 9] * 3, [""] * 3) for letter in "ab"]
    found = fields.arranged(Mixture(parts, (3, 1)))
    assert found.weights == (3, 1) and len(found) == 20
    rows = [set(found[k]["text"].ids.tolist()) - {END} for k in range(20)]
    assert all(len(row) == 1 for row in rows)


def test_documents_are_told_apart_in_words():
    kind = build_fields({"text": {"name": "packed", "length": 8}}, Context())["text"]
    assert kind.caption("text", kind.batched("text", windows(8)[0]["text"])) == "abc | d"


def test_a_text_by_itself_is_a_window():
    kind = build_fields({"text": {"name": "packed", "length": 6}}, Context())["text"]
    row = kind.batched("text", kind.read("abc", "x", None))
    assert row["text"].tolist() == [END, 100, 101, 102, END, 0] and row["text_documents"].tolist() == [0] * 4 + [1] * 2
    assert kind.read("abcdefg", "x", None).ids.tolist() == [END, 100, 101, 102, 103, END]


def test_texts_of_classes_are_evaluated_each_by_itself(tmp_path):
    """A probe of a language model asks for labelled texts, where training reads windows."""
    rows = [{"text": "abc", "kind": "x"}, {"text": "defghij", "kind": "y"}]
    (tmp_path / "labelled.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made = inputs(tmp_path, length=6, label={"name": "classes"})
    section = {"name": "documents", "paths": f"{tmp_path}/labelled.jsonl", "label_key": "kind"}
    with made.eval_pipeline(2, "x", section).iterate() as batches:
        [batch] = batches
    assert batch["label"].tolist() == [0, 1]
    assert batch["text"].tolist() == [[END, 100, 101, 102, END, 0], [END, 103, 104, 105, 106, END]]


def test_what_cannot_be_packed_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="In a window of 1 there is nothing to predict"):
        inputs(tmp_path, length=1).train_source()
    with pytest.raises(UserError, match="The fields 'text' and 'more' both arrange what the source gives"):
        inputs(tmp_path, ["a"], more={"name": "packed", "length": 4}).train_source()
    with pytest.raises(UserError, match="gives no field 'words' but text"):
        Windows(DocumentSource(["a"], ["x"]), "words", byte_tokens.build(), 4)
    with pytest.raises(UserError, match="The source has no documents"):
        windows(4, [])
    with pytest.raises(UserError, match=r"^x, field 'text', has bytes that are not UTF-8"):
        Windows(DocumentSource([b"\xff"], ["x"]), "text", byte_tokens.build(), 4)


def test_it_is_stored_and_rebuilt():
    made = build_fields({"text": {"name": "packed", "length": 9}}, Context())
    assert build_fields(json.loads(json.dumps(made.to_json())), Context()) == made
