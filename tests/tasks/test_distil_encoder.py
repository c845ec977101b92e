"""A student's embedding is drawn to its teacher's, and nothing else learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.tasks import test_sam
from vit_jax import UserError
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.resize import resize_maps
from vit_jax.tasks import distil_encoder

DECODER = {"width": 16, "decoder_heads": 2, "decoder_mlp_dim": 24, "mask_channels": 4, "iou_hidden": 8}
TEACHER = {"name": "sam", "trunk": {"name": "vit", "variant": "mu/8", "width": 16, "depth": 1}, **DECODER}
STUDENT = {
    "name": "efficientvit_sam", "variant": "L0", "widths": [4, 4, 4, 8, 8], "depths": [1, 1, 1, 1, 1], "head_width": 4,
    "neck_width": 8, "neck_depth": 1, "embedding_size": 8, "stride": 8, **DECODER,
}  # fmt: skip
BATCH = {
    "image": np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32), "index": np.arange(2, dtype=np.int32),
}  # fmt: skip


def config():
    """The smallest run: that of SAM, whose model is the teacher, of weights as they begin."""
    values = test_sam.config()
    student = {**STUDENT, **{name: value for name, value in values["model"].items() if name not in ("name", "trunk")}}
    task = {"name": "distil_encoder", "teacher": values["model"]}
    return values | {"task": task, "model": {**student, "embedding_size": 4}}


@pytest.fixture(scope="module")
def found():
    """A task whose student sees half the pixels, random variables, and all that is asked of them in one program."""
    task = distil_encoder.build(model=STUDENT, data=None, teacher=TEACHER, student_size=[32, 32])
    rng = np.random.default_rng(1)

    def drawn(path, leaf):
        values = rng.uniform(-0.5, 0.5, leaf.shape).astype(np.float32)
        return np.abs(values) + 0.5 if path[-1].key in ("var", "scale") else values

    variables = jax.tree.map_with_path(drawn, init_shapes(task.init, jax.random.key(0), BATCH))

    @jax.jit
    def run(variables, batch):
        def loss(params):
            return task.loss({**variables, "params": params}, batch, jax.random.key(0), 0)

        (value, aux), gradients = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        names = frozenset({"embedding", "teacher_embedding"})
        outputs = task.outputs(variables, batch, names, jax.random.split(jax.random.key(0), 2))
        student = {"params": variables["params"], **variables["model_state"]}
        small = resize_maps(batch["image"], (32, 32), "bicubic_antialias")
        by_hand = {
            "still": task.model.apply(student, small, method="embed"),
            "moving": task.model.apply(student, small, train=True, mutable=["batch_stats"], method="embed")[0],
            "teacher": task.teacher.apply({"params": variables["params"]["teacher"]}, batch["image"], method="embed"),
        }
        return value, aux, gradients, outputs, by_hand

    return task, variables, jax.device_get(run(variables, BATCH))


class Squares(nn.Module):
    """Stands for a model with an embedding: each square of `side` pixels, normalised in training by its batch."""

    side: int
    normalised: bool = False

    @nn.compact
    def embed(self, images, train=False):
        x = nn.Conv(3, (self.side, self.side), (self.side, self.side), name="neck")(images)
        return nn.BatchNorm(not train, name="norm")(x) if self.normalised else x


def test_the_loss_by_hand():
    """Of models that compile at once; the longer tests are of EfficientViT-SAM and SAM."""
    task = distil_encoder.DistilEncoder(Squares(2, True), {}, 1, teacher=Squares(4), student_size=(4, 6))
    images = np.random.default_rng(0).normal(size=(3, 8, 12, 3)).astype(np.float32)
    rng = np.random.default_rng(1)
    teacher, neck = ({"kernel": rng.normal(size=(s, s, 3, 3)), "bias": rng.normal(size=3)} for s in (4, 2))
    params = {
        "neck": neck,
        "norm": {"scale": rng.uniform(1, 2, 3), "bias": rng.normal(size=3)},
        "teacher": {"neck": teacher},
    }
    params = jax.tree.map(np.float32, params)
    state = {"batch_stats": {"norm": {"mean": np.zeros(3, np.float32), "var": np.ones(3, np.float32)}}}
    given = rng.normal(size=(3, 2, 3, 3)).astype(np.float32)

    @jax.jit
    def run(params):
        def loss(params, batch):
            return task.loss({"params": params, "model_state": state}, batch, jax.random.key(2), jnp.int32(0))

        # What the teacher gave once is taken, as `config.precompute` leaves it in the batch.
        again, _ = loss({"neck": params["neck"], "norm": params["norm"]}, {"image": images, "teacher_embedding": given})
        small = resize_maps(images, (4, 6), "bicubic_antialias")
        return jax.value_and_grad(loss, has_aux=True)(params, {"image": images}), again, small

    ((value, (metrics, after)), gradients), again, small = jax.device_get(run(params))

    def squares(x, side, neck):
        n, h, w, _ = x.shape
        x = (
            x.reshape(n, h // side, side, w // side, side, 3)
            .transpose(0, 1, 3, 2, 4, 5)
            .reshape(n, h // side, w // side, -1)
        )
        return x @ np.float64(neck["kernel"]).reshape(-1, 3) + np.float64(neck["bias"])

    taught = squares(np.float64(images), 4, teacher)
    own = squares(np.float64(small), 2, neck)
    mean = own.mean((0, 1, 2))
    own = (own - mean) / np.sqrt(own.var((0, 1, 2)) + 1e-5) * params["norm"]["scale"] + params["norm"]["bias"]
    error = np.square(own - taught).mean((1, 2, 3))
    averages = {name: total / count for name, (total, count) in metrics.items()}
    wanted = {"loss": error.mean(), "missed": (error / taught.var((1, 2, 3))).mean()}
    assert averages == pytest.approx(wanted, rel=1e-4) and metrics["loss"][1] == metrics["missed"][1] == 3
    assert value == pytest.approx(error.mean(), rel=1e-4) and again == pytest.approx(
        np.square(own - given).mean(), rel=1e-4
    )
    np.testing.assert_allclose(after["batch_stats"]["norm"]["mean"], 0.01 * mean, rtol=1e-4)
    moved = {name: any(map(np.any, jax.tree.leaves(tree))) for name, tree in gradients.items()}
    assert moved == {"neck": True, "norm": True, "teacher": False}


@pytest.mark.long
def test_the_loss_is_the_mean_squared_difference(found):
    _, _, (value, (metrics, _), _, _, by_hand) = found
    assert by_hand["teacher"].shape == by_hand["moving"].shape == (2, 8, 8, 16)
    error = np.square(np.float64(by_hand["moving"]) - np.float64(by_hand["teacher"])).mean((1, 2, 3))
    assert value == pytest.approx(error.mean(), rel=1e-5) and error.mean() > 0.01
    missed = error / np.float64(by_hand["teacher"]).var((1, 2, 3))
    for name, expected in {"loss": error, "missed": missed}.items():
        total, weight = metrics[name]
        assert (float(total), float(weight)) == (pytest.approx(expected.sum(), rel=1e-4), 2)


@pytest.mark.long
def test_the_encoder_and_the_neck_learn_and_nothing_else(found):
    _, variables, (_, (_, state), gradients, _, _) = found
    for name, tree in gradients.items():
        moved = {bool(np.any(leaf)) for leaf in jax.tree.leaves(tree)}
        assert moved == {False} if name in ("teacher", "prompts", "decoder") else True in moved, name
    before = variables["model_state"]
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, before)
    assert not np.array_equal(*(jax.tree.leaves(x["batch_stats"]["neck"])[0] for x in (state, before)))
    np.testing.assert_array_equal(*(x["constants"]["prompts"]["fourier"] for x in (state, before)))


@pytest.mark.long
def test_outputs_are_the_student_s_and_what_it_is_taught(found):
    _, _, (*_, outputs, by_hand) = found
    np.testing.assert_allclose(outputs["embedding"], by_hand["still"], atol=1e-5)
    np.testing.assert_allclose(outputs["teacher_embedding"], by_hand["teacher"], atol=1e-5)


@pytest.mark.long
def test_what_the_teacher_gave_once_is_taken_instead_of_computed(found):
    """As `config.precompute` leaves it in the batch."""
    task, variables, (value, _, _, outputs, _) = found
    batch = {**BATCH, "teacher_embedding": outputs["teacher_embedding"]}
    without = {**variables, "params": {k: v for k, v in variables["params"].items() if k != "teacher"}}
    again = jax.jit(lambda v, b: task.loss(v, b, jax.random.key(0), 0)[0])(without, batch)
    assert float(again) == pytest.approx(value, rel=1e-5)


@pytest.mark.long
def test_flops_count_the_teacher_once(found):
    task, *_ = found
    shapes = {"image": jax.ShapeDtypeStruct(BATCH["image"].shape, jnp.uint8)}
    assert task.forward_flops(shapes) == task.model.flops((32, 32))
    assert task.flops(shapes) == 3 * task.model.flops((32, 32)) + task.teacher.flops((64, 64))


@pytest.mark.long
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {**STUDENT, "embedding_size": 4}}, "teacher's embedding has 8x8x16 numbers, the student's 4x4x16"),
        ({"teacher": {"name": "vit", "variant": "mu/8"}}, "The teacher 'vit' gives no embedding"),
        ({"model": {"name": "vit", "variant": "mu/8"}}, "The config.model 'vit' gives no embedding"),
    ],
)
def test_what_does_not_fit_gets_a_sentence(change, message):
    with pytest.raises(UserError, match=message):
        task = distil_encoder.build(**{"model": STUDENT, "data": None, "teacher": TEACHER, **change})
        init_shapes(dataclasses.replace(task).init, jax.random.key(0), BATCH)
