"""One model for all patch sizes: each step has one, and any can be taken out of it as a plain ViT."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from tests.tasks import test_distil as taught
from tests.tiny import tiny_config, untrained
from vit_jax import UserError
from vit_jax.checkpoints.transfer import init_from
from vit_jax.commands.main import main
from vit_jax.naming import build_model
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.posemb import interpolate_posemb
from vit_jax.nn.resize import resample_kernel
from vit_jax.tasks import flexivit
from vit_jax.training.frozen_flops import spared_flops

MODEL = {
    "name": "vit", "variant": "mu/4", "depth": 1, "pooling": "token", "class_token_posemb": False, "underlying_patch": 6,
    "underlying_grid": 3,
}  # fmt: skip


def config():
    """The smallest run: of three patch sizes, evaluated at the middle one."""
    values = tiny_config(data__mix__mixup=0.2)
    return values | {"task": {"name": "flexivit", "patch_sizes": [2, 4, 8], "label_smoothing": 0.1}, "model": MODEL}


def build(**given):
    return flexivit.build(**{"model": MODEL, "data": taught.info(), "patch_sizes": [2, 4, 8], **given})


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A checkpoint whose answers differ from image to image."""
    return untrained(tmp_path_factory.mktemp("flexi"), config(), signed=True)


def test_every_step_has_a_patch_size_of_its_own():
    task = build()
    sizes = [task.static(step) for step in range(601)]
    assert sizes[0] == 2 and sizes == [build().static(step) for step in range(601)]
    # Written down, so that they stay what they are with another NumPy.
    assert sizes[1:13] == [8, 8, 2, 4, 8, 2, 2, 8, 2, 8, 2, 8]
    counts = collections.Counter(sizes[1:])
    assert counts.keys() == {2, 4, 8} and all(160 < count < 240 for count in counts.values())


def test_a_step_is_that_of_a_plain_vit_with_these_patches():
    """And its gradients come back to the underlying parameters."""
    task, plain = build(label_smoothing=0.1), build_model({**MODEL, "variant": "mu/2", "underlying_patch": None, "underlying_grid": None}, num_classes=3)[0]  # fmt: skip
    rng = np.random.default_rng(0)
    batch = {"image": rng.normal(size=(4, 8, 8, 3)).astype(np.float32), "label": np.int32([0, 1, 2, 1])}
    shapes = init_shapes(task.init, jax.random.key(0), batch)["params"]
    params = jax.tree.map(lambda x: np.float32(rng.normal(size=x.shape) / 4), shapes)
    assert shapes["encoder"]["embedding"]["kernel"].shape == (6, 6, 3, 32)
    assert shapes["encoder"]["pos_embedding"].shape == (3, 3, 32)

    def loss(params):
        return task.loss({"params": params, "model_state": {}}, batch, jax.random.key(0), jnp.int32(1), static=2)

    (_, (metrics, _)), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    encoder = params["encoder"]
    kernel = resample_kernel(encoder["embedding"]["kernel"], (2, 2))
    positions = interpolate_posemb(encoder["pos_embedding"], (4, 4), "half_pixel_antialias")
    resampled = {**encoder, "embedding": {**encoder["embedding"], "kernel": kernel}, "pos_embedding": positions}
    logits = np.float64(jax.jit(plain.apply)({"params": {**params, "encoder": resampled}}, batch["image"])["logits"])
    targets = 0.9 * np.eye(3)[batch["label"]] + 0.1 / 3
    expected = -(targets * taught.log_softmax(logits)).sum(1).mean()
    assert float(metrics["loss"][0]) / 4 == pytest.approx(expected, rel=1e-4)
    for name in ("pos_embedding", "embedding", "cls"):
        assert all(map(np.any, jax.tree.leaves(gradients["encoder"][name]))), name


def test_what_a_frozen_trunk_spares_is_the_mean_over_patch_sizes():
    """As the count of all operations is; that of the most tokens alone would be more than all there is."""
    batch = {"image": jax.ShapeDtypeStruct((2, 8, 8, 3), np.float32), "label": jax.ShapeDtypeStruct((2,), np.int32)}
    variables = init_shapes(build().init, jax.random.key(0), batch)
    frozen = {
        name: jax.tree.map(lambda _, name=name: name == "encoder", tree) for name, tree in variables["params"].items()
    }
    spared, *of_each = (
        spared_flops(build(patch_sizes=sizes), variables, frozen, batch) for sizes in ([2, 8], [2], [8])
    )
    assert spared == sum(of_each) / 2 and of_each[0] > 4 * of_each[1] > 0
    assert spared < build(patch_sizes=[2, 8]).flops(batch)


