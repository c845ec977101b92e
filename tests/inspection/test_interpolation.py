"""Between two images, through the command too: a tiny diffusion in latents, one in pixels, and an autoencoder alone."""

import dataclasses

import cv2
import jax
import numpy as np
import pytest

import vit_jax
from tests.tiny import tiny_config, untrained
from vit_jax import UserError
from vit_jax.commands.main import main
from vit_jax.data.decode import decode
from vit_jax.inspection.diffusion import film_strip
from vit_jax.inspection.interpolation import arithmetic, images_of, interpolate, inverting, latents_of, spaces_of

CODER = {"name": "vae", "width": 8, "depth": 1, "factor": 2, "latent_width": 2}
UNET = {"name": "unet", "channels": 4, "multipliers": [1], "num_blocks": 1, "norm_groups": 2, "attention_levels": []}
TASK = {"name": "ddpm", "conditional": True, "label_drop": 0.2, "steps": 100, "last": 0.1}
SHARES = [0, 0.25, 0.5, 1]


@pytest.fixture(scope="module")
def latent(tmp_path_factory):
    config = tiny_config() | {"model": UNET, "task": TASK | {"tokenizer": CODER}, "evals": {}}
    return untrained(tmp_path_factory.mktemp("latent"), config, signed=True)


@pytest.fixture(scope="module")
def loaded(latent):
    """With smaller parameters: of large random ones images end far from zero, and few steps cannot be undone."""
    found = vit_jax.load(latent)
    return dataclasses.replace(found, variables=jax.tree.map(lambda x: 0.4 * x, found.variables))


@pytest.fixture(scope="module")
def pair():
    images = np.random.default_rng(0).integers(0, 256, (2, 2, 8, 8, 3), np.uint8)
    return images[0], images[1]


@pytest.mark.long
def test_three_spaces(loaded, pair):
    """The ends of each are the images, as far as the autoencoder and the way to noise and back give them back."""
    a, b = pair
    assert spaces_of(loaded) == ("pixels", "latents", "noise")
    found = interpolate(loaded, a, b, SHARES, prompts=["3", ""])
    assert {name: x.shape for name, x in found.items()} == dict.fromkeys(found, (2, 4, 8, 8, 3))
    np.testing.assert_array_equal(found["pixels"][:, 0], a)
    np.testing.assert_array_equal(found["pixels"][:, 2], np.round((a.astype(np.float32) + b) / 2))
    latents = [np.asarray(latents_of(loaded, x)) for x in pair]
    assert latents[0].shape == (2, 4, 4, 2)
    np.testing.assert_array_equal(found["latents"][:, 1], images_of(loaded, 0.75 * latents[0] + 0.25 * latents[1]))
    for i, z in ((0, latents[0]), (3, latents[1])):
        assert np.abs(found["noise"][:, i].astype(int) - images_of(loaded, z)).max() <= 1
    middle = found["noise"][:, 2].astype(int)
    assert np.abs(middle - found["latents"][:, 2]).max() > 1
    # A pair does not depend on what else is asked, but on its prompt.
    one = interpolate(loaded, a[1:], b[1:], SHARES, ["noise"])["noise"]
    assert np.abs(one[0, 2].astype(int) - middle[1]).max() <= 1
    other = interpolate(loaded, a[1:], b[1:], SHARES, ["noise"], prompts=["7"])["noise"]
    assert np.abs(other[0, 2].astype(int) - middle[1]).max() > 1
    with pytest.raises(UserError, match="There is no class named 'x'"):
        interpolate(loaded, a, b, SHARES, ["noise"], prompts=["x"])


@pytest.mark.long
def test_sums_and_differences_of_latents(loaded, pair):
    a, b = pair
    z_a, z_b = (latents_of(loaded, x) for x in (a, b))
    c = a[::-1]
    np.testing.assert_array_equal(arithmetic(loaded, a, b, c), images_of(loaded, z_a - z_b + z_a[::-1]))
    np.testing.assert_array_equal(arithmetic(loaded, a, a, b), images_of(loaded, z_b))


