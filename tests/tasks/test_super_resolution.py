"""Super-resolution: the network, its loss and gradients, tiles, and one tiny run through its config and commands."""

import functools
import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from vit_jax import UserError
from vit_jax.checkpoints.load import load
from vit_jax.checkpoints.upscaling import upscale
from vit_jax.commands.main import main
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.preprocess import Preprocess
from vit_jax.models import efficientvit_sr
from vit_jax.nn.parameter_count import parameter_count
from vit_jax.nn.pixel_shuffle import pixel_shuffle
from vit_jax.tasks import DataInfo
from vit_jax.tasks.super_resolution import build
from vit_jax.training.config import load_config, override
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

MODEL = {"name": "efficientvit_sr", "width": 4, "depth": 1, "head_width": 4, "expand_ratio": 2.0}


def task_of(scale=2, high=None, **model):
    fields = {"image": {"name": "image"}, "high": {"name": "high_resolution", "scale": high or scale}}
    data = DataInfo((6, 5), ("photos",), build_fields(fields, Context(Preprocess((6, 5)))))
    return build(model={**MODEL, "scale": scale, **model}, data=data)


def redrawn(variables, seed=0):
    """Every leaf drawn anew, variances positive."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.float32(rng.uniform(0.1, 0.4, leaf.shape)), variables)


@pytest.fixture(scope="module")
def tiny():
    rng = np.random.default_rng(0)
    task = task_of()
    batch = {
        "image": rng.normal(size=(2, 6, 5, 3)).astype(np.float32),
        "high": rng.uniform(-1, 1, (2, 12, 10, 3)).astype(np.float32),
    }
    return task, jax.jit(task.init)(jax.random.key(0), batch), batch


@pytest.mark.long
def test_an_untrained_network_is_bicubic(tiny):
    task, variables, batch = tiny
    names = frozenset({"restored", "bicubic", "original", "features"})
    found = jax.jit(task.outputs, static_argnums=2)(variables, batch, names, None)
    np.testing.assert_array_equal(found["restored"], found["bicubic"])
    assert found["restored"].shape == (2, 12, 10, 3) and found["features"].shape == (2, 4)
    np.testing.assert_allclose(found["original"], (batch["high"] + 1) * 127.5, atol=1e-4)
    ideal = np.clip(np.asarray(jax.image.resize(batch["image"], (2, 12, 10, 3), "bicubic")) * 127.5 + 127.5, 0, 255)
    np.testing.assert_allclose(found["bicubic"], ideal, atol=1e-3)


@pytest.mark.long
def test_the_loss_is_the_mean_absolute_difference_and_reaches_everything(tiny):
    task, variables, batch = tiny
    variables = redrawn(variables)

    def loss(params):
        collections = {"params": params, **variables["model_state"]}
        found, _ = task.model.apply(collections, batch["image"], train=True, mutable=["batch_stats"])
        value, others = task.loss({**variables, "params": params}, batch, jax.random.key(0), 0)
        return value, (*others, found["restored"])

    (value, (metrics, state, restored)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    assert value == pytest.approx(np.abs(np.asarray(restored) - batch["high"]).mean(), rel=1e-5)
    assert [float(x) for x in metrics["loss"]] == pytest.approx([2 * float(value), 2])
    assert jax.tree.structure(state) == jax.tree.structure(variables["model_state"])


def test_pixels_are_shuffled_as_in_pytorch():
    """Channel (c * s + row) * s + column of a place is channel c of its pixel (row, column)."""
    x = np.arange(2 * 3 * 18).reshape(1, 2, 3, 18)
    found = pixel_shuffle(jnp.asarray(x), 3)
    assert found.shape == (1, 6, 9, 2)
    for h, w, c, row, column in np.ndindex(2, 3, 2, 3, 3):
        assert found[0, 3 * h + row, 3 * w + column, c] == x[0, h, w, (c * 3 + row) * 3 + column]


@pytest.mark.parametrize(("variant", "count"), [("w1", 393_868), ("w0.75", 235_500)])
def test_sizes_are_those_that_the_docs_say(variant, count):
    assert parameter_count(efficientvit_sr.build(variant, scale=2), 16) == count


def test_flops_are_those_of_the_products():
    """Of one block by hand: places times inputs times outputs, twice."""
    model = efficientvit_sr.build(width=8, depth=1, head_width=4, attention=False, scale=3)
    products = 27 * 8 + 8 * 32 + 9 * 32 + 32 * 8 + 72 * 27
    assert model.flops((6, 5)) == 2 * 30 * products
    assert efficientvit_sr.build(width=8, depth=1, head_width=4, scale=3).flops((6, 5)) > model.flops((6, 5))


@pytest.mark.long
def test_tiles_of_convolutions_are_the_whole_and_none_is_seen():
    """With attention they are not quite: it sees the tile alone."""
    photo = np.ascontiguousarray(load_sample_images().images[0][100:188, 200:264])
    found = {}
    for attention in (False, True):
        task = task_of(attention=attention)
        variables = jax.eval_shape(task.init, jax.random.key(0), {"image": np.zeros((2, 6, 5, 3), np.float32)})
        variables = redrawn(variables, 3)
        head = variables["params"]["head"]
        head["kernel"] = head["kernel"] - 0.25

        def outputs(batch, names, task=task, variables=variables):
            return of(task, variables, (batch["image"] / 127.5 - 1).astype(np.float32), frozenset(names))

        found[attention] = [upscale(task, outputs, photo, tile).astype(int) for tile in (None, 40, 48)]
    whole, *tiled = found[False]
    assert whole.shape == (176, 128, 3) and whole.std() > 20
    for one in tiled:
        assert np.abs(one - whole).max() <= 1  # of 255, and where a rounding is met
        assert (one != whole).mean() < 1e-3
    assert np.abs(found[True][1] - found[True][0]).max() > 1
    with pytest.raises(UserError, match=r"A tile of 24 pixels has nothing within its borders of 5 and the 16 that are"):
        upscale(task, outputs, photo, 24)


@functools.partial(jax.jit, static_argnums=(0, 3))
def of(task, variables, images, names):
    return task.outputs(variables, {"image": images}, names, None)


def config(folder):
    """A run of four steps on scikit-learn's photos, which go below the folder."""
    for split, image in zip(("train", "test"), load_sample_images().images, strict=True):
        (folder / split / "photos").mkdir(parents=True)
        cv2.imwrite(str(folder / split / "photos/one.png"), image[:96, :80, ::-1])
    values = load_config(f"photos_sr:root={folder},smoke,patch=6,size=32")
    return override(values, {"batch_size": "8", "data.eval_batch_size": "8"})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sr")
    train(build_experiment(config(folder)), folder / "run", jax.devices()[:1])
    return folder / "run"


