"""Prompts, what counts in them, and which class is answered."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.tokenizers.bytes import Bytes
from vit_jax.errors import UserError
from vit_jax.evaluators.prompted import build
from vit_jax.training.evaluation import Evaluation
from vit_jax.training.sharding import make_mesh

TESTS = [("warm sun", "good"), ("cold rain", "bad"), ("blue sky", "good"), ("grey fog", "bad"), ("mild", "good")]
SHOTS = [("a", "good"), ("b", "bad"), ("c", "good"), ("d", "bad")]


@pytest.fixture
def sections(tmp_path):
    found = []
    for name, rows in (("tests", TESTS), ("shots", SHOTS)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
        found.append({"name": "documents", "paths": str(path), "label_key": "label"})
    return found


def factory(source=None, **_):
    class Any:
        fields = build_fields({"text": {"name": "packed", "length": 8}}, Context())
        batch_size = 4

    return Any()


def rows(evaluator):
    """Prompt and answer of each row, as the task gets them."""
    found = []
    for batch in evaluator.pipeline.iterate():
        for ids, mask, valid in zip(batch["text"], batch["text_mask"], batch["valid"], strict=True):
            if valid:
                first, end = np.flatnonzero(mask)[[0, -1]]
                found.append((Bytes().decode(ids[:first].tolist()), Bytes().decode(ids[first : end + 1].tolist())))
    return found


def test_every_class_stands_once_after_every_text(sections):
    found = rows(build(factory, sections[0]))
    assert len(found) == 10
    assert found[:2] == [("Text: warm sun\nLabel:", " bad"), ("Text: warm sun\nLabel:", " good")]
    named = rows(build(factory, sections[0], template="{text} ->{label}", label_texts=("no", "yes"), cut=4))
    assert named[2:4] == [("cold ->", "no"), ("cold ->", "yes")]


def test_shots_stand_before_the_text_others_before_others_and_the_same_again(sections):
    tests, shots = sections
    found = rows(build(factory, tests, shots, shots=2))
    blocks = [prompt.split("\n\n") for prompt, _ in found]
    assert {len(block) for block in blocks} == {3}
    written = {f"Text: {text}\nLabel: {label}" for text, label in SHOTS}
    assert all(set(block[:2]) <= written and block[0] != block[1] for block in blocks)
    assert len({tuple(block[:2]) for block in blocks}) > 1
    assert blocks[0][:2] == blocks[1][:2] and blocks[0][2] == "Text: warm sun\nLabel:"
    assert rows(build(factory, tests, shots, shots=2)) == found != rows(build(factory, tests, shots, shots=2, seed=1))


@pytest.mark.parametrize("devices", [1, 4])
def test_the_likeliest_answer_counts(sections, devices):
    """A model that finds b surprising, and every other byte a little."""
    surprise = np.full(259, 1.0, np.float32)
    surprise[Bytes().encode("b")[0]] = 4.0

    def outputs(variables, batch, names, rng):
        losses = jnp.asarray(surprise)[batch["text"][:, 1:]]
        given = {"token_losses": losses, "token_weights": batch["text_mask"][:, 1:].astype(jnp.float32)}
        return {name: given[name] for name in names}

    def accuracy(**kwargs):
        evaluator = build(factory, sections[0], **kwargs)
        mesh = make_mesh({}, jax.devices()[:devices])
        return Evaluation({"p": evaluator}, outputs, lambda batch: batch, mesh).run({})

    # " bad" costs 1 + 4 + 1 + 1, " good" 5 x 1.
    assert accuracy() == {"p/accuracy": pytest.approx(0.6), "p/examples": 5}
    # "b" costs 4 at once, "gggggg" 1 a token and 6 together.
    names = dict(template="{text}{label}", label_texts=("b", "gggggg"))
    assert accuracy(**names)["p/accuracy"] == pytest.approx(0.6)
    assert accuracy(per_token=False, **names)["p/accuracy"] == pytest.approx(0.4)


def test_what_cannot_be_asked_is_refused(sections):
    tests, shots = sections
    for kwargs, message in (
        (dict(template="{text}"), "cannot ask for a class"),
        (dict(template="{label} {text}"), "cannot ask for a class"),
        (dict(shots=2), "nothing to take 2 shots from"),
        (dict(shots=5, train=shots), "5 shots do not come out of 4"),
        (dict(label_texts=("one",)), "1 names do not tell 2 classes apart"),
    ):
        with pytest.raises(UserError, match=message):
            build(factory, tests, **kwargs)
    with pytest.raises(UserError, match="no texts with labels"):
        build(factory, {key: value for key, value in tests.items() if key != "label_key"})
