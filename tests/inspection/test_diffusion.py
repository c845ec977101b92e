"""The steps of a tiny diffusion: as arrays, and as the pictures of `vit_jax visualize`."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from tests.commands.test_visualize import images_in, made, photo
from tests.tiny import tiny_config, untrained
from vit_jax import UserError
from vit_jax.commands.main import main
from vit_jax.inspection import diffusion
from vit_jax.nn.diffusion import add_noise, variational_term
from vit_jax.tasks import example_keys

TASK = {"name": "ddpm", "conditional": True, "label_drop": 0.2, "steps": 12, "first": 0.01, "last": 0.4}
UNET = {"name": "unet", "channels": 4, "multipliers": [1], "num_blocks": 1, "norm_groups": 2, "attention_levels": []}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    config = tiny_config() | {"model": UNET, "task": TASK, "evals": {}}
    return untrained(tmp_path_factory.mktemp("run"), config, signed=True)


@pytest.fixture(scope="module")
def loaded(workdir):
    return vit_jax.load(workdir)


@pytest.mark.long
def test_a_film_strip_is_the_way_of_the_samples(loaded):
    found = diffusion.film_strip(loaded, 2, 4, prompts=["3", "5"], seed=1)
    assert found.timesteps.tolist() == [11, 7, 4, 0]
    assert found.noisy.shape == found.expected.shape == (4, 2, 8, 8, 3)
    drawn = loaded.sample(2, prompts=["3", "5"], seed=1, batch_size=2)
    assert np.abs(found.samples.astype(int) - drawn.images).max() <= 1
    # Without noise in the last step the sample is what is expected.
    again = diffusion.film_strip(loaded, 2, 4, prompts=["3", "5"], seed=1, sampler="ddim")
    np.testing.assert_array_equal(again.noisy[0], found.noisy[0])
    assert np.abs(again.expected[-1].astype(int) - again.samples).max() <= 1


@pytest.mark.long
def test_steps_share_their_noise(loaded):
    """One step is what is expected at the first of many."""
    found = diffusion.by_steps(loaded, [1, 12], 3)
    assert list(found) == [1, 12]
    strip = diffusion.film_strip(loaded, 3, 2, sampler="ddim", steps=12)
    assert np.abs(found[12].astype(int) - strip.samples).max() <= 1
    assert np.abs(found[1].astype(int) - strip.expected[0]).max() <= 1


@pytest.mark.long
def test_what_a_step_is_worth(loaded):
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    found = diffusion.worth(loaded, images, seed=2)
    assert {x.shape for x in (found.error, found.bits, found.rate, found.distortion)} == {(12,)}

    @jax.jit
    def by_hand(x0):
        process = loaded.task.reverse_process(loaded.variables, {"label": jnp.full(3, 10)}, loaded.task.sampling())
        keys, steps, noising = example_keys(2, {"index": jnp.arange(3)}), jnp.full(3, 5), process.noising
        noise = process.noise(keys)(jnp.int32(5))
        xt = add_noise(noising, x0, noise, steps)
        said = process.predict(xt, jnp.int32(5))
        a = noising.alphas_cumprod[5]
        expected = jnp.clip((xt - np.sqrt(1 - a) * said) / np.sqrt(a), -1, 1)
        mean = noising.posterior_of_x0[5] * expected + noising.posterior_of_xt[5] * xt
        logs = jnp.full(x0.shape, np.log(noising.betas[5]), jnp.float32)
        bits = variational_term(noising, x0, xt, steps, mean, logs)
        return [x.mean() for x in (jnp.square(said - noise), jnp.square(expected - x0), bits)]

    error, squared, bits = by_hand(loaded.preprocess.normalize(images))
    np.testing.assert_allclose(found.error[5], error, rtol=1e-4)
    np.testing.assert_allclose(found.distortion[5], 127.5 * np.sqrt(squared), rtol=1e-4)
    np.testing.assert_allclose(found.bits[5], bits, rtol=1e-4)
    # What has been sent by t is what all steps behind it cost, and x_T.
    np.testing.assert_allclose(-np.diff(found.rate), found.bits[1:], rtol=1e-4)
    assert 0 < found.rate[-1] < 0.1


def test_schedules():
    found = diffusion.schedules(1000)
    np.testing.assert_allclose([table[-1] for table in found.values()], [4.04e-5, 2.43e-9, 1.56e-6], rtol=2e-2)


@pytest.mark.long
def test_pictures(workdir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("vit_jax.commands.diffusion_pictures._COUNTS", (1,))  # each is a program
    paths = [str(photo(tmp_path / name, (8, 8, 3))) for name in ("a.png", "b.png")]
    asked = ["visualize", "--checkpoint", str(workdir), "--output", str(tmp_path / "inside")]
    assert main([*asked, *paths, "--text", "3"]) == 0
    assert "4 pictures" in capsys.readouterr().out
    files = made(tmp_path / "inside")
    assert files == ["film_strip.png", "one_against_many.png", "report.html", "schedule.png", "worth.png"]
    assert all(cv2.imread(str(tmp_path / "inside" / name)).std() > 5 for name in files if name.endswith(".png"))
    count, text = images_in(tmp_path / "inside")
    assert count == 4 and "latent diffusion leaves" in text
    assert main([*asked, "--text", "x"]) == 2
    assert "There is no class named 'x'" in capsys.readouterr().err


def test_another_model_has_no_such_steps(tmp_path):
    loaded = vit_jax.load(untrained(tmp_path, tiny_config()))
    assert not diffusion.can_diffuse(loaded)
    for look in (
        lambda: diffusion.film_strip(loaded),
        lambda: diffusion.worth(loaded, np.zeros((1, 8, 8, 3), np.uint8)),
        lambda: diffusion.by_steps(loaded, [1, 2]),
        lambda: diffusion.own_noising(loaded),
    ):
        with pytest.raises(UserError, match="do not come out of noise step by step"):
            look()