def test_a_teacher_tells_it_at_every_patch_size():
    teacher = {**taught.TEACHER, "num_classes": 3}
    task = build(teacher=teacher, teacher_sees=taught.SEES, alpha=1.0)
    batch = {"image": np.zeros((2, 8, 8, 3), np.float32), "label": np.zeros(2, np.int32)}
    variables = init_shapes(task.init, jax.random.key(0), batch)
    assert set(variables["params"]) == {"encoder", "head", "teacher"} and task.locked_when_loaded == ("teacher",)
    _, (metrics, _) = jax.eval_shape(lambda v: task.loss(v, batch, jax.random.key(0), 0, static=8), variables)
    assert "agreement" in metrics
    steps = [task._at(p).flops({"image": batch["image"]}) for p in (2, 4, 8)]
    assert task.flops({"image": batch["image"]}) == sum(steps) / 3 and steps[0] > steps[2]


@pytest.mark.long
def test_a_run_is_a_plain_vit_at_any_patch_size(workdir, tmp_path, capsys):
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
    flexible, same, other = (
        vit_jax.load(workdir),
        vit_jax.load(workdir, patch_size=4),
        vit_jax.load(workdir, patch_size=2),
    )
    np.testing.assert_allclose(same.logits(images), flexible.logits(images), atol=1e-5)
    assert np.abs(np.asarray(other.logits(images)) - np.asarray(same.logits(images))).max() > 1e-3
    assert other.resized == (
        "encoder/embedding/kernel (6, 6, 3) -> (2, 2, 3)", "encoder/pos_embedding (3, 3) -> (4, 4)",
    )  # fmt: skip
    assert type(other.task).__name__ == "Classify" and other.model.encoder.patch_size == (2, 2)
    # Written for another library at one of them.
    assert main(["convert", str(workdir), str(tmp_path / "a.safetensors")]) == 2
    assert "no patch size in particular" in capsys.readouterr().err
    assert main(["convert", str(workdir), str(tmp_path / "a.safetensors"), "--model.patch_size=2"]) == 0
    written = vit_jax.load(tmp_path / "a.safetensors")
    jax.tree.map(np.testing.assert_array_equal, written.params, other.params)


def test_a_plain_vit_takes_other_patches_too(tmp_path):
    """The tokens of twice as large patches of an image twice as large are what they were; a model of other patches
    starts from it as well."""
    folder = untrained(tmp_path / "plain", tiny_config(model__depth=1), signed=True)
    loaded = vit_jax.load(folder, patch_size=8, image_size=16)
    before = vit_jax.load(folder).params["encoder"]["embedding"]["kernel"]
    kernel = loaded.params["encoder"]["embedding"]["kernel"]
    np.testing.assert_array_equal(kernel, resample_kernel(np.asarray(before), (8, 8)))
    assert loaded.resized == ("encoder/embedding/kernel (4, 4, 3) -> (8, 8, 3)",)
    model = build_model({"name": "vit", "variant": "mu/8", "depth": 1, "pooling": "mean"}, num_classes=10)[0]
    target = init_shapes(model.init, jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32))
    found, [report] = init_from(target, str(folder))
    np.testing.assert_array_equal(found["params/encoder/embedding/kernel"], kernel)
    assert report.resized == loaded.resized


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"patch_sizes": [2, 3]}, "Images of 8x8 pixels do not divide into patches of 3x3"),
        ({"patch_sizes": []}, "patch_sizes is empty"),
        ({"model": {**MODEL, "underlying_patch": None}}, "parameters for one patch size alone"),
        ({"model": {**MODEL, "underlying_grid": None}}, "positions for one grid alone"),
        ({"labl_smoothing": 0.1}, "Did you mean 'label_smoothing'"),
    ],
)
def test_mistakes_get_a_sentence(given, message):
    with pytest.raises(UserError, match=message):
        build(**given)


@pytest.mark.parametrize(
    ("patch_size", "message"),
    [(3, "Images of 8x8 pixels do not divide into patches of 3x3"), (0, "patch_size is 0"), ("4", "patch_size is '4'")],
)
def test_patch_sizes_that_cannot_be(workdir, patch_size, message):
    with pytest.raises(UserError, match=message):
        vit_jax.load(workdir, patch_size=patch_size)
