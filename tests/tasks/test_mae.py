"""MAE: the loss by hand, what the encoder sees and costs, the step many ways, what goes on from it, and refusals."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import vit_jax
from tests.tiny import tiny_config, untrained
from vit_jax import UserError
from vit_jax.checkpoints.steps import find
from vit_jax.checkpoints.store import read_params
from vit_jax.checkpoints.transfer import init_from, starting_point
from vit_jax.models.mae import random_orders
from vit_jax.naming import build_named
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.planning.collectives import collectives
from vit_jax.tasks import DataInfo
from vit_jax.tasks.mae import masked_error, targets
from vit_jax.training.config import override
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train
from vit_jax.training.program import build_program
from vit_jax.training.sharding import make_mesh
from vit_jax.training.state import LOSS, random_key

VIT = {"name": "vit", "variant": "mu/2", "pooling": "token", "posemb": "sincos2d_mae", "gelu": "exact"}
TASK = {"name": "mae", "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
# As in test_equivalence: Adam scales rounding up to full steps.
SGD = {"optim__name": "sgd", "optim__learning_rate": 0.05, "optim__clip_norm": 1.0}


def mae_config(**overrides):
    """`tiny_config` on 8 digits a batch: 16 patches of 2x2 pixels, of which 4 are seen."""
    config = tiny_config(batch_size=8) | {"task": TASK, "model": VIT, "evals": {}}
    return override(config, {k.replace("__", "."): str(v) for k, v in overrides.items()})


def mae_run(workdir, devices=1, **overrides):
    return train(build_experiment(mae_config(**overrides)), workdir, jax.devices()[:devices])


def task_of(model=VIT, size=(8, 8), **kwargs):
    return build_named("task", TASK | kwargs, "config.task", model=model, data=DataInfo(size, ()))


def saved(workdir):
    return jax.tree.map(np.asarray, read_params(find(workdir), "params")[0])


def losses(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row["train/loss"] for row in rows if "train/loss" in row]


def loss_by_hand(images, predictions, orders, visible, size, normalize):
    """The mean over the patches that are masked of each one's mean squared error, patch by patch in float64."""
    errors = []
    for image, predicted, order in zip(images, predictions, orders, strict=True):
        columns = image.shape[1] // size
        for number in order[visible:]:
            row, column = divmod(int(number), columns)
            patch = image[row * size : row * size + size, column * size : column * size + size].reshape(-1)
            if normalize:
                patch = (patch - patch.mean()) / np.sqrt(patch.var(ddof=1) + 1e-6)
            errors.append(((predicted[number] - patch) ** 2).mean())
    return np.mean(errors)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("x64", [False, True], ids=["float32", "float64"])
def test_the_loss_by_hand(x64, devices, normalize):
    rng = np.random.default_rng(0)
    images, predictions = rng.normal(3, 2, (8, 8, 12, 3)), rng.normal(size=(8, 24, 12))
    orders = np.stack([rng.permutation(24) for _ in range(8)])
    expected = loss_by_hand(images, predictions, orders, 7, 2, normalize)
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    rows = NamedSharding(mesh, PartitionSpec("data"))
    with jax.enable_x64(x64):
        arrays = [jax.device_put(jnp.asarray(x), rows) for x in (images, predictions, orders)]
        assert arrays[0].dtype == (jnp.float64 if x64 else jnp.float32)
        found = jax.jit(lambda i, p, o: masked_error(p, targets(i, (2, 2), normalize), o, 7).mean())(*arrays)
        np.testing.assert_allclose(found, expected, rtol=1e-10 if x64 else 1e-5)


def test_masks_are_permutations_of_their_own():
    orders = np.asarray(random_orders(jax.random.key(0), 64, 16))
    np.testing.assert_array_equal(np.sort(orders), np.tile(np.arange(16), (64, 1)))
    assert len({tuple(order) for order in orders}) == 64
    shown = np.bincount(orders[:, :4].ravel(), minlength=16)
    assert shown.min() > 4 and shown.max() < 32  # 16 on average: no place is favoured


