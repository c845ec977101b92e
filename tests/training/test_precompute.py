"""What a frozen tower makes of the training data is computed once: the same run, without the tower in its steps."""

from pathlib import Path

import jax
import numpy as np
import pytest

import vit_jax
import vit_jax.tasks
from tests.tiny import tiny_config
from vit_jax import UserError
from vit_jax.planning.rehearsal import rehearse
from vit_jax.tasks.distil_encoder import DistilEncoder
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

PLAIN = {"name": "supervised", "crop": "none", "flip": False}


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    folder = Path(__file__).parents[1] / "toys/tasks"
    monkeypatch.setattr(vit_jax.tasks, "__path__", [*vit_jax.tasks.__path__, str(folder)])


def config(once: bool = True, **changes):
    values = tiny_config(task__name="toy_frozen_trunk", steps=6, eval_every=None)
    values["data"] = {**values["data"], "transform": PLAIN}
    values["optim"] = {**values["optim"], "frozen": ["encoder/.*"]}
    return values | ({"precompute": {"output": "features"}} if once else {}) | changes


def run(values, workdir):
    return train(build_experiment(values), workdir, jax.devices()[:1])


def params(workdir):
    return vit_jax.load(workdir).params


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with the tower computed once."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            vit_jax.tasks, "__path__", [*vit_jax.tasks.__path__, str(Path(__file__).parents[1] / "toys/tasks")]
        )
        return folder, run(config(), folder)


@pytest.mark.long
def test_the_run_is_the_same_as_with_the_tower_in_every_step(whole, tmp_path):
    folder, summary = whole
    usual = run(config(once=False), tmp_path)
    assert summary["val/accuracy"] == usual["val/accuracy"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), params(folder), params(tmp_path))
    rows = np.load(next((folder / "features").iterdir()))["features"]
    assert rows.shape == (60, 32) and rows.std(0).min() > 0


@pytest.mark.long
def test_resumes_to_the_bit_from_what_is_stored(whole, tmp_path, monkeypatch):
    folder, _ = whole
    shared = {"output": "features", "directory": str(folder / "features")}
    run(config(stop_at=3, precompute=shared), tmp_path)
    # The second half computes nothing: the file is there, under the digest of the tower alone.
    monkeypatch.setattr("vit_jax.training.precompute.Evaluation", None)
    run(config(precompute=shared), tmp_path)
    jax.tree.map(np.testing.assert_array_equal, params(folder), params(tmp_path))
    assert len(list((folder / "features").iterdir())) == 1


def test_the_step_gets_no_image():
    batch = rehearse(config(), 10, jax.devices()[:1]).program.batch
    assert set(batch) == {"label", "features", "corrupt"}
    assert batch["features"].shape == (16, 32)


def test_an_image_that_the_loss_sees_too_stays_in_its_batch():
    values = config(task={"name": "toy_taught"})
    batch = rehearse(values, 10, jax.devices()[:1]).program.batch
    assert set(batch) == {"image", "label", "features", "corrupt"}
    assert DistilEncoder.takes_beside == ("image",)  # of which the student makes its own


@pytest.mark.long
def test_a_run_with_the_image_beside_what_was_computed(tmp_path):
    once, usual = (config(which, task={"name": "toy_taught"}, steps=3) for which in (True, False))
    run(once, tmp_path / "once")
    run(usual, tmp_path / "usual")
    trained = (params(tmp_path / name) for name in ("once", "usual"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *trained)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"optim": {"name": "adamw", "learning_rate": 0.1}}, "'encoder/.*', which is trained, has a part in it"),
        ({"optim": {"name": "adamw", "learning_rate": 0.1, "frozen": ["encoder/block.*"]}}, "which is trained, has a part in it"),
        ({"precompute": {"output": "logits"}}, "takes no 'logits' that was computed before"),
        ({"task": {"name": "classify"}}, "takes no 'features' that was computed before"),
        ({"precompute": {"outputs": "features"}}, "config.precompute.outputs"),
        ({"data": {"transform": {"name": "supervised"}}}, "The transform 'supervised' shows an image differently each time"),
        ({"data": {"mix": {"erase": 0.5}}}, "config.data.mix changes an image differently each time"),
    ],
)  # fmt: skip
def test_what_cannot_be_computed_once(change, sentence, tmp_path):
    values = config()
    values |= {key: {**values[key], **value} if key == "data" else value for key, value in change.items()}
    with pytest.raises(UserError, match=sentence):
        run(values, tmp_path)
    assert not (tmp_path / "config.json").exists()