def test_a_sampler_that_cannot_be_inverted_is_refused(loaded):
    task = loaded.task
    assert inverting(task, {}) == task.sampling("ddim", 50, classifier_scale=0.0)
    for settings, message in (({"eta": 1.0}, "with --eta 0.0, not 1.0"), ({"sampler": "ddpm"}, "--sampler ddim"),
                              ({"classifier_scale": 2.0}, "with --classifier-scale 0.0"),
                              ({"strength": 0.5}, "--strength is of samples.* Leave out --strength")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            inverting(task, settings)
    with pytest.raises(UserError, match="none can take 101"):
        interpolate(loaded, *[np.zeros((1, 8, 8, 3), np.uint8)] * 2, SHARES, settings={"steps": 101})


def write(path, image):
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    return str(path)


@pytest.mark.long
def test_a_sheet(latent, pair, tmp_path, capsys):
    a, b = (write(tmp_path / f"{name}.png", x[0]) for name, x in zip("ab", pair, strict=True))
    asked = ["interpolate", "--checkpoint", str(latent), a, b, "--output", str(tmp_path / "sheet.png")]
    assert main([*asked, "--count", "4", "--steps", "50"]) == 0
    assert "4 images in pixels, latents, noise" in capsys.readouterr().out
    assert decode(tmp_path / "sheet.png").std() > 20
    for flags, message in (
        (["--strength", "0.3"], "--strength is of samples"),
        (["--count", "2"], "--count is 2. Ask for 3 to 64"),
        (["--in", "words"], "There is no space 'words' between images. There are pixels, latents, noise"),
        (["--in", "pixels", "--steps", "3"], "--steps is of noise"),
        (["--top-k", "3"], "The task 'ddpm' has no --top-k"),
        (["--steps", "0"], "sampling.steps is 0"),
    ):
        assert main([*asked, *flags]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.long
def test_what_a_checkpoint_does_not_have(tmp_path, pair, capsys):
    coder = untrained(tmp_path / "coder", tiny_config() | {"model": CODER, "task": {"name": "vae"}, "evals": {}})
    a, b = (write(tmp_path / f"{name}.png", x[0]) for name, x in zip("ab", pair, strict=True))
    asked = ["interpolate", a, b, "--output", str(tmp_path / "sheet.png"), "--count", "3", "--checkpoint"]
    assert main([*asked, str(coder)]) == 0
    assert "3 images in pixels, latents\n" in capsys.readouterr().out
    assert main([*asked, str(coder), "--in", "noise"]) == 2
    assert "has no noise of images. Use a diffusion" in capsys.readouterr().err
    config = tiny_config() | {"model": UNET, "task": TASK | {"label_drop": 0.0}, "evals": {}}
    pixels = vit_jax.load(untrained(tmp_path / "pixels", config, signed=True))
    assert spaces_of(pixels) == ("pixels", "noise")
    with pytest.raises(UserError, match="always told a class"):
        interpolate(pixels, *pair, SHARES)
    with pytest.raises(UserError, match="has no latents of images. Use an autoencoder"):
        arithmetic(pixels, *pair, pair[0])
    classifier = vit_jax.load(untrained(tmp_path / "classifier", tiny_config()))
    assert spaces_of(classifier) == ("pixels",)
    assert jax.tree.map(len, interpolate(classifier, *pair, SHARES)) == {"pixels": 2}


@pytest.mark.long
def test_a_task_that_needs_a_picture_is_not_asked_without(tmp_path, pair):
    """Nor one whose first stage would draw it, of each place between two images another."""
    task = {"name": "upscale_diffusion", "steps": 10, "last": 0.3}
    base = {"model": UNET, "steps": 10, "last": 0.3}
    second, whole = (
        vit_jax.load(untrained(tmp_path / name, tiny_config() | {"model": UNET, "task": of, "evals": {}}, signed=True))
        for name, of in (("second", task), ("whole", task | {"base": base}))
    )
    for each in (second, whole):
        assert spaces_of(each) == ("pixels",)
        with pytest.raises(UserError, match="has no noise of images. Use a diffusion that goes by no picture"):
            interpolate(each, *pair, SHARES, ["noise"])
    with pytest.raises(UserError, match="'upscale_diffusion' draws nothing without an image"):
        film_strip(second)
