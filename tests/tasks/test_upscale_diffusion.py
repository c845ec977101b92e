"""The second stage of a cascade: what it reads, its loss by hand, samples of small images and of a first stage's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from tests.tasks import test_ddpm as denoising
from tests.tiny import tiny_config
from vit_jax import UserError
from vit_jax.nn.diffusion import Noising, add_noise, betas
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.tasks import DataInfo, upscale_diffusion
from vit_jax.training.config import override
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

MODEL = denoising.MODEL | {"attention_levels": []}
NOISE = {"steps": 20, "last": 0.3}
BASE = {"model": MODEL, "conditional": True, "label_drop": 0.1, "steps": 10, "last": 0.5}
TABLE = Noising.of(betas("linear", 20, 1e-4, 0.3))
RNG = np.random.default_rng(0)


def config(**overrides):
    values = tiny_config() | {"task": {"name": "upscale_diffusion", **NOISE, "base": BASE}, "model": MODEL}
    values["evals"] = {"sheet": {"name": "samples", "count": 4, "settings": {"steps": 2}}}
    values |= {"optim": {"name": "adamw", "learning_rate": 1e-2}}
    return override(values, {key.replace("__", "."): str(value) for key, value in overrides.items()})


@pytest.fixture(scope="module")
def stage():
    data = DataInfo((4, 8), ("a", "b"))
    task = upscale_diffusion.build(model=MODEL, data=data, base=BASE, conditional=True, **NOISE)
    params = init_shapes(task.init, jax.random.key(0), {})["params"]
    return task, {
        "params": jax.tree.map(lambda x: RNG.normal(0, 0.3, x.shape).astype(np.float32), params),
        "model_state": {},
    }


def test_what_it_reads(stage):
    """The image made small and large again, bit for bit without noise; with it what the schedule says, and how much."""
    task, _ = stage
    assert task.model.inputs == 7 and task.base.model.inputs == 3 and task.base.image_size == (2, 4)
    image = RNG.uniform(-1, 1, (3, 4, 8, 3)).astype(np.float32)
    small = np.asarray(task._small(image))
    np.testing.assert_allclose(small, image.reshape(3, 2, 2, 4, 2, 3).mean((2, 4)), atol=1e-6)
    noise, levels = RNG.normal(size=small.shape).astype(np.float32), jnp.array([0, 1, 8])
    seen = np.asarray(task._map(small, noise, levels))
    assert seen.shape == (3, 4, 8, 4)
    np.testing.assert_allclose(
        seen[..., 3], np.broadcast_to(np.array([0, 0.05, 0.4])[:, None, None], (3, 4, 8)), rtol=1e-6
    )
    flat = np.full_like(small, 0.3)
    np.testing.assert_allclose(task._map(flat, noise, jnp.zeros(3, jnp.int32))[..., :3], 0.3, rtol=1e-5)
    wanted = add_noise(TABLE, small, noise, jnp.array([0, 0, 7]))
    # The mean of what is made large by 2 is that of what is small, but for the border.
    np.testing.assert_allclose(seen[2, :, :, :3].mean((0, 1)), np.asarray(wanted)[2].mean((0, 1)), atol=0.5)
    np.testing.assert_allclose(seen[1:, 0, 0, :3], wanted[1:, 0, 0], atol=1e-5)  # corners are the nearest alone


@pytest.mark.long
def test_the_loss_by_hand(stage):
    task, variables = stage
    batch = {"image": RNG.uniform(-1, 1, (6, 4, 8, 3)).astype(np.float32), "label": np.array([0, 1] * 3)}
    key = jax.random.key(3)

    @jax.jit
    def both():
        value, _ = task.loss(variables, batch, key, 0)
        # Each draw has a key of its own: fold_in(key, 1) would be that of the times.
        _, timing, noising, *_, mapping = jax.random.split(key, 6)
        leveling, augmenting = jax.random.split(mapping)
        times, noise = jax.random.randint(timing, (6,), 0, 20), jax.random.normal(noising, (6, 4, 8, 3))
        levels = jax.random.randint(leveling, (6,), 0, 11)  # half of the steps, and none
        seen = task._map(task._small(batch["image"]), jax.random.normal(augmenting, (6, 2, 4, 3)), levels)
        x = jnp.concatenate([add_noise(TABLE, batch["image"], noise, times), seen], axis=-1)
        output = task.model.apply({"params": variables["params"]}, x, times, batch["label"])
        return value, jnp.square(output - noise).mean()

    value, wanted = both()
    np.testing.assert_allclose(value, wanted, rtol=1e-5)


@pytest.mark.long
def test_samples_of_files_and_of_a_first_stage(stage):
    """Without a small image the first stage draws it; given that one, the second stage draws the same."""
    task, variables = stage
    keys, labels = jax.random.split(jax.random.key(0), 3), jnp.array([0, 1, 0])
    settings = task.sampling("ddim", 3, guidance=2.0)

    @jax.jit
    def draw(keys, conditions):
        return task.sample(variables, conditions, keys, settings)

    whole = np.asarray(draw(keys, {"label": labels}))
    assert whole.shape == (3, 4, 8, 3)
    np.testing.assert_allclose(draw(keys[1:], {"label": labels[1:]}), whole[1:], atol=1e-5)
    folded = jax.vmap(lambda key: jax.random.fold_in(key, 2**31 - 2))(keys)
    below = {"params": variables["params"]["base"], "model_state": {}}
    of_base = task.base.sampling("ddim", 3, guidance=2.0)
    first = jax.jit(lambda: task.base.sample(below, {"label": labels}, folded, of_base))()
    again = np.asarray(draw(keys, {"label": labels, "image": 2 * first - 1}))
    np.testing.assert_allclose(again, whole, atol=1e-4)
    # Who looks at the steps needs no small image either.
    looked = jax.eval_shape(lambda: task.reverse_process(variables, {"label": labels}, settings).sample(keys))
    assert looked.shape == whole.shape
    other = np.asarray(draw(keys, {"label": labels, "image": 1 - 2 * first}))
    assert (np.abs(other - whole).max((1, 2, 3)) > 1e-3).all()


def test_small_images_of_samples_have_the_noise_that_is_asked_for(stage, monkeypatch):
    """So many of the steps, drawn with a key of its own."""
    task, variables = stage
    keys, found = jax.random.split(jax.random.key(0), 2), []
    given = {"label": jnp.zeros(2, jnp.int32), "image": jnp.zeros((2, 2, 4, 3))}

    def noted(self, small, noise, level):
        found.append((noise, level.tolist()))
        raise StopIteration  # nothing has to be drawn

    monkeypatch.setattr(upscale_diffusion.UpscaleDiffusion, "_map", noted)
    for augmentation in (0.1, 0.5, 0.0):
        with pytest.raises(StopIteration):
            task.sample(variables, given, keys, task.sampling(augmentation=augmentation))
    assert [level for _, level in found] == [[2, 2], [10, 10], [0, 0]]
    own = [jax.random.normal(jax.random.fold_in(key, 2**31 - 1), (2, 4, 3)) for key in keys]
    np.testing.assert_allclose(found[0][0], own, rtol=1e-6)


@pytest.mark.long
def test_a_run_on_a_first_stage_s(tmp_path):
    values = denoising.config(steps=2, evals__sheet__count=2, data__image_size="[4, 4]")
    values["task"] = {"name": "ddpm", **{key: x for key, x in BASE.items() if key != "model"}}
    values["model"] = MODEL
    train(build_experiment(values), tmp_path / "first", jax.devices()[:1])
    values = config(steps=2, optim__frozen='["base/.*"]')
    values["init_from"] = {"base": f"{tmp_path / 'first'}::"}
    train(build_experiment(values), tmp_path / "second", jax.devices()[:1])
    loaded = vit_jax.load(tmp_path / "second")
    first = vit_jax.load(tmp_path / "first")
    jax.tree.map(np.testing.assert_array_equal, loaded.params["base"], first.params)
    assert loaded.sample(2, prompts=["3", "7"], steps=2).images.shape == (2, 8, 8, 3)


def test_what_does_not_fit_is_refused(stage):
    task, variables = stage
    with pytest.raises(UserError, match=r"augmentation=0.6 is more noise than the 0.5 of training"):
        task.sample(variables, {"label": jnp.zeros(1, jnp.int32)}, None, task.sampling(augmentation=0.6))
    small = {"label": jnp.zeros(1, jnp.int32), "image": jnp.zeros((1, 2, 4, 3))}
    with pytest.raises(UserError, match="strength is of an image that is drawn anew, and here one is made large"):
        task.reverse_process(variables, small, task.sampling(strength=0.5))
    alone = upscale_diffusion.build(model=MODEL, data=DataInfo((4, 8), ()), **NOISE)
    assert alone.pictures(None)["image"].needed and not task.pictures(None)["image"].needed
    with pytest.raises(UserError, match="no first stage"):
        alone.sample(
            variables, {"label": jnp.zeros(1, jnp.int32)}, jax.random.split(jax.random.key(0), 1), alone.sampling()
        )
    with pytest.raises(UserError, match="8x4 are no 3 times as large"):
        upscale_diffusion.build(model=MODEL, data=DataInfo((4, 8), ()), factor=3)
