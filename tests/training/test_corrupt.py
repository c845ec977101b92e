"""Unreadable training images show in the metrics of any task."""

import cv2
import numpy as np
import pytest

from tests.tiny import tiny_experiment, tiny_run
from vit_jax import UserError
from vit_jax.training.metrics import read_metrics


@pytest.fixture
def photos(tmp_path):
    """Eight readable images and, in training, two that are not."""
    for k in range(8):
        for split in ("train", "test"):
            path = tmp_path / "photos" / split / "ab"[k % 2] / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(cv2.imencode(".png", np.full((8, 8, 3), 20 * k, np.uint8))[1].tobytes())
    whole = (tmp_path / "photos/train/a/0.png").read_bytes()
    (tmp_path / "photos/train/a/empty.png").write_bytes(b"")
    (tmp_path / "photos/train/b/cut.png").write_bytes(whole[:-9])
    return {
        "data__train__name": "folder", "data__train__root": tmp_path / "photos", "data__train__split": "train",
        "data__eval__name": "folder", "data__eval__root": tmp_path / "photos", "data__eval__split": "test",
    }  # fmt: skip


@pytest.mark.long
def test_the_share_of_replaced_images_is_logged(photos, tmp_path):
    # Ten images are an epoch, of which two are replaced: four of twenty rows, whether accumulated or not.
    tiny_run(
        tmp_path / "run", batch_size=20, steps=2, microbatch=10, log_every=1, optim__schedule__warmup_steps=0, **photos
    )
    assert [row["train/corrupt"] for row in read_metrics(tmp_path / "run") if "train/loss" in row] == pytest.approx(
        [0.2] * 2
    )


def test_repeats_are_a_key_of_the_config(photos):
    labels = tiny_experiment(batch_size=20, data__repeats=2, **photos).pipeline.batch(0)["label"]
    np.testing.assert_array_equal(labels[::2], labels[1::2])
    # Where they do not divide the batch, the last example goes on in the next one.
    thrice = tiny_experiment(batch_size=20, data__repeats=3, **photos).pipeline
    labels = np.concatenate([thrice.batch(step)["label"] for step in range(3)])
    np.testing.assert_array_equal(labels, np.repeat(labels[::3], 3))


@pytest.mark.long
def test_corruption_may_be_fatal(photos, tmp_path):
    with pytest.raises(UserError, match=r"(empty\.png is empty|cut\.png is cut short)"):
        tiny_run(tmp_path / "run", batch_size=20, data__on_corrupt="fail", **photos)


def test_no_share_without_the_flag(tmp_path):
    """A pipeline of a task's own need not have it."""
    import jax

    from vit_jax.tasks import Task
    from vit_jax.training.step import make_update

    class Mean(Task):
        def loss(self, variables, batch, rng, step):
            value = (batch["x"] * variables["params"]["w"]).mean()
            return value, ({"loss": (value, jax.numpy.float32(1))}, {})

    import optax

    tx = optax.with_extra_args_support(optax.sgd(0.1))
    params = {"w": jax.numpy.ones(())}
    state = {"step": jax.numpy.int32(0), "params": params, "model_state": {}, "opt_state": tx.init(params)}
    update = make_update(Mean(), tx, on_device=lambda batch, rng: batch, frozen={"w": False})
    scalars = {"seed": jax.numpy.uint32(0), "rates": {}}
    _, metrics, _ = update(state, {"x": jax.numpy.ones(4)}, scalars, None)
    assert set(metrics) == {"loss", "gradient_norm"}
    # Texts that were cut are counted over all fields of texts.
    cut = {"source_cut": jax.numpy.array([1, 0, 0, 0]), "target_cut": jax.numpy.array([1, 1, 0, 0])}
    _, metrics, _ = update(state, {"x": jax.numpy.ones(4), **cut}, scalars, None)
    assert set(metrics) == {"loss", "gradient_norm", "cut"} and tuple(map(float, metrics["cut"])) == (3, 8)
