"""Pairs of sentences: half of them next ones, of one document, by counting; a function of seed and index."""

import json
import pickle

import numpy as np
import pytest

from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.sentence_pairs import sentences_of
from vit_jax.data.sources.documents import DocumentSource
from vit_jax.errors import UserError
from vit_jax.training.inputs import build_inputs

# Document d's sentence s says where it stands: a letter of the document, a letter of the sentence, ten times.
TEXTS = ["\n".join((chr(65 + d) + chr(97 + s)) * 5 for s in range(2 + d % 7)) for d in range(26)]
FIELDS = {"text": {"name": "sentence_pairs", "tokenizer": "bytes", "length": 43}, "label": {"name": "classes"}}


def pairs(texts=TEXTS, **more):
    fields = build_fields({**FIELDS, "text": {**FIELDS["text"], **more}}, Context())
    return fields.arranged(DocumentSource(texts, [f"d{k}" for k in range(len(texts))]))


def said(ids):
    return bytes(i - 3 for i in ids.tolist()).decode()


def places(text):
    """The documents and sentences of a stretch."""
    letters = [text[k : k + 2] for k in range(0, len(text), 2)]
    return sorted({pair[0] for pair in letters}), sorted({pair[1] for pair in letters})


def test_half_are_next_and_half_of_another_document():
    source = pairs(copies=120, short=0.0)
    labels = np.zeros(len(source), int)
    assert len(source) == 120 * sum(len(text.split("\n")) - 1 for text in TEXTS) > 9_000
    for k in range(len(source)):
        example = source[k]
        labels[k] = example["label"]
        if k >= 500:
            continue
        # Sentences are ten bytes, and what is cut is cut at random places, so look at letters by themselves.
        first, second = map(said, example["text"])
        documents = [{letter for letter in text if letter.isupper()} for text in (first, second)]
        assert all(len(found) == 1 for found in documents)
        assert (documents[0] == documents[1]) == (example["label"] == 0)
        if example["label"] == 0:
            of = [sorted({letter for letter in text if letter.islower()}) for text in (first, second)]
            assert ord(of[1][0]) == ord(of[0][-1]) + 1  # goes on where the first ends
        assert 2 <= len(first) + len(second) <= 40 and first and second
    # 50 % within a point.
    assert abs(labels.mean() - 0.5) < 0.01


def test_sentences_fill_the_room_and_a_tenth_is_shorter():
    source = pairs(["\n".join([letter * 10] * 40) for letter in "xy"], copies=40, short=0.1)
    # Of next sentences, and not where the document ends.
    examples = [source[k] for k in range(len(source)) if k % 39 < 36]
    sizes = np.array([sum(map(len, example["text"])) for example in examples if example["label"] == 0])
    assert 0.88 < (sizes == 40).mean() < 0.93 and sizes.min() < 5


def test_an_example_is_a_function_of_seed_and_index():
    source, again, other = pairs(), pickle.loads(pickle.dumps(pairs())), pairs(seed=1)
    rows = [[*map(said, source[k]["text"]), source[k]["label"]] for k in range(60)]
    for k in (59, 3, 0):
        assert [*map(said, again[k]["text"]), again[k]["label"]] == rows[k]
    assert [[*map(said, other[k]["text"]), other[k]["label"]] for k in range(60)] != rows
    # A copy starts with the same sentence and draws anew.
    n = len(source) // 10
    assert [said(source[n + k]["text"][0])[:1] for k in range(9)] == [row[0][:1] for row in rows[:9]]
    assert [[*map(said, source[n + k]["text"])] for k in range(60)] != [row[:2] for row in rows]


def test_batches_hold_segments_and_labels(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    section = {"name": "documents", "paths": str(path)}
    inputs = build_inputs({"train": section, "eval": section, "fields": FIELDS, "num_threads": 0})
    source = inputs.train_source()
    assert source.label_names == ("next", "random") == inputs.kinds(source.label_names)["label"].names
    batch = inputs.train_pipeline(source, 8, 0).batch(1)
    assert set(batch) == {"text", "text_mask", "text_segments", "label", "corrupt"}
    assert set(batch["label"].tolist()) == {0, 1}
    for ids, mask, segments in zip(batch["text"], batch["text_mask"], batch["text_segments"], strict=True):
        ends = np.flatnonzero(ids == 2)
        assert ids[0] == 1 and len(ends) == 2 and mask.sum() == ends[1] + 1
        assert segments.sum() == ends[1] - ends[0] and segments[ends[0]] == 0 and segments[ends[1]] == 1
    kinds = inputs.kinds()
    assert build_fields(json.loads(json.dumps(kinds.to_json())), Context()) == kinds


def test_sentences_of_lines_and_of_running_text():
    assert sentences_of("One. Two\n\n three ", "lines") == ["One. Two", "three"]
    text = 'He said "No." Then he\nleft! Did he? At 3.5 p.m. he was (not) back.  "Yes."'
    assert sentences_of(text, "stops") == [
        'He said "No."', "Then he left!", "Did he?", "At 3.5 p.m. he was (not) back.", '"Yes."',
    ]  # fmt: skip


@pytest.mark.parametrize("texts", [["a\nb"], ["a", "b", "c"]])
def test_too_few_sentences_are_one_sentence(texts):
    with pytest.raises(UserError, match=r"documents with \d sentences, and a pair needs two sentences of one document"):
        pairs(texts)


def test_tokens_have_no_sentences():
    with pytest.raises(UserError, match="d0, field 'text', is no text that has sentences"):
        pairs([[1, 2], [3]])


def test_texts_of_classes_are_evaluated_each_by_itself(tmp_path):
    """Probes of a pretrained BERT ask for labelled texts, where training reads pairs."""
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(json.dumps({"text": text, "kind": text[1]}) for text in ("ab", "c" * 50)))
    section = {"name": "documents", "paths": str(path), "label_key": "kind"}
    inputs = build_inputs({"train": section, "fields": FIELDS, "num_threads": 0})
    [batch] = inputs.eval_pipeline(2, "x", section).iterate()
    assert batch["label"].tolist() == [0, 1] and batch["text_mask"].sum(axis=1).tolist() == [4, 43]
    assert not batch["text_segments"].any() and batch["text"][1, -1] == 2
