"""CoCoOp: the Meta-Net, prompts of each image, and what a step keeps of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tasks.test_coop import BATCH, LONG, NAMES, loss, outputs, random_params
from vit_jax import UserError
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.preprocess import Preprocess
from vit_jax.tasks import DataInfo, cocoop


def task(**kwargs):
    data = DataInfo((8, 8), NAMES, build_fields(None, Context(Preprocess((8, 8)), NAMES)))
    settings = {"model": LONG, "data": data, "tokenizer": "bytes", "words": None, "classes": "base"}
    return cocoop.build(**settings | kwargs)


@functools.cache
def shared():
    return task(images_at_once=2)


@pytest.mark.long
def test_each_image_has_prompts_of_its_own():
    """Image by image, with the Meta-Net in NumPy and CoOp's prompts of the shifted context."""
    built = shared()
    params = random_params(built)
    params["prompt"]["meta_net"] = jax.tree.map(lambda leaf: 8 * leaf, params["prompt"]["meta_net"])
    found = outputs(built, params, BATCH, ("logits", "image_embedding"))
    images = np.asarray(found["image_embedding"])
    net = params["prompt"]["meta_net"]
    assert net["fc1"]["kernel"].shape == (8, 1) and net["fc2"]["kernel"].shape == (1, 16)
    hidden = np.maximum(images @ net["fc1"]["kernel"] + net["fc1"]["bias"], 0)
    shifts = hidden @ net["fc2"]["kernel"] + net["fc2"]["bias"]

    @jax.jit
    def of_context(context, image):
        texts = built._texts({"params": params, "model_state": {}}, context, 3)
        return built.model.apply({"params": params}, image[None], texts, method="similarity")[0]

    expected = [
        of_context(params["prompt"]["context"] + shift, image) for shift, image in zip(shifts, images, strict=True)
    ]
    assert np.ptp(shifts, axis=0).max() > 0.1
    np.testing.assert_allclose(found["logits"], expected, atol=2e-5)


@pytest.mark.long
def test_the_context_and_the_meta_net_learn():
    built = shared()
    params = random_params(built)
    gradients = jax.jit(jax.grad(lambda p: loss(built, {**params, "prompt": p}, BATCH)[0]))(params["prompt"])
    for gradient in jax.tree.leaves(gradients):
        assert np.abs(gradient).max() > 0


def test_memory_is_that_of_the_images_at_once():
    """What the backward pass finds of a batch grows with the images' embeddings, not with their prompts."""

    def kept(images: int) -> int:
        built = shared()
        params = random_params(built)
        batch = {"image_embedding": jnp.zeros((images, 8)), "label": jnp.zeros(images, jnp.int32)}

        def backward(prompt):
            return jax.vjp(lambda p: built.loss({"params": {**params, "prompt": p}, "model_state": {}}, batch, None, 0)[0], prompt)[1]  # fmt: skip

        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(backward, params["prompt"])))

    # An image leaves its embedding, its shift and some numbers; its prompts have thousands of activations.
    assert kept(8) - kept(4) < 4 * 200


def test_a_context_for_each_class_is_refused():
    with pytest.raises(UserError, match="CoCoOp has one context for all classes"):
        task(context="csc")
