"""EfficientViT's objective by hand: the mean over classes, sizes by step, and the average that teaches."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.drawn import drawn
from tests.tiny import tiny_config
from vit_jax import UserError
from vit_jax.naming import build_named
from vit_jax.nn.resize import resize_maps
from vit_jax.tasks import DataInfo, in_training
from vit_jax.training.experiment import build_experiment
from vit_jax.training.program import build_program
from vit_jax.training.sharding import make_mesh

MODEL = {"name": "resnet", "variant": "18", "depths": [1], "width": 8, "stem": "cifar", "zero_init": False}
MESA = {"ratio": 2.0, "after": 3}


def task_of(**kwargs):
    data = DataInfo((8, 8), ("a", "b", "c"))
    return build_named("task", {"name": "efficientvit", **kwargs}, "config.task", model=MODEL, data=data)


def config(**overrides):
    """A run of two sizes with a teacher, whose running statistics are estimated anew at the end."""
    task = {"name": "efficientvit", "label_smoothing": 0.1, "sizes": [6, 8], "mesa": {"ratio": 2.0, "after": 2}}
    values = tiny_config(data__mix__mixup=0.2, data__mix__cutmix=0.2, **overrides) | {"model": MODEL, "task": task}
    return values | {"ema_decay": {"name": "ramp", "end": 0.9, "timescale": 2}, "recalibrate": 20}


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def bce(logits, targets):
    p = sigmoid(logits)
    return -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean()


@pytest.mark.long
def test_the_loss_by_hand():
    task = task_of(label_smoothing=0.1, mesa=MESA)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, 8, 8, 3)).astype(np.float32)
    shares = np.float32([[1, 0, 0], [0, 0.3, 0.7], [0.5, 0.5, 0], [0, 0, 1]])
    variables = drawn(task.init, jax.random.key(0), {"image": images})
    # A head that says something, and an average whose parameters and running statistics are others.
    params = {**variables["params"], "head": jax.tree.map(lambda x: x + rng.normal(size=x.shape).astype(np.float32),
                                                           variables["params"]["head"])}  # fmt: skip
    state = variables["model_state"]
    ema, ema_state = (jax.tree.map(lambda x: 1.1 * x + 0.05, tree) for tree in (params, state))

    @jax.jit
    def step(params, ema, ema_state, count):
        def loss(params, ema):
            given = {"params": params, "model_state": state, "ema": ema, "ema_model_state": ema_state}
            batch = {"image": images, "label": shares}
            return task.loss(given, batch, jax.random.key(1), count, static=None)

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, ema)

    keys = jax.random.split(jax.random.key(1))
    outputs, new_state = jax.jit(lambda *given: in_training(task.model, *given))(params, state, keys, images)
    answers = jax.jit(lambda variables: task.model.apply(variables, images, train=False)["logits"])
    taught = sigmoid(answers({"params": ema, **ema_state}))
    of_labels = bce(outputs["logits"], 0.9 * shares + 0.1 / 3)
    of_average = bce(outputs["logits"], taught)

    (value, (metrics, _)), _ = step(params, ema, ema_state, jnp.int32(2))
    assert float(value) == pytest.approx(of_labels, rel=1e-5) and float(metrics["mesa"][0]) == 0
    (value, (metrics, new)), (of_params, of_ema) = step(params, ema, ema_state, jnp.int32(3))
    assert float(value) == pytest.approx(of_labels + 2 * of_average, rel=1e-4)
    assert {k: float(s / w) for k, (s, w) in metrics.items() if k != "accuracy"} == pytest.approx(
        {"loss": of_labels, "mesa": of_average}, rel=1e-4
    )
    right = [shares[i, a] == shares[i].max() for i, a in enumerate(outputs["logits"].argmax(-1))]
    assert float(metrics["accuracy"][0]) == sum(right)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), new, new_state)
    assert not any(leaf.any() for leaf in jax.tree.leaves(of_ema))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(of_params["head"]))


@pytest.mark.long
def test_every_step_has_a_size_of_its_own():
    task, without = task_of(sizes=[6, 8, 4]), task_of()
    assert without.static(0) is None and task.static(0) == 8  # what takes the most memory comes first
    sizes = [task.static(step) for step in range(1, 601)]
    assert sizes == [task_of(sizes=[6, 8, 4]).static(step) for step in range(1, 601)]
    assert all(160 < count < 240 for count in collections.Counter(sizes).values())
    batch = {"image": np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32), "label": np.arange(4) % 3}
    variables = drawn(task.init, jax.random.key(0), batch)

    @jax.jit
    def statistics(images):
        keys = jax.random.split(jax.random.key(1))
        return in_training(task.model, variables["params"], variables["model_state"], keys, images)[1]

    _, (_, state) = jax.jit(task.loss, static_argnames="static")(
        variables, batch, jax.random.key(1), jnp.int32(0), static=6
    )
    expected = statistics(resize_maps(batch["image"], (6, 6), "bicubic_antialias"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state, expected)


def test_operations_of_a_step_are_those_of_its_mean_size():
    shapes = {"image": jax.ShapeDtypeStruct((2, 8, 8, 3), np.uint8)}
    of = {size: task_of().model.flops((size, size)) for size in (4, 8)}
    assert task_of().flops(shapes) == 3 * of[8]
    assert task_of(sizes=[4, 8], mesa=MESA).flops(shapes) == 4 * (of[4] + of[8]) / 2


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"sizes": [0]}, "config.task.sizes"),
        ({"mesa": {"after": 3}}, "config.task.mesa.ratio"),
        ({"mesa": {"ratio": 2.0, "afte": 3}}, "Did you mean 'after'"),
        ({"mesa": {"ratio": 0.0}}, "config.task.mesa.ratio is 0.0"),
    ],
)
def test_mistakes_get_a_sentence(kwargs, message):
    with pytest.raises(UserError, match=message):
        task_of(**kwargs)


UNMIXED = tiny_config()["data"]  # one example has none to be mixed with


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ema_decay": None}, "MESA learns from a moving average"),
        ({"microbatch": 8}, "statistics of whole batches"),
        ({"batch_size": 1, "data": UNMIXED}, "Batch normalisation over one example"),
    ],
)
def test_runs_that_cannot_be_get_a_sentence(changes, message):
    experiment = build_experiment(config() | changes)
    size = experiment.config.batch_size
    row = experiment.pipeline.batch(0, size, 0)
    batch = {k: jax.ShapeDtypeStruct((size, *v.shape[1:]), v.dtype) for k, v in row.items()}
    with pytest.raises(UserError, match=message):
        build_program(experiment.config, experiment.task, experiment.on_device, batch, make_mesh({}, jax.devices()[:1]))