def test_the_decoder_knows_what_was_seen_and_no_more():
    task = task_of()
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
    shapes = init_shapes(task.init, jax.random.key(0), {"image": images})["params"]
    assert set(shapes) == {"encoder", "decoder"}
    noise = np.random.default_rng(1)
    params = jax.tree.map(lambda x: noise.normal(0.1, 0.2, x.shape).astype(np.float32), shapes)
    orders = np.stack([np.random.default_rng(i).permutation(16) for i in range(3)]).astype(np.int32)
    reconstruct = jax.jit(lambda i, o: task.model.apply({"params": params}, i, o, method="reconstruct"))
    expected = reconstruct(images, orders)
    assert task.model.visible((8, 8)) == 4 and expected.shape == (3, 16, 12) and expected.dtype == jnp.float32
    hidden = np.ones((3, 16), bool)
    np.put_along_axis(hidden, np.asarray(orders[:, :4]), False, axis=1)
    shown = np.repeat(np.repeat(~hidden.reshape(3, 4, 4), 2, axis=1), 2, axis=2)[..., None]
    np.testing.assert_array_equal(reconstruct(np.where(shown, images, np.float32(9)), orders), expected)
    assert np.abs(reconstruct(np.where(shown, np.float32(9), images), orders) - expected).max() > 1e-3
    # Whichever way the visible and the masked ones are ordered among themselves, patches keep their places.
    other = np.concatenate([orders[:, :4][:, ::-1], orders[:, 4:][:, ::-1]], axis=1)
    np.testing.assert_allclose(reconstruct(images, other), expected, atol=1e-5)


@pytest.mark.long
def test_the_encoder_computes_visible_patches_only():
    """At ViT-B/16's shape of a block, narrower: 50 of 197 tokens, from the compiled encoder alone."""
    model = {"name": "vit", "variant": "Ti/16", "depth": 2, "posemb": "sincos2d_mae", "gelu": "exact"}
    task = task_of(model, (224, 224))
    assert task.model.visible((224, 224)) == 49
    encoder, images = task.model.encoder, jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    keep = jax.ShapeDtypeStruct((2, 49), jnp.int32)
    params = init_shapes(lambda x: encoder.init(jax.random.key(0), x), images)

    def gradient(params, images, keep=None):
        return jax.grad(lambda p: encoder.apply(p, images, keep=keep).sum())(params)

    flops = [jax.jit(gradient).lower(params, *given).compile().cost_analysis()["flops"]
             for given in ((images,), (images, keep))]  # fmt: skip
    assert flops[0] / flops[1] > 3.9  # 4.0 where it is linear in the tokens, more in the attention


@pytest.mark.long
def test_operations_counted_on_paper_are_those_of_the_compiled_step():
    task = task_of({**VIT, "variant": "Ti/16", "depth": 2}, (96, 96), decoder_width=96, decoder_depth=2)
    batch = {"image": jnp.zeros((4, 96, 96, 3))}
    params = init_shapes(task.init, jax.random.key(0), batch)["params"]
    loss = jax.grad(lambda p, b: task.loss({"params": p, "model_state": {}}, b, jax.random.key(0), 0)[0])
    compiled = jax.jit(loss).lower(params, batch).compile().cost_analysis()["flops"] / 4
    assert task.flops(batch) == pytest.approx(compiled, rel=0.12)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("mae") / "run"
    mae_run(workdir, **SGD, steps=4, log_every=1)
    return workdir


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("stored") / "run", mae_config())


@pytest.mark.long
def test_devices_and_resuming(pretrained, tmp_path):
    expected = saved(pretrained)
    assert len(losses(pretrained)) == 4 and np.isfinite(losses(pretrained)).all()
    mae_run(tmp_path / "eight", devices=8, **SGD, steps=4, log_every=1)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5), saved(tmp_path / "eight"), expected
    )
    np.testing.assert_allclose(losses(tmp_path / "eight"), losses(pretrained), rtol=1e-5)
    for stop in (2, 4):
        mae_run(tmp_path / "parts", **SGD, steps=4, stop_at=stop, log_every=1)
    jax.tree.map(np.testing.assert_array_equal, saved(tmp_path / "parts"), expected)