@pytest.mark.long
def test_a_run_measures_bicubic_beside_itself(run):
    summary = json.loads((run / "summary.json").read_text())
    assert {f"val/{b}{m}_{of}" for b in ("", "bicubic_") for m in ("psnr", "ssim") for of in ("y", "rgb")} < set(
        summary
    )
    assert summary["val/psnr_y"] > 25 and summary["val/images"] == 1


@pytest.mark.long
def test_upscale_writes_the_photo_in_twice_the_resolution(run, tmp_path, capsys):
    photo = run.parent / "test/photos/one.png"
    given = ["upscale", "--checkpoint", str(run), str(photo), "--output", str(tmp_path / "big.png")]
    assert main([*given, "--tile", "48", "--compare"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path / 'big.png'}: 160x192", f"{tmp_path / 'big_compare.png'}: 160x192",
    ]  # fmt: skip
    big, both = (cv2.imread(str(tmp_path / name)) for name in ("big.png", "big_compare.png"))
    assert big.shape == (192, 160, 3) and both.shape == (192, 320, 3)
    np.testing.assert_array_equal(both[:, 160:], big)
    bicubic = both[:, :160].astype(int)
    assert 0 < np.abs(bicubic - big).mean() < 20
    low = load(run).outputs({"image": cv2.imread(str(photo))[None, ..., ::-1]}, ("restored",))["restored"][0]
    assert np.abs(np.asarray(low).round().astype(int)[..., ::-1] - big).mean() < 1
    assert main([*given, "--tile", "20"]) == 2 and "A tile of 20 pixels has nothing" in capsys.readouterr().err
    assert main([*given[:-1], str(tmp_path / "big.jpg")]) == 2 and "does not end in .png" in capsys.readouterr().err


def test_what_does_not_fit_together():
    with pytest.raises(UserError, match="enlarges by 2, and the photos are larger by 3. Set config.model.scale"):
        task_of(high=3)
    with pytest.raises(UserError, match="The model 'mixer' does not enlarge images"):
        build(model={"name": "mixer", "variant": "S/16", "num_classes": 2}, data=DataInfo((8, 8), ()))
    task = task_of()
    batch = {"image": np.zeros((1, 6, 5, 3), np.float32), "high": np.zeros((1, 18, 15, 3), np.float32)}
    with pytest.raises(UserError, match="The model enlarges 5x6 pixels by 2, which are not the 15x18 of the photo"):
        task.loss({"params": {}, "model_state": {}}, batch, jax.random.key(0), 0)
    with pytest.raises(UserError, match="no size of super-resolution named 'w2'"):
        efficientvit_sr.build("w2")
