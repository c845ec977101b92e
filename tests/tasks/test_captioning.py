"""Captions from images: both directions' losses by hand, the search, a run, captions for a person."""

import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny_pairs import COLOURS, FIELDS, pairs_config
from vit_jax import UserError
from vit_jax.commands.main import main
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.preprocess import Preprocess
from vit_jax.models import captioner
from vit_jax.naming import build_named
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.tasks import DataInfo
from vit_jax.tasks.captioning import turned
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

VIT = {"name": "vit", "variant": "mu/4", "pooling": "mean"}
MODEL = {"name": "captioner", "image": VIT, "width": 16, "num_heads": 2, "max_length": 10, "dropout_rate": 0.0}


def task_of(fields=FIELDS, size=(8, 8), model=MODEL, **task):
    context = Context(None if size is None else Preprocess(size), ("a",))
    data = DataInfo(size, ("a",), build_fields(fields, context))
    return build_named("task", {"name": "captioning", **task}, "config.task", model=model, data=data)


def test_rows_are_turned_up_to_their_padding():
    ids = jnp.array([[1, 5, 6, 2, 0, 0], [1, 5, 6, 7, 8, 2], [1, 2, 0, 0, 0, 0]])
    expected = [[2, 6, 5, 1, 0, 0], [2, 8, 7, 6, 5, 1], [2, 1, 0, 0, 0, 0]]
    assert turned(ids, ids > 0).tolist() == expected


@pytest.fixture(scope="module")
def redrawn():
    """A task, a batch of three captions, and parameters large enough that everything matters."""
    task, rng = task_of(), np.random.default_rng(0)
    ids = np.array(
        [[1, 70, 71, 72, 2, 0, 0, 0, 0, 0], [1, 80, 2, 0, 0, 0, 0, 0, 0, 0], [1, *range(90, 98), 2]], np.int32
    )
    batch = {"image": rng.normal(size=(3, 8, 8, 3)).astype(np.float32), "text": ids, "text_mask": ids > 0}
    shapes = init_shapes(task.init, jax.random.key(0), batch)

    def redraw(path, leaf):
        kind = path[-1].key
        scale = 0.1 if kind in ("bias", "scale", "logits_bias") else 0.7
        return (kind == "scale") + rng.normal(scale=scale, size=leaf.shape).astype(np.float32)

    params = jax.tree_util.tree_map_with_path(redraw, shapes["params"])
    return task, batch, {"params": params, "model_state": {}}


@pytest.mark.long
def test_the_loss_is_that_of_both_directions_by_hand(redrawn):
    task, batch, variables = redrawn
    text = {"memory_projection", "embedding", "pos_embedding", "norm_embedding", "logits_bias", "onward", "backward"}
    assert set(variables["params"]) == {"encoder", "text"} and set(variables["params"]["text"]) == text

    @jax.jit
    def run(v, batch):
        back = turned(batch["text"], batch["text_mask"])
        logits = task.model.apply({"params": v["params"]}, batch["image"], batch["text"], back)
        names = frozenset({"token_losses", "counted", "features"})
        return logits, task.loss(v, batch, jax.random.key(1), jnp.int32(0)), task.outputs(v, batch, names, None)

    found, (loss, (metrics, _)), outputs = run(variables, batch)
    sums = []
    for logits, reverse in ((found["logits"], False), (found["backward_logits"], True)):
        total = 0.0
        for row, ids, mask in zip(np.asarray(logits, np.float64), batch["text"], batch["text_mask"], strict=True):
            said = ids[mask][::-1] if reverse else ids[mask]
            log_p = row - np.log(np.exp(row).sum(1, keepdims=True))
            total -= sum(log_p[place, said[place + 1]] for place in range(len(said) - 1))
        sums.append(total)
    count = batch["text_mask"].sum() - 3
    np.testing.assert_allclose(loss, sum(sums) / count, rtol=1e-5)
    np.testing.assert_allclose(metrics["nats_per_token"][0], sums[0], rtol=1e-5)
    np.testing.assert_allclose(metrics["backward_nats_per_token"][0], sums[1], rtol=1e-5)
    np.testing.assert_allclose(outputs["token_losses"].sum(), sums[0], rtol=1e-5)
    assert outputs["counted"].sum() == count and outputs["features"].shape == (3, 32)
    # No token sees one after it, and each sees the image.
    later = dict(batch, text=np.where(np.arange(10) == 4, 100, batch["text"]))
    other, *_ = run(variables, later)
    np.testing.assert_allclose(other["logits"][:, :4], found["logits"][:, :4], atol=1e-5)
    assert np.abs(other["logits"][:, 4] - found["logits"][:, 4]).max() > 0.01
    other, *_ = run(variables, dict(batch, image=-batch["image"]))
    assert (np.abs(other["logits"] - found["logits"]).max(axis=2) > 1e-3).all()


