"""Diffusion that begins with an image, or keeps a part of one: the loop by hand, what stays, evaluators of both."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from tests.tasks.test_ddpm import config, made
from tests.tiny import untrained
from vit_jax import UserError
from vit_jax.checkpoints.sampling import settings_of
from vit_jax.evaluators import edge_agreement, kept_pixels
from vit_jax.nn.diffusion import Noising, Steps, add_noise, betas, spaced, step_back
from vit_jax.nn.reverse_process import ReverseProcess, steps_left
from vit_jax.training.evaluation import evaluate_loaded

TABLE = betas("linear", 20, 1e-4, 0.3)


def process(shape=(2, 4, 1)):
    def predict(x, step):
        # Of all places: what is kept shows in what is new.
        return 0.3 * x + 0.1 * jnp.sin(step) + 0.4 * x.mean(axis=(1, 2), keepdims=True)

    def encode(images):
        return images[:, ::2, ::2, :1]

    noising = Noising.of(TABLE, spaced(5, 20))
    return ReverseProcess(predict, noising, Steps("ddim", variance="small", eta=0.5), shape, encode, lambda x: x)


@pytest.mark.long
def test_the_loop_by_hand():
    """With strength 0.7 three of five steps are gone, from the image with the third one's noise; after each step what
    is not masked has the noise of the next, and after the last none. A mask is looked at where latents begin."""
    whole, keys = process(), jax.random.split(jax.random.key(0), 3)
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (3, 4, 8, 3)).astype(np.float32)
    mask = rng.integers(0, 2, (3, 4, 8, 1)).astype(np.float32)
    conditions = {"image": image, "mask": mask}
    latents, small = image[:, ::2, ::2, :1], mask[:, ::2, ::2]
    for given, places, sees in ((conditions, small, False), ({"image": image}, 1.0, False), (conditions, 1.0, True)):
        found = whole.redrawing(given, 0.7, sees)
        start, noise = found.start(keys), found.noise(keys)
        x = add_noise(whole.noising, latents, start, jnp.int32(2))
        for passed, step in enumerate((2, 1, 0)):
            output = whole.predict(x, whole.noising.timesteps[step])
            x = step_back(whole.noising, output, x, noise(jnp.int32(passed)), jnp.int32(step), whole.how)
            known = add_noise(whole.noising, latents, start, jnp.int32(step - 1)) if step else latents
            x = places * x + (1 - places) * known
        np.testing.assert_allclose(found.sample(keys), x, atol=1e-5)
        # Who looks at the steps sees the same ones.
        np.testing.assert_allclose(found.trail(keys).end, x, atol=1e-5)
    kept = np.asarray(whole.redrawing(conditions, 0.7).sample(keys))
    np.testing.assert_array_equal(np.where(mask[:, ::2, ::2] == 1, 0, kept - latents), 0)


def test_where_samples_begin():
    whole, image = process(), np.ones((1, 4, 8, 3), np.float32)
    mask = np.ones((1, 4, 8, 1), np.float32)
    steps = {
        strength: len(whole.redrawing({"image": image}, strength).noising.timesteps)
        for strength in (None, 0.2, 0.59, 0.6, 1.0)
    }
    assert steps == {None: 4, 0.2: 1, 0.59: 2, 0.6: 3, 1.0: 5}
    # As diffusers has it: all steps of an image to image begin with the image, those of a mask with noise alone.
    assert whole.redrawing({"image": image}, 1.0).begun is not None
    for strength, count in ((None, 5), (1.0, 5), (0.8, 4)):
        masked = whole.redrawing({"image": image, "mask": mask}, strength)
        assert len(masked.noising.timesteps) == count and (masked.begun is None) == (count == 5)
    assert whole.redrawing({}, None) is whole
    with pytest.raises(UserError, match=r"Of 5 steps a strength of 0.1 leaves none. Use at least 0.2"):
        whole.redrawing({"image": image}, 0.1)
    with pytest.raises(UserError, match=r"strength=0.5 says how much of an image"):
        whole.redrawing({}, 0.5)


def test_the_least_strength_that_is_named_leaves_a_step():
    for steps in (3, 7, 30, 49, 300, 1000):
        with pytest.raises(UserError) as found:
            steps_left({"image": None}, 1e-5, steps)
        least = float(re.search(r"at least ([\d.]+),", str(found.value))[1])
        assert steps_left({"image": None}, least, steps) == 1


def test_strength_is_a_share():
    task, _ = made()
    for strength in (0, -0.5, 1.5):
        with pytest.raises(UserError, match="strength"):
            settings_of(task, {"strength": strength})


@pytest.fixture(scope="module")
def painter(tmp_path_factory):
    return vit_jax.load(untrained(tmp_path_factory.mktemp("run"), config(), signed=True))


@pytest.mark.long
def test_a_model_of_pixels_redraws_and_repairs(painter):
    size = painter.preprocess.image_size
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    mask = np.zeros(size, np.uint8)
    mask[:, 2:] = 255
    how = {"sampler": "ddim", "steps": 4}
    plain = painter.sample(2, **how).images
    redrawn = painter.sample(2, pictures={"image": photo}, strength=0.25, **how).images
    far, near = (np.abs(x.astype(int) - photo).mean() for x in (plain, redrawn))
    assert near < far and (redrawn[0] != redrawn[1]).any()
    # Of pixels, what is kept is kept to the bit, without pasting.
    repaired = painter.sample(2, pictures={"image": photo, "mask": mask}, **how).images
    np.testing.assert_array_equal(repaired[:, :, :2], np.stack([photo[:, :2]] * 2))
    assert (repaired[:, :, 2:] != photo[:, 2:]).mean() > 0.5


@pytest.mark.long
def test_evaluators_of_edges_and_of_what_is_kept(painter):
    """Of pixels all that is kept comes back; a generator that takes no control is not asked to follow one."""
    values = config() | {"evals": {"kept": {"name": "kept_pixels", "count": 3, "settings": {"steps": 2}}}}
    found = evaluate_loaded(painter, values)
    assert (found["kept/exact"], found["kept/l1"], found["kept/images"]) == (1, 0, 3) and found["kept/new"] > 0.05
    with pytest.raises(UserError, match="takes no control"):
        evaluate_loaded(painter, values | {"evals": {"edges": {"name": "edge_agreement", "count": 3}}})


def test_agreement_of_edges():
    """Of lines beside each other all within a pixel; the harmonic mean of two shares by hand."""
    wanted = np.zeros((9, 9), bool)
    wanted[:, 2] = True
    for column, score in ((2, 1.0), (3, 1.0), (1, 1.0), (4, 0.0)):
        found = np.zeros_like(wanted)
        found[:, column] = True
        assert edge_agreement.edge_f1(found, wanted) == score
    found = np.zeros_like(wanted)
    found[0, :] = True  # 3 of its 9 pixels are near the line, which has 2 pixels near it
    share, reached = 3 / 9, 2 / 9
    assert edge_agreement.edge_f1(found, wanted) == pytest.approx(2 * share * reached / (share + reached))
    nothing = np.zeros_like(wanted)
    assert edge_agreement.edge_f1(nothing, nothing) == 1 and edge_agreement.edge_f1(nothing, wanted) == 0


@dataclasses.dataclass
class Follower:
    """Draws the control that it is given, or the image with another brightness."""

    images: np.ndarray

    def __call__(self, pipeline):
        yield {"valid": np.ones(len(self.images)), "image": self.images}

    def samples(self, count, seed, *, prompts, pictures, paste=False, **settings):
        assert count == len(self.images) and prompts == []
        shown = pictures["control"] if "control" in pictures else pictures["image"] * 0.5 + 0.5
        images = np.round(255 * shown).astype(np.uint8)
        if "mask" in pictures and not paste:
            images = np.where(images < 255, images + 1, images)
        return type("Samples", (), {"images": images})


def test_what_the_evaluators_say():
    images = np.zeros((4, 16, 16, 3), np.uint8)
    for number, image in enumerate(images):
        image[:, 2 + 3 * number :] = 200
    of = dict(real=None, seed=0, settings={}, told=False)
    # Edges of a line of edges lie beside it.
    found = edge_agreement.EdgeAgreement(**of).metrics(Follower(images))
    assert found["f1"] > 0.95 and found["exchanged"] < 0.5 and found["images"] == 4
    found = kept_pixels.KeptPixels(**of).metrics(Follower(images))
    assert found["exact"] == 0 and found["psnr"] == pytest.approx(48.13, abs=0.01)
    assert found["l1"] == pytest.approx(1 / 255)
    found = kept_pixels.KeptPixels(**of, paste=True).metrics(Follower(images))
    assert found["exact"] == 1 and "psnr" not in found
    new = kept_pixels.boxes(50, (8, 12), 0)
    assert new.mean(axis=(1, 2)).min() > 0 and new.mean(axis=(1, 2)).max() < 0.7