@pytest.mark.long
def test_accumulation_is_the_mean_over_microbatches_with_masks_of_their_own(tmp_path):
    """Every image has as many masked patches, so that the mean of the parts' losses is the loss."""
    config = mae_config(**SGD, microbatch=4, steps=1, log_every=1)
    config["optim"] |= {"clip_norm": None, "schedule": {"name": "constant"}}
    experiment = build_experiment(config)
    train(experiment, tmp_path / "run", jax.devices()[:1])
    task, batch = experiment.task, experiment.pipeline.batch(0, 1, 0)
    images = experiment.on_device(dict(batch), jax.random.key(0))["image"]
    params = build_program(
        experiment.config, task, experiment.on_device,
        {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch.items()}, make_mesh({}, jax.devices()[:1]),
    ).fresh_state()["params"]  # fmt: skip
    keys = jax.random.split(random_key(3, jnp.int32(0), LOSS), 8)

    @jax.jit
    def step(params):
        def loss(p, i):
            variables = {"params": p, "model_state": {}}
            return task.loss(variables, {"image": images[i::2]}, keys[i], jnp.int32(0))[0]

        parts = [jax.grad(loss)(params, i) for i in range(2)]
        return jax.tree.map(lambda p, a, b: p - 0.05 * (a + b) / 2, params, *parts)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), saved(tmp_path / "run"), step(params)
    )


@pytest.mark.long
def test_only_gradients_are_sent_between_devices():
    experiment, mesh = build_experiment(mae_config()), make_mesh({}, jax.devices())
    row = experiment.pipeline.batch(0, 8, 0)
    raw = {name: jax.ShapeDtypeStruct((8, *value.shape[1:]), value.dtype) for name, value in row.items()}
    program = build_program(experiment.config, experiment.task, experiment.on_device, raw, mesh)
    found = collectives(program.lower().compile().as_text(), mesh)
    assert {c["kind"] for c in found} == {"all-reduce"}


@pytest.mark.long
def test_the_checkpoint_is_an_encoder_for_others(stored):
    loaded = vit_jax.load(stored)
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    outputs = loaded.outputs(images)
    assert outputs["features"].shape == (2, 32) and outputs["tokens"].shape == (2, 17, 32)
    np.testing.assert_allclose(outputs["features"], outputs["tokens"][:, 0])

    model, _ = starting_point(stored)
    assert model == {k: v for k, v in VIT.items()}
    module = build_named("model", model, "config.model", num_classes=3)
    fresh = init_shapes(lambda: module.init(jax.random.key(0), images))["params"]
    _, [report] = init_from({"params": fresh}, str(stored))
    assert set(report.missing) == {"head/kernel", "head/bias"}
    assert {name.split("/")[0] for name in report.unused} == {"decoder"}


def test_mean_of_patches_as_features(stored):
    task = task_of({**VIT, "pooling": "mean", "class_token": True})
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
    compute = jax.jit(
        lambda p, b: task.outputs({"params": p, "model_state": {}}, b, frozenset({"features", "tokens"}), None)
    )
    outputs = compute(saved(stored), {"image": images})
    np.testing.assert_allclose(outputs["features"], outputs["tokens"][:, 1:].mean(1), atol=1e-6)


@pytest.mark.parametrize(
    ("kwargs", "model", "message"),
    [
        ({"mask_ratio": 1.0}, {}, "mask_ratio is 1.0. Use one between 0 and 1"),
        ({"mask_ratio": 0}, {}, "mask_ratio is 0. "),
        ({"mask_ratio": -0.1}, {}, "mask_ratio is -0.1"),
        ({"mask_ratio": 0.99}, {}, "leaves 0 of 16 patches visible"),
        ({}, {"variant": "mu/8"}, "leaves 0 of 1 patches visible"),
        ({"decoder_heads": 3}, {}, "3 heads do not share a decoder of width 16"),
        ({"mask": 0.5}, {}, "Unknown key 'config.task.mask'. Did you mean 'mask_ratio'"),
        ({}, {"pooling": "map"}, "by 'token' or 'mean'"),
        ({}, {"representation_size": 8}, "Leave out representation_size"),
        ({}, {"fc_norm": True}, "Leave out representation_size and fc_norm"),
        ({}, {"widht": 8}, "Unknown key 'config.model.widht'. Did you mean 'width'"),
    ],
)
def test_mistakes(kwargs, model, message):
    with pytest.raises(UserError, match=message):
        task_of(VIT | model, **kwargs)


def test_a_model_that_is_no_trunk():
    with pytest.raises(UserError, match="'resnet' is not a trunk for a masked autoencoder. Use config.model.name=vit"):
        task_of({"name": "resnet", "variant": "18"})