@pytest.mark.long
def test_a_search_with_one_beam_takes_the_likeliest_token_each_time(redrawn):
    """Through the cache as without; the caption of an image depends on it alone."""
    _, batch, variables = redrawn
    task = task_of(beams=1)
    images = {"image": batch["image"]}
    outputs = jax.jit(lambda v, b: task.outputs(v, b, frozenset({"samples"}), None)["samples"])
    samples = np.asarray(outputs(variables, images))
    assert samples.shape == (3, 9) and len({tuple(row) for row in samples}) > 1
    given = np.concatenate([np.ones((3, 1), np.int32), samples], axis=1)
    logits = jax.jit(lambda v: task.model.apply({"params": v["params"]}, batch["image"], given))(variables)["logits"]
    best = np.asarray(logits.argmax(-1))[:, :-1]
    going_on = np.cumsum(samples == 2, axis=1) - (samples == 2) == 0
    np.testing.assert_array_equal(samples[going_on], best[going_on])
    fields = task_of().text
    assert task.answers({"samples": samples}, None) == [fields.text(row) for row in samples]


def test_one_direction_and_what_is_refused():
    task = task_of(model={**MODEL, "both_ways": False, "norm": "pre"})
    batch = {"image": np.zeros((2, 8, 8, 3), np.float32), "text": np.ones((2, 10), np.int32)}
    batch["text_mask"] = batch["text"] > 0
    params = init_shapes(task.init, jax.random.key(0), batch)["params"]
    assert {"onward", "norm_onward"} <= set(params["text"]) and "backward" not in params["text"]
    metrics = jax.eval_shape(lambda v: task.loss(v, batch, jax.random.key(0), 0), {"params": params, "model_state": {}})
    assert "backward_nats_per_token" not in metrics[1][0]
    assert captioner.downstream(task.model_spec["kwargs"]) == VIT
    assert task.layers()[-1] == ("text/onward/block_00",) and task.layers()[0][0].startswith("encoder")
    assert task.forward_flops(batch) > task.model.flops((8, 8)) > 0
    for given, message in (
        ({"fields": {"image": FIELDS["image"]}}, "reads a field 'text' of tokens"),
        ({"fields": {"text": FIELDS["text"]}, "size": None}, "Captions are made of images"),
        ({"fields": FIELDS | {"text": {"name": "tokens", "length": 10, "eos": False}}}, "where they start and end"),
        ({"model": VIT}, "The model 'vit' has no decoder of captions"),
        ({"model": {**MODEL, "widht": 3}}, "widht"),
    ):
        with pytest.raises(UserError, match=message):
            task_of(**given)
    longer = FIELDS | {"text": {"name": "tokens", "length": 12}}
    with pytest.raises(UserError, match="12 tokens is longer than the 10 positions"):
        batch = {"image": batch["image"], "text": np.ones((2, 12), np.int32), "text_mask": np.ones((2, 12), bool)}
        init_shapes(task_of(longer).init, jax.random.key(0), batch)


@pytest.mark.long
def test_captions_are_learned(tmp_path, capsys):
    """Colours by their names; afterwards an image alone is told in words."""
    run = tmp_path / "run"
    config = pairs_config(tmp_path, MODEL, "captioning", steps=80, log_every=40)
    train(build_experiment(config), run, jax.devices()[:1])
    rows = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
    accuracies = [row["train/token_accuracy"] for row in rows if "train/token_accuracy" in row]
    assert len(accuracies) == 2 and accuracies[1] > 0.95
    for name, colour in COLOURS.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((8, 8, 3), colour[::-1], np.uint8))
    files = [str(tmp_path / f"{name}.png") for name in COLOURS]
    assert main(["predict", "--checkpoint", str(run), *files]) == 0
    assert [line.rsplit(": ")[1] for line in capsys.readouterr().out.splitlines()] == list(COLOURS)
