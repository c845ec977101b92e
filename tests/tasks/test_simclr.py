"""SimCLR: its pieces put together by hand, version 2's middle layer, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from tests.drawn import drawn
from tests.tiny import tiny_run
from tests.tiny_contrastive import RESNET, VIT, contrastive_config, contrastive_run
from vit_jax import UserError
from vit_jax.checkpoints.steps import find
from vit_jax.checkpoints.store import read_params
from vit_jax.checkpoints.transfer import starting_point
from vit_jax.naming import build_named
from vit_jax.tasks import DataInfo
from vit_jax.tasks.simclr import nt_xent
from vit_jax.training.evaluation import evaluate_loaded
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

VIEWS = np.random.default_rng(0).normal(size=(6, 2, 8, 8, 3)).astype(np.float32)


def task_of(model=RESNET, **kwargs):
    data = DataInfo((8, 8), ())
    return build_named("task", {"name": "simclr", "head_out": 8, **kwargs}, "config.task", model=model, data=data)


def batch_norm(x, epsilon=1e-5):
    return (x - x.mean(0)) / np.sqrt(x.var(0) + epsilon)


@pytest.mark.parametrize(("layers", "loss_per"), [(2, "view"), (3, "image")])
def test_the_loss_put_together_by_hand(layers, loss_per):
    """The trunk's features of all 2N views, normalised together, through the head, into the loss."""
    task = task_of(head_layers=layers, temperature=0.3, loss_per=loss_per)
    variables = drawn(task.init, jax.random.key(0), {"image": VIEWS})
    head = variables["params"]["projector"]
    assert set(head) == {f"{kind}{i}" for kind in ("dense", "norm") for i in range(1, layers + 1)}
    assert all(set(head[f"dense{i}"]) == {"kernel"} for i in range(1, layers + 1))
    assert set(head[f"norm{layers}"]) == {"scale"} and head[f"dense{layers}"]["kernel"].shape[1] == 8

    images = np.concatenate([VIEWS[:, 0], VIEWS[:, 1]])
    state = {"params": variables["params"], **variables["model_state"]}
    outputs, new = jax.jit(lambda v, x: task.model.apply(v, x, train=True, mutable=["batch_stats"]))(state, images)
    x = np.asarray(outputs["features"], np.float64)
    features = x
    for i in range(1, layers + 1):
        x = batch_norm(x @ np.asarray(head[f"dense{i}"]["kernel"], np.float64))
        x = np.maximum(x, 0) if i < layers else x
    losses, right = jax.jit(nt_xent)(jnp.asarray(x[:6]), jnp.asarray(x[6:]), 0.3)
    value, (metrics, new_state) = jax.jit(task.loss)(variables, {"image": VIEWS}, jax.random.key(1), 0)
    # The authors' code adds up the losses of an image's two views.
    np.testing.assert_allclose(value, losses.mean() * (2 if loss_per == "image" else 1), rtol=1e-4)
    metrics = {name: float(total / weight) for name, (total, weight) in metrics.items()}
    assert metrics == pytest.approx({"loss": float(value), "accuracy": float(right.mean())}, rel=1e-5)
    # Statistics of trunk and head are in the new state, both over all 2N views.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        new_state["batch_stats"]["encoder"], new["batch_stats"]["encoder"],
    )  # fmt: skip
    mean = 0.1 * (features @ np.asarray(head["dense1"]["kernel"], np.float64)).mean(0)
    np.testing.assert_allclose(new_state["batch_stats"]["projector"]["norm1"]["mean"], mean, rtol=1e-3, atol=1e-5)


