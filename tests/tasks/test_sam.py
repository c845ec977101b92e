"""SAM's rounds of prompts: what is asked, what is answered, what it costs, by hand and on a stand-in for the model."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.answering import SIDE, Answering
from tests.tiny import tiny_config
from vit_jax import UserError
from vit_jax.nn.drawn_prompts import Drawn
from vit_jax.nn.prompts import BOTTOM_RIGHT, NOT_A_POINT, OFF, ON, PADDING, TOP_LEFT
from vit_jax.tasks.sam import SegmentAnything, Weights

rng = np.random.default_rng(0)


def task_of(**settings):
    settings = {"targets": 2, "corrections": 3, "refinements": 0, **settings}
    return SegmentAnything(Answering(), {}, **settings)


def config():
    """The smallest run: one round on drawn shapes of 32 pixels."""
    trunk = {
        "name": "vit",
        "variant": "mu/8",
        "width": 16,
        "depth": 1,
        "num_heads": 2,
        "mlp_dim": 16,
        "pooling": "mean",
    }
    small = {
        "width": 16,
        "decoder_depth": 1,
        "decoder_heads": 2,
        "decoder_mlp_dim": 16,
        "mask_channels": 4,
        "iou_hidden": 8,
    }
    scenes = {"name": "shapes", "length": 8, "image_size": 32, "kinds": ["disc", "square"]}
    return tiny_config(batch_size=8) | {
        "task": {"name": "sam", "targets": 2, "corrections": 0, "refinements": 0},
        "model": {"name": "sam", "trunk": trunk, **small},
        "data": {
            "image_size": 32, "train": scenes, "eval": {**scenes, "seed": 1},
            "fields": {"image": {"name": "image"}, "masks": {"name": "masks", "max_objects": 3, "mask_size": 16}},
            "transform": {"name": "supervised", "crop": "none"},
        },
        "evals": {"val": {"name": "clicks", "clicks": 1}},
    }  # fmt: skip


def batch_of(size=4, masks=3, s=SIDE):
    made = np.zeros((size, masks, s, s), np.uint8)
    for i, j in np.ndindex(size, masks):
        top, left = rng.integers(0, s // 2, 2)
        made[i, j, top : top + rng.integers(2, s // 2), left : left + rng.integers(2, s // 2)] = 1
    images = rng.normal(size=(size, 32, 32, 3)).astype(np.float32)
    valid = np.ones((size, masks), bool)
    return {"image": images, "masks": made, "masks_valid": valid}


@functools.cache
def variables():
    shapes = jax.eval_shape(task_of().init, jax.random.key(0), batch_of())
    return jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape).astype(x.dtype), shapes)


@functools.cache
def compiled(**settings):
    task = task_of(**settings)
    return jax.jit(lambda v, b, seed: task.loss(v, b, jax.random.key(seed), 0))


def loss_of(batch, seed=0, **settings):
    return jax.device_get(compiled(**settings)(variables(), batch, seed))


class Recording(Answering):
    """Writes down what it is asked."""

    def predict(self, embedding, points, labels, prior, has_prior):
        logits, iou = Answering.predict(self, embedding, points, labels, prior, has_prior)
        jax.debug.callback(
            lambda *asked: LOG.append(asked), points, labels, prior, has_prior, logits, iou, ordered=True
        )
        return logits, iou


LOG: list = []


def asked(batch, **settings):
    """What each round asks and is answered, and the metrics."""
    task = dataclasses.replace(task_of(**settings), model=Recording())
    LOG.clear()
    record = jax.jit(lambda batch: task.loss(variables(), batch, jax.random.key(0), 0)[1][0])
    metrics = jax.device_get(record(batch))
    jax.effects_barrier()
    return [jax.tree.map(np.asarray, each) for each in LOG], metrics


def by_hand(rounds, wanted, weights, multimask=True):
    """The loss of one target from what was asked and answered, in float64."""
    total = []
    for number, (*_, logits, iou) in enumerate(rounds):
        p = 1 / (1 + np.exp(-logits.astype(np.float64)))
        right = np.where(wanted, p, 1 - p)
        focal = (np.where(wanted, 0.25, 0.75) * (1 - right) ** 2 * -np.log(right)).mean((-2, -1))
        entropy = -np.log(right).mean((-2, -1))
        dice = 1 - (2 * (p * wanted).sum((-2, -1)) + 1) / (p.sum((-2, -1)) + wanted.sum() + 1)
        real = ((logits > 0) & wanted).sum((-2, -1)) / ((logits > 0) | wanted).sum((-2, -1))
        mask = weights.focal * focal + weights.dice * dice + weights.cross_entropy * entropy
        error = (iou - real) ** 2
        several = number == 0 and multimask
        total.append(mask[1:].min() + weights.iou * error[1:].mean() if several else mask[0] + weights.iou * error[0])
    return np.mean(total)


WEIGHTS = Weights(3.0, 2.0, 0.5, 0.7)
RECORDED = {"targets": 1, "corrections": 4, "refinements": 2, "weights": WEIGHTS}


def check_by_hand(recorded, batch, multimask):
    rounds, metrics = recorded
    valid = np.flatnonzero(batch["masks_valid"][:, 0])
    own = [[tuple(x[i, 0] for x in each) for each in rounds] for i in valid]
    losses = [by_hand(each, batch["masks"][i, 0] > 0, WEIGHTS, multimask) for each, i in zip(own, valid, strict=True)]
    np.testing.assert_allclose(metrics["loss"], (sum(losses), len(valid)), rtol=1e-5)


@functools.cache
def recorded():
    batch = batch_of(size=6, masks=1)
    batch["masks_valid"][5] = False
    return asked(batch, **RECORDED), batch


def test_rounds_go_as_the_paper_says():
    (rounds, _), batch = recorded()
    assert len(rounds) == 7
    wanted = batch["masks"] > 0
    before = None
    for number, (points, labels, prior, has_prior, logits, iou) in enumerate(rounds):
        assert has_prior.all() == (number > 0) and has_prior.any() == (number > 0)
        if number == 0:
            boxes = (labels[:, :, 0] == TOP_LEFT).ravel()
            assert 0 < boxes.sum() < 6  # both kinds
            np.testing.assert_array_equal(labels[:, 0, 0][~boxes], ON)
            np.testing.assert_array_equal(labels[:, 0, 1], np.where(boxes, BOTTOM_RIGHT, NOT_A_POINT))
            assert (labels[:, :, 2:] == PADDING).all()
            picked = 1 + iou[..., 1:].argmax(-1)
        else:
            # The logits of the answer that was thought best are the prompt, and what they got wrong is clicked.
            np.testing.assert_array_equal(prior, before)
            new = (labels != rounds[number - 1][1]).any((0, 1))
            assert new.sum() <= 1
            for i in range(6):
                fresh = np.flatnonzero(labels[i, 0] != rounds[number - 1][1][i, 0])
                wrong = (before[i, 0] > 0) != wanted[i, 0]
                for slot in fresh:
                    column, row = (points[i, 0, slot] + 0.5) / 2 - 0.5
                    assert wrong[int(row), int(column)] and row == int(row) and column == int(column)
                    assert labels[i, 0, slot] == (ON if wanted[i, 0, int(row), int(column)] else OFF)
            picked = np.zeros_like(picked)
        before = np.take_along_axis(logits, picked[..., None, None, None], 2)[:, :, 0]
    last = rounds[-1][1]
    np.testing.assert_array_equal(last, rounds[-2][1])  # the last round adds nothing
    assert (((last == ON) | (last == OFF)).sum(-1).ravel() - (rounds[0][1][:, 0, 0] == ON) == 4).all()
    idle = [
        [number for number in range(1, 6) if (rounds[number][1][i] == rounds[number - 1][1][i]).all()] for i in range(6)
    ]
    assert all(len(each) == 1 for each in idle) and len({each[0] for each in idle}) > 1


def test_the_loss_by_hand():
    check_by_hand(*recorded(), multimask=True)


@pytest.mark.long
def test_the_loss_by_hand_of_one_answer_to_everything():
    batch = batch_of(size=3, masks=1)
    check_by_hand(asked(batch, multimask=False, **RECORDED), batch, multimask=False)


def learning(**settings):
    """Which of the four answers have a gradient."""
    task = task_of(targets=1, refinements=0, weights=Weights(iou=0.0), **settings)
    batch = batch_of(size=1, masks=1)

    def loss(params):
        return task.loss({"params": params, "model_state": {}}, batch, jax.random.key(0), 0)[0]

    return (np.abs(jax.jit(jax.grad(loss))(variables()["params"])["decoder"]["kernel"]).sum(0) > 0).tolist()


@pytest.mark.long
def test_only_the_best_of_three_learns():
    once = learning(corrections=0)
    assert sum(once) == 1 and not once[0]


@pytest.mark.long
def test_the_fourth_learns_from_further_rounds():
    assert learning(corrections=1)[0] and sum(learning(corrections=1)) == 2
    assert learning(corrections=0, multimask=False) == [True, False, False, False]


@pytest.mark.long
def test_losses_of_images_add_up_and_prompts_are_other_ones_in_each_step():
    batch = batch_of(size=4)
    whole, (metrics, _) = loss_of(batch)
    alone = []
    for i in range(4):
        one = dict(batch, masks_valid=batch["masks_valid"] & (np.arange(4) == i)[:, None])
        alone.append(loss_of(one))
    np.testing.assert_allclose(whole, sum(each[0] for each in alone), rtol=1e-6)
    for name, pair in metrics.items():
        np.testing.assert_allclose(pair, np.sum([each[1][0][name] for each in alone], axis=0), rtol=1e-5)
    assert abs(loss_of(batch, seed=1)[0] - whole) > 1e-4
    # Slots that hold nothing are neither chosen nor count, whatever lies in them.
    batch["masks_valid"][:, 1] = False
    half = loss_of(batch)
    batch["masks"][:, 1] = 1
    np.testing.assert_array_equal(loss_of(batch)[0], half[0])
    batch["masks_valid"][:] = False
    nothing, (metrics, _) = loss_of(batch)
    assert nothing == 0 and metrics["loss"] == (0, 0)


@pytest.mark.long
def test_an_embedding_may_come_with_the_batch_and_masks_of_another_size():
    batch, task = batch_of(), task_of()
    embed = jax.jit(lambda batch: task.outputs(variables(), batch, frozenset({"embedding"}), None))
    given = dict(batch, **embed(batch))
    del given["image"]
    np.testing.assert_allclose(loss_of(given)[0], loss_of(batch)[0], rtol=1e-6)
    assert np.isfinite(loss_of(batch_of(s=2 * SIDE))[0])


@pytest.mark.long
def test_rounds_that_are_computed_again_have_the_same_gradients():
    def loss(params, task):
        return task.loss({"params": params, "model_state": {}}, batch, jax.random.key(0), 0)[0]

    batch = batch_of()
    gradients = jax.jit(jax.grad(loss), static_argnums=1)
    plain, again = (gradients(variables()["params"], task_of(remat=remat)) for remat in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain, again)


def test_first_prompts():
    """A share of boxes, and from one to so many points, all on the mask."""
    mask = jnp.zeros((SIDE, SIDE), bool).at[3:9, 5:12].set(True)
    drawn = Drawn(boxes=0.25, points=3)
    draw = jax.jit(jax.vmap(lambda chance: drawn(chance, mask, (32, 32))))
    points, labels = draw(rng.random((2000, drawn.draws)).astype(np.float32))
    points, labels = np.asarray(points), np.asarray(labels)
    assert points.shape == (2000, drawn.slots, 2) and drawn.slots == 4
    boxes = labels[:, 0] == TOP_LEFT
    assert abs(boxes.mean() - 0.25) < 0.03
    assert (labels[boxes] == [TOP_LEFT, BOTTOM_RIGHT, PADDING, PADDING]).all()
    np.testing.assert_allclose(points[boxes, :2].mean(0), np.array([[10, 6], [24, 18]]) - 0.5, atol=0.2)
    assert (labels[~boxes, -1] == NOT_A_POINT).all()
    counts = np.bincount((labels[~boxes] == ON).sum(1), minlength=4)
    assert counts[0] == 0 and counts[1:].min() > 430
    pixels = ((points[~boxes][labels[~boxes] == ON] + 0.5) / 2).astype(int)
    assert np.asarray(mask)[pixels[:, 1], pixels[:, 0]].all()


def test_what_a_task_of_prompts_cannot_do():
    with pytest.raises(UserError, match="'vit' takes no prompts. Set config.model.name=sam"):
        from vit_jax.tasks import DataInfo
        from vit_jax.tasks.sam import build

        build(model={"name": "vit", "variant": "mu/4"}, data=DataInfo((8, 8), ()))
    with pytest.raises(UserError, match="answers to prompts. Use 'vit_jax segment'"):
        task_of().answers({}, None)
    with pytest.raises(UserError, match="does not give 'logits'. It gives embedding, features, iou, maps"):
        task_of().outputs(variables(), batch_of(), frozenset({"logits"}), None)
    of_model = task_of().outputs(variables(), batch_of(), frozenset({"features"}), None)
    assert of_model["features"].shape == (4, 3)  # for probes, as of any model
