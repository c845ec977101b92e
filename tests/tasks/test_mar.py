"""MAR as a task: its loss by hand, latents from wherever they come, and samples that depend on their own key alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import tiny_config
from vit_jax import UserError
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.tasks import DataInfo
from vit_jax.tasks.mar import MARSampling, build

TOKENIZER = {
    "name": "kl_autoencoder", "latent_width": 3, "scale": 0.5, "channels": 4, "multipliers": [1, 2], "num_blocks": 1,
    "attention_levels": [], "middle_attention": False, "norm_groups": 2,
}  # fmt: skip
MODEL = {
    "name": "mar", "width": 16, "depth": 1, "num_heads": 2, "mlp_dim": 32, "buffer": 2, "head_width": 8, "head_depth": 1,
}  # fmt: skip
CLASSES = ("a", "b", "c")


def config(**overrides):
    """A run of seconds: digits of 8x8 pixels as 4x4 latents."""
    task = {"name": "mar", "tokenizer": TOKENIZER}
    return {**tiny_config(**overrides), "task": task, "model": {**MODEL, "dropout_rate": 0.1}, "evals": {}}


@functools.cache
def task_of(classes=CLASSES, **kwargs):
    return build(model=MODEL, data=DataInfo((8, 8), classes), tokenizer=TOKENIZER, **kwargs)


@functools.cache
def variables_of(task):
    """Every parameter random."""
    rng = np.random.default_rng(1)
    shapes = init_shapes(task.init, jax.random.key(0), {})
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.4, leaf.shape), jnp.float32), shapes)


IMAGES = np.random.default_rng(0).uniform(-1, 1, (6, 8, 8, 3)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2])


@pytest.mark.long
def test_the_loss_by_hand_and_its_gradients():
    task = dataclasses.replace(task_of(), label_drop=0.0, repeats=2)
    variables, key = variables_of(task), jax.random.key(4)
    moments = jax.jit(lambda v, x: task._tokenizing(v, x, method="moments"))(variables, IMAGES)
    batch = {"moments": moments, "label": LABELS}
    (value, (metrics, _)), gradients = jax.jit(jax.value_and_grad(task.loss, has_aux=True))(variables, batch, key, 0)

    @jax.jit
    def parts(variables):
        drawing, _, masking, diffusing, *_ = jax.random.split(key, 6)
        tokens = task.model.patchify(task._drawn_latents(variables, batch, drawing))
        order, masked = task._masked(masking, 6)
        own = task._own(variables)
        z = task.model.apply(own, tokens, order, masked, LABELS)
        losses = task.model.apply(own, z.reshape(-1, 16), tokens.reshape(-1, 3), diffusing, 2, method="losses")
        return order, masked, losses

    order, masked, losses = jax.tree.map(np.asarray, parts(variables))
    assert ((masked >= 12) & (masked <= 16)).all() and len(np.unique(masked)) > 1
    wanted = [np.mean([x.reshape(6, 16)[i][order[i, : masked[i]]].mean() for i in range(6)]) for x in losses]
    assert float(value) == pytest.approx(sum(wanted), rel=1e-5)
    for name, of in zip(("noise", "bound"), wanted, strict=True):
        assert float(metrics[name][0] / metrics[name][1]) == pytest.approx(of, rel=1e-5)
    gradients = jax.tree.map(np.asarray, gradients["params"])
    assert not any(map(np.any, jax.tree.leaves(gradients["tokenizer"])))
    assert np.any(gradients["head"]["output"]["kernel"])
    assert np.any(gradients["encoder_blocks"]["block_00"]["mlp"]["fc1"]["kernel"])


def test_latents_come_from_images_moments_or_as_they_are():
    """Those of images are drawn; both ways the same, and around what is given as it is."""
    task = task_of()
    variables, key = variables_of(task), jax.random.key(1)
    draw = jax.jit(lambda batch: task._drawn_latents(variables, batch, key))
    moments = jax.jit(lambda x: task._tokenizing(variables, x, method="moments"))(IMAGES)
    of_images = draw({"image": IMAGES})
    np.testing.assert_allclose(draw({"moments": moments}), of_images, atol=1e-6)
    mean, log_variance = np.split(np.asarray(moments), 2, axis=-1)
    np.testing.assert_allclose(draw({"latents": mean}), mean)
    noise = (np.asarray(of_images) - mean) / np.exp(log_variance / 2)
    assert abs(noise.mean()) < 0.2 and abs(noise.std() - 1) < 0.15


def test_the_masked_share_is_the_papers():
    """A normal distribution around 1 with deviation .25, cut at 0.7 and 1: rounded up to tokens."""
    task = dataclasses.replace(task_of(), model=dataclasses.replace(task_of().model, grid=(16, 16)))
    order, masked = jax.jit(lambda key: task._masked(key, 500))(jax.random.key(0))
    share = masked / 256
    assert share.min() >= 0.7 and share.max() <= 1
    # The mean of that distribution, by numbers.
    x = np.linspace(0.7, 1, 10001)
    density = np.exp(-(((x - 1) / 0.25) ** 2) / 2)
    assert float(share.mean()) == pytest.approx((x * density).sum() / density.sum(), abs=0.01)
    assert (np.sort(order, axis=1) == np.arange(256)).all()


@pytest.mark.long
def test_samples_are_of_their_own_key_alone():
    task = task_of()
    run = jax.jit(functools.partial(task.sample, variables_of(task)), static_argnums=2)
    keys = jax.random.split(jax.random.key(5), 6)
    how = MARSampling(steps=5, head_steps=4, guidance=1.5, temperature=0.9)
    whole = np.asarray(run({"label": LABELS}, keys, how))
    assert whole.shape == (6, 8, 8, 3) and whole.min() >= 0 and whole.max() <= 1 and whole.std() > 0.01
    np.testing.assert_allclose(run({"label": LABELS[4:]}, keys[4:], how), whole[4:], atol=2e-5)


@pytest.mark.long
def test_outputs_and_costs():
    task = task_of()
    names = frozenset({"features", "latents", "moments", "reconstruction", "original"})
    keys = jax.random.split(jax.random.key(0), 6)
    found = jax.jit(lambda v, b: task.outputs(v, b, names, keys))(
        variables_of(task), {"image": IMAGES, "label": LABELS}
    )
    assert {name: x.shape for name, x in found.items()} == {
        "features": (6, 16), "latents": (6, 4, 4, 3), "moments": (6, 4, 4, 6),
        "reconstruction": (6, 8, 8, 3), "original": (6, 8, 8, 3),
    }  # fmt: skip
    assert task.sampling_costs(MARSampling()) == {"tokens": 16, "passes": 16}
    assert task.forward_flops({}) > 0


def test_bad_input():
    task = task_of()
    label, keys = {"label": jnp.zeros(1, jnp.int32)}, jax.random.split(jax.random.key(0), 1)
    draw = functools.partial(task.sample, variables_of(task), label, keys)
    with pytest.raises(UserError, match="16 tokens to fill in, not 17"):
        draw(MARSampling(steps=17))
    with pytest.raises(UserError, match="no 1001 steps among 1000"):
        draw(MARSampling(head_steps=1001))
    told = task_of(label_drop=0.0)
    with pytest.raises(UserError, match="without a null class"):
        told.sample(variables_of(told), label, keys, MARSampling(guidance=2.0))
    with pytest.raises(UserError, match="Name mar"):
        build(model={"name": "vit"}, data=DataInfo((8, 8), CLASSES), tokenizer=TOKENIZER)
    with pytest.raises(UserError, match="continuous tokens of one map"):
        palette = {"name": "color_palette", "colors": 3}
        build(model=MODEL, data=DataInfo((8, 8), CLASSES), tokenizer=palette)