@pytest.mark.long
def test_the_trunk_is_the_representation(tmp_path):
    """A checkpoint's encoder serves `load`, and fine-tuning with and without a frozen trunk."""
    digits = {"name": "digits", "split": "train", "per_class": 6}
    evals = {"knn": {"name": "knn", "train": digits, "features": "projections", "k": 3}}
    logged = contrastive_run(tmp_path / "simclr", "simclr", VIT, evals=evals)
    loaded = vit_jax.load(tmp_path / "simclr")
    assert evaluate_loaded(loaded, loaded.metadata["config"])["knn/accuracy"] == logged["knn/accuracy"]
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    params, state = read_params(find(tmp_path / "simclr"))
    task = build_experiment(contrastive_config("simclr", VIT)).task
    outputs = task.outputs(
        {"params": params, "model_state": state}, {"image": images}, frozenset({"features", "projections"}), None
    )
    np.testing.assert_allclose(loaded.features(images), outputs["features"], rtol=1e-5, atol=1e-5)
    assert outputs["projections"].shape == (2, 8)

    model, _ = starting_point(str(tmp_path / "simclr"))
    assert model == VIT
    overrides = {f"model__{key}": value for key, value in model.items()}
    start = {"init_from": tmp_path / "simclr", "steps": 3, "optim__schedule__warmup_steps": 0}
    tiny_run(tmp_path / "probe", **overrides, **start, optim__frozen="['encoder/.*']")
    probe, _ = read_params(find(tmp_path / "probe"))
    jax.tree.map(np.testing.assert_array_equal, probe["encoder"], params["encoder"])
    assert set(probe) == {"encoder", "head"} and np.any(probe["head"]["kernel"])


@pytest.mark.slow
def test_version_2_fine_tunes_from_inside_the_head(tmp_path):
    changes = {"task__head_layers": 3, "task__representation": 1, "task__head_hidden": 24}
    contrastive_run(tmp_path / "v2", "simclr", VIT, **changes)
    params, state = read_params(find(tmp_path / "v2"))
    loaded = vit_jax.load(tmp_path / "v2")
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    task = build_experiment(contrastive_config("simclr", VIT, **changes)).task
    outputs = task.outputs(
        {"params": params, "model_state": state}, {"image": images}, frozenset({"features", "projections"}), None
    )
    assert outputs["features"].shape == (2, 24) and np.min(outputs["features"]) == 0
    np.testing.assert_allclose(loaded.features(images), outputs["features"], rtol=1e-5, atol=1e-5)

    model, _ = starting_point(str(tmp_path / "v2"))
    config = contrastive_config("simclr", VIT) | {"task": {"name": "classify"}, "model": model, "steps": 1}
    config["data"] = config["data"] | {"transform": {"name": "supervised"}}
    config["optim"] = {"name": "sgd", "learning_rate": 0.0}
    train(build_experiment(config | {"init_from": str(tmp_path / "v2")}), tmp_path / "tuned", jax.devices()[:1])
    tuned, _ = read_params(find(tmp_path / "tuned"))
    assert set(tuned) == {"encoder", "projector", "head"} and set(tuned["projector"]) == {"dense1", "norm1"}
    np.testing.assert_array_equal(tuned["projector"]["dense1"]["kernel"], params["projector"]["dense1"]["kernel"])
    assert tuned["head"]["kernel"].shape[0] == 24


def test_a_batch_of_one_and_a_single_view(tmp_path):
    with pytest.raises(UserError, match="over one image has no negatives"):
        contrastive_run(tmp_path / "one", "simclr", batch_size=1)
    with pytest.raises(UserError, match=r"two views of each image.*transform\.name=two_views"):
        contrastive_run(tmp_path / "one", "simclr", data__transform__name="supervised")
    with pytest.raises(UserError, match="Mixing and erasing take one view"):
        contrastive_run(tmp_path / "one", "simclr", data__mix__erase=0.5)
    assert not (tmp_path / "one").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"representation": 2}, "not a layer inside a head of 2"),
        ({"head_layers": 0}, "head_layers is 0"),
        ({"tempreature": 1.0}, "Did you mean 'temperature'"),
    ],
)
def test_bad_values_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        task_of(**wrong)
