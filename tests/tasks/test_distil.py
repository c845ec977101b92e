"""A student is told the labels by its data and the rest by a teacher, which sees the same images and stays as it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.tiny import tiny_config
from vit_jax import UserError
from vit_jax.data.fields import Context, build_fields
from vit_jax.data.preprocess import Preprocess
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.resize import resize_maps
from vit_jax.tasks import DataInfo, distil

VIT = {"name": "vit", "variant": "mu/4", "pooling": "mean"}
TEACHER = {"name": "resnet", "variant": "18", "depths": [1], "width": 4, "stem": "cifar", "num_classes": 10}
SEES = {"image_size": [6, 6], "mean": [120.0, 110.0, 100.0], "std": [60.0, 50.0, 40.0]}
NAMES = ("ant", "bee", "cat")


def config():
    """The smallest run: another size, other statistics, batch norm and mixed images for the teacher."""
    values = tiny_config(data__mix__mixup=0.2, model__depth=1)
    task = {"name": "distil", "teacher": TEACHER, "teacher_sees": SEES, "temperature": 2.0, "alpha": 0.9}
    return values | {"task": task}


def info(names=NAMES):
    preprocess = Preprocess((8, 8), mean=(130.0, 120.0, 110.0), std=(65.0, 60.0, 55.0))
    return DataInfo((8, 8), names, build_fields(None, Context(preprocess, names)))


def build(**given):
    teacher = {**TEACHER, "num_classes": 3}
    return distil.build(**{"model": VIT, "data": info(), "teacher": teacher, "teacher_sees": SEES, **given})


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def told(student, teacher, form, temperature):
    """What an answer costs, in float64."""
    if form == "hard":
        return -log_softmax(student)[np.arange(len(student)), teacher.argmax(1)]
    theirs, ours = (log_softmax(x / temperature) for x in (teacher, student))
    return temperature**2 * (np.exp(theirs) * (theirs - ours)).sum(1)


class Linear(nn.Module):
    """Stands for a model whose answers are easy to compute: of all pixels, or of two heads."""

    heads: int = 1

    @nn.compact
    def __call__(self, images, train):
        x = images.reshape(images.shape[0], -1)
        each = jnp.stack([nn.Dense(3, name=f"head{i}")(x) for i in range(self.heads)], axis=1)
        return {"logits": each.mean(1), **({"head_logits": each} if self.heads == 2 else {})}


@pytest.mark.parametrize(("heads", "form"), [(1, "soft"), (2, "hard")])
def test_the_loss_by_hand(heads, form):
    """The second head learns from the teacher, whose pixels are these images with its own statistics and size."""
    alpha, temperature = 0.3, 2.0 if form == "soft" else 1.0
    given = {name: tuple(SEES[name]) for name in ("image_size", "mean", "std")}
    task = distil.Distil(
        Linear(heads), {}, 3, teacher=Linear(), sees=distil.Sees(**given), form=form, temperature=temperature,
        pixels=((130.0, 120.0, 110.0), (65.0, 60.0, 55.0)), places=(2, 0, 1), alpha=alpha, label_smoothing=0.1,
    )  # fmt: skip
    rng = np.random.default_rng(1)
    levels = rng.uniform(0, 255, size=(4, 8, 8, 3))
    images = np.float32((levels - task.pixels[0]) / task.pixels[1])
    shares = np.float32([[1, 0, 0], [0, 0.3, 0.7], [0.5, 0.5, 0], [0, 0, 1]])

    def dense(inputs):
        return {"kernel": np.float32(rng.normal(size=(inputs, 3)) / 9), "bias": np.float32(rng.normal(size=3))}

    own = {f"head{i}": dense(8 * 8 * 3) for i in range(heads)}
    params = {**own, "teacher": {"head0": dense(6 * 6 * 3)}}

    @jax.jit
    def run(params):
        def loss(params):
            variables = {"params": params, "model_state": {}}
            return task.loss(variables, {"image": images, "label": shares}, jax.random.key(2), jnp.int32(0))

        seen = resize_maps(jnp.float32((levels - SEES["mean"]) / np.array(SEES["std"])), (6, 6), "bicubic_antialias")
        return jax.value_and_grad(loss, has_aux=True)(params), seen

    ((value, (metrics, state)), gradients), seen = jax.device_get(run(params))

    def answers(images, dense):
        return np.float64(images).reshape(4, -1) @ np.float64(dense["kernel"]) + dense["bias"]

    taught = answers(seen, params["teacher"]["head0"])[:, [2, 0, 1]]
    said = [answers(images, own[name]) for name in own]
    label = -((0.9 * shares + 0.1 / 3) * log_softmax(said[0])).sum(1).mean()
    distilled = told(said[-1], taught, form, temperature).mean()
    expected = {"loss": (1 - alpha) * label + alpha * distilled, "label_loss": label, "distillation": distilled}
    answer, right = (sum(said) / heads).argmax(1), shares == shares.max(1, keepdims=True)
    expected["accuracy"], expected["teacher_accuracy"] = (right[range(4), a].mean() for a in (answer, taught.argmax(1)))
    expected["agreement"] = (answer == taught.argmax(1)).mean()
    assert {name: float(s / w) for name, (s, w) in metrics.items()} == pytest.approx(expected, rel=1e-4)
    assert float(value) == pytest.approx(expected["loss"], rel=1e-4) and state == {}
    moved = {name: all(map(np.any, jax.tree.leaves(tree))) for name, tree in gradients.items()}
    assert moved == dict.fromkeys(own, True) | {"teacher": False}


def test_a_teacher_with_statistics_stays_as_it_is_and_is_counted_once():
    task = build()
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), np.float32)
    batch = {"image": images, "label": jax.ShapeDtypeStruct((2,), np.int32)}
    variables = init_shapes(task.init, jax.random.key(0), batch)
    alone = init_shapes(task.teacher.init, jax.random.key(0), jax.ShapeDtypeStruct((2, 6, 6, 3), np.float32))
    assert variables["params"]["teacher"] == alone["params"]
    assert variables["model_state"] == {"batch_stats": {"teacher": alone["batch_stats"]}}
    _, (_, state) = jax.eval_shape(lambda v, b: task.loss(v, b, jax.random.key(0), 0), variables, batch)
    assert jax.tree.structure(state) == jax.tree.structure(variables["model_state"])
    names = frozenset({"teacher_logits", "logits"})
    found = jax.eval_shape(lambda v, b: task.outputs(v, b, names, None), variables, batch)
    assert {name: x.shape for name, x in found.items()} == dict.fromkeys(names, (2, 3))
    assert task.forward_flops(batch) == task.model.flops((8, 8))
    assert task.flops(batch) == 3 * task.model.flops((8, 8)) + task.teacher.flops((6, 6))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"teacher": {"name": "vit", "variant": "mu/4"}}, "teacher 'vit' is no classifier"),
        ({"teacher": TEACHER}, "teacher has 10 classes, and the data 3"),
        ({"teacher_classes": ["ant", "bee", "cow"]}, "classes are not the data's: .*no class 'cat'"),
        ({"form": "hard", "temperature": 2.0}, "Hard labels have no temperature"),
        ({"teacher_sees": {**SEES, "std": [0.0, 1.0, 1.0]}}, "config.task.teacher_sees.std"),
    ],
)
def test_a_teacher_that_does_not_fit_gets_a_sentence(given, message):
    with pytest.raises(UserError, match=message):
        build(**given)


def test_classes_in_another_order_are_the_same_classes():
    assert build(teacher_classes=["cat", "ant", "bee"]).places == (1, 2, 0)
    assert build(teacher_classes=list(NAMES)).places is build().places is None
