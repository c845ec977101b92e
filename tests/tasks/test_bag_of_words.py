"""Words of captions from images: the loss by hand, a run, its words for a person."""

import json
import re

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.drawn import drawn
from tests.tiny_pairs import COLOURS, FIELDS, pairs_config
from vit_jax import UserError
from vit_jax.commands.main import main
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.preprocess import Preprocess
from vit_jax.naming import build_named
from vit_jax.tasks import DataInfo
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

VIT = {"name": "vit", "variant": "mu/4"}


def task_of(fields=FIELDS, size=(8, 8), **task):
    context = Context(None if size is None else Preprocess(size), ("a",))
    data = DataInfo(size, ("a",), build_fields(fields, context))
    return build_named("task", {"name": "bag_of_words", **task}, "config.task", model=VIT, data=data)


def test_the_loss_by_hand():
    """Of each different token that is no start, end or padding, in float64; the head is redrawn, so that all differ."""
    ids = np.array([[1, 70, 70, 80, 2, 0], [1, 2, 0, 0, 0, 0], [1, 90, 91, 92, 93, 94]], np.int32)
    mask = np.arange(6) < np.array([[5], [2], [6]])
    batch = {
        "image": np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32),
        "text": ids,
        "text_mask": mask,
    }
    words = [{70, 80}, set(), {90, 91, 92, 93, 94}]
    task = task_of()
    variables = drawn(task.init, jax.random.key(0), batch)
    variables["params"]["head"]["bias"] = jnp.linspace(-1, 1, 259)

    @jax.jit
    def found(v):
        logits = task.outputs(v, {"image": batch["image"]}, frozenset({"logits"}), jax.random.key(0))["logits"]
        of = [t.loss(v, batch, jax.random.key(1), jnp.int32(0)) for t in (task, task_of(objective="sigmoid"))]
        return logits, of

    logits, (softmax, sigmoid) = found(variables)
    logits = np.asarray(logits, np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    by_share = [-np.mean([row[i] for i in of]) if of else 0 for row, of in zip(log_p, words, strict=True)]
    np.testing.assert_allclose(softmax[0], np.mean(by_share), rtol=1e-5)
    signs = np.array([[1 if i in of else -1 for i in range(259)] for of in words])
    np.testing.assert_allclose(sigmoid[0], np.log1p(np.exp(-signs * logits)).sum(1).mean(), rtol=1e-5)
    assert float(softmax[1][0]["accuracy"][1]) == 2  # a caption without words is neither right nor wrong


def test_images_without_texts_are_refused():
    with pytest.raises(UserError, match="reads a field 'text' of tokens"):
        task_of(fields={"image": FIELDS["image"]})
    with pytest.raises(UserError, match="guesses words from images, and the data has none"):
        task_of(fields={"text": FIELDS["text"]}, size=None)


@pytest.mark.long
def test_words_are_learned(tmp_path, capsys):
    """Colours by their letters; afterwards an image alone is told in words."""
    run = tmp_path / "run"
    config = pairs_config(tmp_path, VIT, "bag_of_words", steps=40, log_every=20)
    train(build_experiment(config), run, jax.devices()[:1])
    rows = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
    losses, accuracies = ([row[name] for row in rows if name in row] for name in ("train/loss", "train/accuracy"))
    assert len(losses) == 2 and losses[1] < losses[0] < np.log(259) and accuracies[1] > 0.9
    for name, colour in COLOURS.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((8, 8, 3), colour[::-1], np.uint8))
    files = [str(tmp_path / f"{name}.png") for name in COLOURS]
    assert main(["predict", "--checkpoint", str(run), "--top", "2", *files]) == 0
    for name, line in zip(COLOURS, capsys.readouterr().out.splitlines(), strict=True):
        assert set(re.findall(r"(\w) [\d.]+%", line)) <= set(name)
