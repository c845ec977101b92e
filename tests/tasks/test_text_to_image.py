"""Latent diffusion of texts: the loss by hand, guided samples, what is computed once, a run, and what is refused."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from tests.tiny_pairs import pairs_config
from vit_jax import UserError
from vit_jax.checkpoints.sampling import asked
from vit_jax.checkpoints.source import say_once
from vit_jax.commands import sample
from vit_jax.commands.main import main
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.preprocess import Preprocess
from vit_jax.nn.diffusion import Noising, add_noise, betas, guided
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.tasks import DataInfo, text_to_image
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train
from vit_jax.training.run_files import read_metrics

L = 6
MODEL = {
    "name": "latent_diffusion",
    "unet": {
        "name": "conditional_unet", "inputs": 2, "outputs": 2, "channels": 4, "multipliers": [1], "num_blocks": 1,
        "attention_levels": [0], "heads": 2, "context_width": 8, "norm_groups": 2,
    },
    "autoencoder": {
        "name": "kl_autoencoder", "channels": 4, "multipliers": [1, 1], "num_blocks": 1, "latent_width": 2,
        "norm_groups": 2, "scale": 0.5, "attention_levels": [],
    },
    "text": {"name": "text_tower", "width": 8, "depth": 1, "num_heads": 2, "max_length": L},
}  # fmt: skip
# With attention in the middle alone a run compiles two thirds as much.
RUN = {**MODEL, "unet": {**MODEL["unet"], "attention_levels": []}}


def config(folder, **overrides):
    """A run of seconds: a colour of 4x4 pixels, and its name."""
    values = pairs_config(folder, RUN, "text_to_image", data__image_size=[4, 4], **overrides)
    values["data"]["fields"] = {
        "image": {"name": "image"}, "text": {"name": "tokens", "length": L, "long": "cut"}
    }  # fmt: skip
    task = {"name": "text_to_image", "steps": 20, "last": 0.3}
    optim = {"name": "adamw", "learning_rate": 1e-2, "weight_decay": 0.0}
    sheet = {"name": "samples", "count": 4, "settings": {"steps": 2, "guidance": 2.0}}
    return values | {"task": task, "optim": optim, "ema_decay": 0.9, "evals": {"sheet": sheet}}


@functools.cache
def made(**more):
    fields = {"image": {"name": "image"}, "text": {"name": "tokens", "length": L, "long": "cut"}}
    data = DataInfo((8, 4), (), build_fields(fields, Context(Preprocess((8, 4)))))
    task = text_to_image.build(model=MODEL, data=data, **{"steps": 20, "last": 0.3, **more})
    rng = np.random.default_rng(1)
    shapes = init_shapes(task.init, jax.random.key(0), {})["params"]
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.4, x.shape).astype(np.float32)), shapes)
    return task, {"params": params, "model_state": {}}


@pytest.mark.long
def test_the_loss_by_hand():
    """With the draws that the task makes of its key; nothing is learned by the frozen networks."""
    task, variables = made(text_drop=0.5)
    image = np.random.default_rng(0).uniform(-1, 1, (6, 8, 4, 3)).astype(np.float32)
    text, key = np.random.default_rng(1).integers(3, 200, (6, L)), jax.random.key(3)

    @jax.jit
    def both(params, image):
        def loss(params):
            return task.loss({"params": params, "model_state": {}}, {"image": image, "text": text}, key, 0)

        (value, (metrics, _)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        dropping, drawing, timing, noising, *_ = jax.random.split(key, 6)
        times = jax.random.randint(timing, (6,), 0, 20)
        mean, logs = jnp.split(task.model.apply({"params": params}, image, method="moments"), 2, -1)
        x0 = mean + jnp.exp(logs / 2) * jax.random.normal(drawing, mean.shape)
        noise = jax.random.normal(noising, x0.shape)
        shown = jnp.where(jax.random.bernoulli(dropping, 0.5, (6, 1)), jnp.array([1, 2, 0, 0, 0, 0]), text)
        context = task.model.apply({"params": params}, shown, method="context")
        xt = add_noise(Noising.of(betas("scaled_linear", 20, 0.00085, 0.3)), x0, noise, times)
        output = task.model.unet.apply({"params": params["unet"]}, xt, times, context)
        return value, metrics, times, jnp.square(output - noise).mean((1, 2, 3)), gradient

    value, metrics, times, wanted, gradient = both(variables["params"], image)
    np.testing.assert_allclose(value, np.mean(wanted), rtol=1e-5)
    tenths = np.asarray(times) // 2
    for i in range(10):
        total, count = metrics[f"simple_t{i}"]
        assert count == (tenths == i).sum()
        np.testing.assert_allclose(total, np.asarray(wanted)[tenths == i].sum(), rtol=1e-5, atol=1e-6)
    learned = {name: max(np.abs(np.asarray(x)).max() for x in jax.tree.leaves(tree)) for name, tree in gradient.items()}
    assert learned["unet"] > 0 and learned["autoencoder"] == learned["text"] == 0


@pytest.mark.long
def test_the_loss_of_v_by_hand():
    """Of moments that were computed before, which are drawn from as those of images are."""
    task, variables = made(prediction="v", text_drop=0.0)
    rng, key = np.random.default_rng(0), jax.random.key(3)
    moments, text = rng.normal(size=(6, 4, 2, 4)).astype(np.float32), rng.integers(3, 200, (6, L))

    @jax.jit
    def both(moments):
        value = task.loss(variables, {"moments": moments, "text": text}, key, 0)[0]
        _, drawing, timing, noising, *_ = jax.random.split(key, 6)
        times = jax.random.randint(timing, (6,), 0, 20)
        x0 = moments[..., :2] + jnp.exp(moments[..., 2:] / 2) * jax.random.normal(drawing, (6, 4, 2, 2))
        noise, table = jax.random.normal(noising, x0.shape), Noising.of(betas("scaled_linear", 20, 0.00085, 0.3))
        a = jnp.asarray(table.alphas_cumprod, jnp.float32)[times][:, None, None, None]
        context = task.model.apply({"params": variables["params"]}, text, method="context")
        x = add_noise(table, x0, noise, times)
        output = task.model.unet.apply({"params": variables["params"]["unet"]}, x, times, context)
        return value, jnp.square(output - (jnp.sqrt(a) * noise - jnp.sqrt(1 - a) * x0)).mean()

    value, wanted = both(moments)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)


@functools.cache
def sampler():
    task, variables = made()
    return task, jax.jit(functools.partial(task.sample, variables), static_argnums=2)


@pytest.mark.long
def test_samples_depend_on_their_keys_texts_and_guidance_alone():
    task, sample = sampler()
    settings = task.sampling(steps=4, guidance=3.0, negative="no")
    keys, asked = jax.random.split(jax.random.key(0), 3), task.conditions(["ab", "longer than that", "no"], settings)
    assert asked["text_cut"].tolist() == [0, 1, 0] and asked["text"][1, -1] == 2  # the end is kept
    assert asked["negative_cut"].tolist() == [0, 0, 0]
    samples = np.asarray(sample(asked, keys, settings))
    assert samples.shape == (3, 8, 4, 3) and 0 <= samples.min() < samples.max() <= 1
    order = jnp.array([2, 0, 1])
    again = sample({name: x[order] for name, x in asked.items()}, keys[order], settings)
    np.testing.assert_allclose(again, samples[order], atol=1e-5)
    plain = np.asarray(sample(asked, keys, task.sampling(steps=4, guidance=1.0)))
    apart = np.abs(samples - plain).max((1, 2, 3)) > 1e-3
    assert apart.tolist() == [True, True, False]  # what it shall not be is led nowhere
    wide = jax.eval_shape(lambda *x: sample(*x, task.sampling(steps=1, size=12)), asked, keys)
    assert wide.shape == (3, 12, 12, 3)


@pytest.mark.long
def test_a_step_is_guided_as_the_paper_says():
    task, variables = made()
    settings = task.sampling(steps=2, guidance=7.5, negative="not")
    asked, x = task.conditions(["ab"], settings), np.random.default_rng(0).normal(size=(1, 4, 2, 2)).astype(np.float32)

    @jax.jit
    def both(x):
        found = task.reverse_process(variables, asked, settings).predict(x, jnp.int32(3))
        of = [
            task.model.unet.apply(
                {"params": variables["params"]["unet"]}, x, jnp.full(1, 3),
                task.model.apply({"params": variables["params"]}, asked[name], method="context"),
            )
            for name in ("text", "negative")
        ]  # fmt: skip
        return found, guided(*of, 7.5), of[0]

    found, wanted, told = both(x)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.abs(wanted - told).max() > 1e-3


def test_where_the_last_step_ends():
    """That of DDIM with the noise of the first of all steps, unless it is told otherwise; that of DDPM without any."""
    task, _ = made()
    first = task.chain().alphas_cumprod[0]
    for more, sampler, wanted in (({}, "ddim", first), ({"to_image": True}, "ddim", 1), ({}, "ddpm", 1)):
        task, _ = made(**more)
        noising = task._noising(task.sampling(steps=4, sampler=sampler))
        assert noising.timesteps.tolist() == [1, 6, 11, 16]
        assert noising.before[0] == wanted and noising.before[1] == task.chain().alphas_cumprod[1]


@pytest.mark.long
def test_the_loop_is_one_program_and_shares_what_it_can():
    """Texts are read and their keys and values made once, not in the loop."""
    task, variables = made(steps=1000, last=0.012)
    keys = jax.random.split(jax.random.key(0), 1)
    asked = task.unprompted(np.arange(1))

    def lowered(steps):
        settings = task.sampling(steps=steps)
        return jax.jit(lambda v: task.sample(v, asked, keys, settings)).lower(variables).as_text()

    few, many = lowered(10), lowered(500)
    assert len(few.splitlines()) == len(many.splitlines())
    loop = few[few.index("stablehlo.while") :]
    loop = loop[: loop.index("stablehlo.return")]
    assert not [line for line in loop.splitlines() if "dot_general" in line and f"tensor<2x{L}x8x" in line]


@pytest.mark.long
def test_a_run(tmp_path):
    train(build_experiment(config(tmp_path)), tmp_path / "run", jax.devices()[:1])
    logged = [row["train/loss"] for row in read_metrics(tmp_path / "run") if "train/loss" in row]
    assert len(logged) > 1 and 0 < logged[-1] < logged[0]
    loaded = vit_jax.load(tmp_path / "run")
    assert loaded.params.keys() == {"unet", "autoencoder", "text"}


def test_what_is_cut_is_said_of_prompts_and_of_the_negative_one(capsys):
    task, settings = made()[0], made()[0].sampling(negative="longer than that")
    say_once.cache_clear()
    asked(task, np.arange(3), settings, ["ab", "also much longer", "and another one"])
    said = capsys.readouterr().err
    assert "2 of 3 prompts are longer than the model reads: their ends are cut\n" in said
    assert "The negative prompt is longer than the model reads: its end is cut\n" in said


def test_a_class_is_no_text(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sample, "open_loaded", lambda _: SimpleNamespace(task=made()[0], preprocess=None))
    assert main(["sample", "--checkpoint", "x", "--classes", "3", "--output", str(tmp_path / "x.png")]) == 2
    assert "The task 'text_to_image' goes by texts and knows no classes. Give --prompt" in capsys.readouterr().err


def test_what_does_not_fit_is_refused():
    task, variables = made(text_drop=0.0)
    text, keys = {"text": np.zeros((1, L), np.int32)}, jax.random.split(jax.random.key(0), 1)
    for settings, message in (
        ({"steps": 21}, "none can take 21"), ({"steps": 2}, "without empty texts"),
        ({"guidance": 1.0, "steps": 2, "size": 9}, "do not divide"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            jax.eval_shape(lambda: task.sample(variables, text, keys, task.sampling(**settings)))  # noqa: B023
    with pytest.raises(UserError, match="always told a text"):
        task.unprompted(np.arange(2))

    def refused(message, fields=None, last=0.012, **sections):
        given = fields or {"image": {"name": "image"}, "text": {"name": "tokens", "length": L}}
        data = DataInfo((8, 4), (), build_fields(given, Context(Preprocess((8, 4)))))
        model = MODEL | {name: MODEL[name] | values for name, values in sections.items()}
        with pytest.raises(UserError, match=message):
            text_to_image.build(model=model, data=data, last=last)

    refused("from 0.00085 to 2 does not grow below 1", last=2.0)
    refused("width 12, and those of the text model are 8 wide", unet={"context_width": 12})
    refused("reads 3 channels, and this task gives it 2", unet={"inputs": 3})
    refused("latents have 4", autoencoder={"latent_width": 4})
    refused("cannot halve 2x4 places", unet={"multipliers": [1, 1, 1]})
    model = task.model.clone(unet=task.model.unet.clone(multipliers=(1, 1)))
    with pytest.raises(UserError, match="cannot halve 3x3 places"):
        how = task.sampling(steps=2, guidance=1.0, size=6)
        jax.eval_shape(lambda: dataclasses.replace(task, model=model).sample(variables, text, keys, how))
    refused("longer than the 5", text={"max_length": 5})
    refused("field 'text'", {"image": {"name": "image"}})
