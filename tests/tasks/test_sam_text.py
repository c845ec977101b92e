"""SAM that is asked in words: what CLIP is shown of a mask, that it learns nothing, and who gets its embedding."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from tests import tiny_pairs
from tests.answering import Answering
from tests.tasks import test_sam
from vit_jax import UserError
from vit_jax.nn.crops import square_around, square_crop
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.norm import unit
from vit_jax.nn.prompts import BOTTOM_RIGHT, NOT_A_POINT, ON, PADDING, TOP_LEFT
from vit_jax.training.experiment import build_experiment

rng = np.random.default_rng(0)
TEXT = {"name": "prompt", "tokenizer": "bytes", "length": 10}


def config():
    """The smallest run: that of SAM, with a CLIP of weights as they begin."""
    values = test_sam.config()
    task = {**values["task"], "name": "sam_text", "teacher": tiny_pairs.CLIP, "crop": {"image_size": [8, 8]}}
    fields = {**values["data"]["fields"], "text": TEXT}
    model = {**values["model"], "text_width": 8}
    return values | {"task": task, "model": model, "data": {**values["data"], "fields": fields}}


def built(**task):
    values = config()
    return build_experiment(values | {"task": values["task"] | task}).task


def test_a_crop_is_what_pillow_makes_of_the_square_and_nothing_lies_beyond_the_image():
    image = rng.uniform(size=(24, 30, 1)).astype(np.float32)
    crop = jax.jit(square_crop, static_argnums=2)
    pillow = Image.fromarray(image[..., 0])
    for square in ((3.0, 2.0, 21.0, 20.0), (5.5, 4.25, 9.75, 8.5)):
        wanted = np.asarray(pillow.resize((8, 8), Image.Resampling.BICUBIC, box=square))
        np.testing.assert_allclose(crop(image, np.float32(square), 8)[..., 0], wanted, atol=1e-5)
    beyond = np.asarray(crop(image, np.float32([-12, -12, 12, 12]), 8))
    assert not beyond[:4].any() and not beyond[:, :4].any() and beyond[4:, 4:].all()
    np.testing.assert_allclose(square_around(np.float32([4, 6, 8, 14]), 1.5), [0, 4, 12, 16])
    np.testing.assert_allclose(square_around(np.zeros(4, np.float32), 1.0), [-0.5, -0.5, 0.5, 0.5])


def test_what_clip_is_shown_of_a_mask():
    """In its own normalisation; what is not the mask is blank, where it is asked for."""
    crops = built(crop={"image_size": [8, 8], "mean": [100, 110, 120], "std": [50, 60, 70]}, blank=[255, 0, 10]).crops
    pixels = np.full((1, 32, 32, 3), 127.5, np.float32) + np.float32([10, 20, 30])
    given = (pixels - 127.5) / 127.5
    masks = np.zeros((1, 2, 16, 16), bool)
    masks[0, :, 2:6, 4:8] = True
    shown = jax.jit(crops)(given, masks, np.full((1, 2), 2.0, np.float32), np.array([[False, True]]))
    back = np.asarray(shown[0]) * [50, 60, 70] + [100, 110, 120]
    np.testing.assert_allclose(back[0], np.broadcast_to(pixels[0, 0, 0], (8, 8, 3)), rtol=1e-5)
    np.testing.assert_allclose(back[1, 3:5, 3:5], pixels[0, :2, :2], rtol=1e-5)
    for edge in (back[1, 0], back[1, :, -1]):
        np.testing.assert_allclose(edge, np.broadcast_to([255, 0, 10], (8, 3)), atol=1e-3)


class Towers(nn.Module):
    """A stand-in for CLIP: three numbers of an image, or of a text, in a space of eight."""

    @nn.compact
    def __call__(self, images=None, ids=None, token_mask=None):
        images_in, texts_in = nn.Dense(8, name="images"), nn.Dense(8, name="texts")
        found = {}
        if images is not None:
            found["image_embedding"] = unit(images_in(images[:, ::3, ::3].reshape(len(images), -1)))
        if ids is not None:
            found["text_embedding"] = unit(texts_in(ids[:, :2].astype(jnp.float32)))
        return found


@functools.cache
def found():
    """Random variables, and the first prompts, the loss and its gradient and both embeddings in one program."""
    task = built(texts=0.5, corrections=0, blanked=0.0)
    task = dataclasses.replace(task, model=Answering(), teacher=Towers())
    batch = test_sam.batch_of(s=16)
    shapes = init_shapes(task.init, jax.random.key(0), batch)
    variables = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(x.dtype), shapes)
    masks, chance = batch["masks"][:, :2] > 0, rng.random((4, 2, task._draws)).astype(np.float32)
    texts, names = {"text": rng.integers(1, 200, (3, 10), np.int32)}, frozenset({"crop_embedding"})

    @jax.jit
    def run(variables):
        def loss(params):
            return task.loss({**variables, "params": params}, batch, jax.random.key(0), 0)

        collections = {"params": variables["params"], **variables["model_state"]}
        return (
            jax.value_and_grad(loss, has_aux=True)(variables["params"]),
            task._first(collections, batch, masks, chance, (32, 32)),
            task.outputs(variables, batch, names, None) | task.outputs(variables, texts, {"text_embedding"}, None),
            task.teacher.apply(
                {"params": variables["params"]["teacher"]},
                task.crops(batch["image"], masks, 1 + chance[..., -2], chance[..., -1] < 0).reshape(-1, 8, 8, 3),
            )["image_embedding"].reshape(4, 2, 8),
        )

    return chance, variables, jax.device_get(run(variables))


def test_an_embedding_comes_first_and_otherwise_a_point_or_a_box():
    chance, _, (_, first, _, wanted) = found()
    by_text = chance[..., -3] < 0.5
    assert 0 < by_text.sum() < by_text.size
    np.testing.assert_array_equal(first.beside["has_text"], by_text)
    np.testing.assert_allclose(first.beside["text"], wanted, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(first.beside["text"], axis=-1), 1, rtol=1e-5)
    assert (first.labels[by_text] == [PADDING, NOT_A_POINT]).all()
    assert set(map(tuple, first.labels[~by_text].tolist())) <= {(ON, NOT_A_POINT), (TOP_LEFT, BOTTOM_RIGHT)}


def test_clip_learns_nothing_and_sam_does():
    _, variables, (((value, (metrics, state)), gradient), _, outputs, _) = found()
    assert np.isfinite(value) and metrics["loss"][1] == 4
    moved = {name: any(map(np.any, jax.tree.leaves(tree))) for name, tree in gradient.items()}
    assert not moved.pop("teacher") and all(moved.values()), moved
    assert jax.tree.structure(state) == jax.tree.structure(variables["model_state"])
    assert outputs["crop_embedding"].shape == (4, 3, 8) and outputs["text_embedding"].shape == (3, 8)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": {"text_width": 9}}, "embeddings are 8 wide, and the model takes 9. Set config.model.text_width=8"),
        ({"model": {"text_width": 0}}, "the model takes none. Set config.model.text_width=8"),
        ({"task": {"crop": {"image_size": [8, 12]}}}, "images are not square"),
        ({"task": {"corections": 1}}, "Did you mean 'corrections'"),
        ({"task": {"blanked": 2.0}}, "blanked is 2.0"),
    ],
)
def test_what_does_not_fit_gets_a_sentence(changes, sentence):
    values = config()
    for section, own in changes.items():
        values[section] = {**values[section], **own}
    with pytest.raises(UserError, match=sentence):
        build_experiment(values)


def test_texts_that_a_source_gives_are_refused():
    values = config()
    fields = {**values["data"]["fields"], "text": {**TEXT, "name": "tokens"}}
    with pytest.raises(UserError, match="Set config.data.fields.text with the name 'prompt'"):
        build_experiment(values | {"data": {**values["data"], "fields": fields}})
