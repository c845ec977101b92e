"""Adversarial training of tokenizers: every part of the loss in float64, whose gradient goes where, and a run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from tests.tiny import tiny_config
from vit_jax import UserError
from vit_jax.checkpoints.families import timm_vgg
from vit_jax.checkpoints.safetensors import write_safetensors
from vit_jax.checkpoints.source import model_shapes
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.perceptual import seen_by
from vit_jax.tasks import DataInfo, vqgan
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

SMALL = {"channels": 4, "num_blocks": 1, "attention_levels": [], "norm_groups": 2, "middle_attention": False}
CODES = {"name": "vqvae", "width": 8, "hidden": 8, "depth": 1, "factor": 2, "latent_width": 4, "vocab_size": 16}
GAUSSIAN = {"name": "kl_autoencoder", **SMALL, "multipliers": [1], "latent_width": 2, "scale": "measured"}
EYES = {"name": "vgg", "depths": [1, 1], "width": 4, "hidden": 0, "mean": [120, 115, 100], "std": [60, 61, 62]}
DISCRIMINATOR = {"channels": 4, "num_layers": 1}
DATA = DataInfo((8, 8), ())
IMAGES = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 3)).astype(np.float32)
KINDS = {
    "codes": {"model": CODES, "discriminator": DISCRIMINATOR, "last_layer": "decoder/up_0/kernel"},
    "gaussian": {"model": GAUSSIAN, "discriminator": {**DISCRIMINATOR, "norm": "none"}, "reconstruction": "l2",
                 "gan": "non_saturating", "r1": 10.0, "kl_weight": 1e-3},
}  # fmt: skip


def made_at(kind, start):
    kwargs = KINDS[kind] | {"discriminator": {**KINDS[kind]["discriminator"], "after": start}}
    return vqgan.build(data=DATA, perceptual=EYES, **kwargs)


def made(kind):
    """A task with every parameter random, and its variables."""
    task, rng = made_at(kind, 0), np.random.default_rng(1)

    def draw(path, leaf):
        width = max(np.prod(leaf.shape[:-1]), 4) ** -0.5 if leaf.ndim > 1 else 0.1
        return np.float32(rng.normal(path[-1].key in ("scale", "var"), width, leaf.shape))

    variables = init_shapes(lambda key: task.init(key, {"image": jnp.asarray(IMAGES)}), jax.random.key(0))
    state = jax.tree.map_with_path(
        lambda path, x: np.full(x.shape, path[-1].key in ("scale", "var"), np.float32), variables["model_state"]
    )
    return task, {"params": jax.tree.map_with_path(draw, variables["params"]), "model_state": state}


def loss(task, variables, static=True):
    def of(params):
        given = {**variables, "params": params}
        return task.loss(given, {"image": IMAGES}, jax.random.key(2), jnp.int32(0), static=static)

    (value, (metrics, state)), gradients = jax.jit(jax.value_and_grad(of, has_aux=True))(variables["params"])
    averages = {name: float(total / max(weight, 1e-9)) for name, (total, weight) in metrics.items()}
    return float(value), averages, state, gradients


@pytest.fixture(scope="module", params=["codes", pytest.param("gaussian", marks=pytest.mark.long)])
def found(request):
    task, variables = made(request.param)
    return request.param, task, variables, *loss(task, variables)


def softplus(x):
    return np.logaddexp(0, np.float64(x))


def own(tree):
    return {name: x for name, x in tree.items() if name not in ("discriminator", "perceptual")}


@pytest.mark.long
def test_every_part_by_hand(found):
    """From what the networks give, in float64; gradients by the last layer through the whole model."""
    kind, task, variables, value, metrics, _, _ = found
    params, state = variables["params"], {k: own(t) for k, t in variables["model_state"].items() if own(t)}
    keys = dict(zip(("dropout", "drop_path"), jax.random.split(jax.random.key(2)), strict=True))
    statistics = {k: t["discriminator"] for k, t in variables["model_state"].items() if "discriminator" in t}
    size = IMAGES[0].size if kind == "gaussian" else 1

    @jax.jit
    def look():
        def generate(kernel):
            layer = task.last_layer.split("/")[1]
            decoder = {**params["decoder"], layer: {**params["decoder"][layer], "kernel": kernel}}
            collections = {"params": {**own(params), "decoder": decoder}, **state}
            return task.model.apply(collections, IMAGES, train=True, rngs=keys, mutable=list(state))[0]

        def maps(images):
            pixels = seen_by(images, task.perceptual.mean, task.perceptual.std)
            return task.perceptual.model.apply({"params": params["perceptual"]}, pixels, maps=True)["maps"]

        def score(images):
            collections = {"params": params["discriminator"], **statistics}
            return task.adversary.network.apply(collections, images, train=True, mutable=list(statistics))[0]

        def similar(y):
            error = jnp.square(y - IMAGES) if kind == "gaussian" else jnp.abs(y - IMAGES)
            return size * (error.mean() + vqgan.Perceptual.__call__(
                task.perceptual, {"params": params["perceptual"]}, y, IMAGES).mean())  # fmt: skip

        fool = (lambda s: jax.nn.softplus(-s).mean()) if kind == "gaussian" else (lambda s: -s.mean())
        kernel = params["decoder"][task.last_layer.split("/")[1]]["kernel"]
        pulls = [jax.grad(lambda k, of=of: of(generate(k)["reconstruction"]))(kernel)
                 for of in (similar, lambda y: fool(score(y)))]  # fmt: skip
        given = generate(kernel)
        each = jax.vmap(jax.grad(lambda image: score(image[None]).sum()))(IMAGES) if kind == "gaussian" else 0.0
        y = given["reconstruction"]
        if kind == "gaussian":  # of before this batch measured the scale
            given = {**given, "moments": task.model.apply({"params": own(params), **state}, IMAGES, method="moments")}
        return given, maps(y), maps(IMAGES), score(y), score(IMAGES), pulls, each

    given, maps_y, maps_x, fake, real, pulls, each = jax.device_get(look())
    y, x = np.float64(given["reconstruction"]), np.float64(IMAGES)
    np.testing.assert_allclose(task.perceptual.mean, [120 / 127.5 - 1, 115 / 127.5 - 1, 100 / 127.5 - 1])
    looks = 0.0
    for stride in maps_x:
        a, b = (np.float64(m[stride]) / np.sqrt(np.square(np.float64(m[stride])).sum(-1, keepdims=True)).clip(1e-10)
                for m in (maps_y, maps_x))  # fmt: skip
        looks += np.square(a - b).sum(-1).mean() / len(maps_x)
    error = (np.square(x - y) if kind == "gaussian" else np.abs(x - y)).mean()
    weight = min(np.linalg.norm(np.float64(pulls[0])) / (np.linalg.norm(np.float64(pulls[1])) + 1e-4), 1e4)
    if kind == "gaussian":
        mean, spread = np.split(np.float64(given["moments"]), 2, -1)
        kl = 0.5 * (np.square(mean) + np.exp(spread) - 1 - spread).sum((1, 2, 3)).mean()  # the scale is still 1
        cost, fooled, told = 1e-3 * kl, softplus(-fake).mean(), softplus(-real).mean() + softplus(fake).mean()
        penalty = np.square(np.float64(each)).sum((1, 2, 3)).mean()
        np.testing.assert_allclose([metrics["kl"], metrics["r1"]], [kl, penalty], rtol=1e-5)
        told_all = told + 10 * penalty
    else:
        cost, fooled = float(given["quantizer_loss"]), -np.float64(fake).mean()
        told_all = told = 0.5 * (
            np.maximum(0, 1 - np.float64(real)).mean() + np.maximum(0, 1 + np.float64(fake)).mean()
        )
    expected = size * (error + looks) + cost + 0.8 * weight * fooled
    parts = {"error": error, "perceptual(vgg)": looks, "adversarial": fooled, "adaptive_weight": weight,
             "discriminator": told, "score_real": np.float64(real).mean(), "score_made": np.float64(fake).mean(),
             "loss": expected}  # fmt: skip
    np.testing.assert_allclose([metrics[name] for name in parts], list(parts.values()), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(value, expected + told_all, rtol=1e-5)


@pytest.fixture(scope="module")
def early(found):
    """The same before the adversary starts."""
    return loss(made_at(found[0], 3), found[2], static=False)


@pytest.mark.long
def test_each_party_has_its_own_gradient(found, early):
    """The discriminator's is that of its own loss, whatever the weight of the other's, and reaches nobody else."""
    kind, _, variables, *_, gradients = found
    assert not any(np.any(x) for x in jax.tree.leaves(gradients["perceptual"]))
    assert np.any(gradients["discriminator"]["score"]["kernel"])
    if kind == "codes":
        of_nothing = loss(vqgan.build(data=DATA, perceptual=EYES, disc_weight=0.0, **KINDS[kind]), variables)[3]
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)  # noqa: E731
        jax.tree.map(close, gradients["discriminator"], of_nothing["discriminator"])
        jax.tree.map(close, own(of_nothing), own(early[3]))
        assert any(
            np.abs(a - b).max() > 1e-4
            for a, b in zip(*map(jax.tree.leaves, (own(gradients), own(early[3]))), strict=True)
        )


@pytest.mark.long
def test_before_its_start_there_is_no_adversary(found, early):
    kind, task, variables, _, metrics, state, _ = found
    assert [made_at(kind, 3).static(step) for step in (0, 2, 3)] == [False, False, True] and task.static(0)
    _, first, kept, gradients = early
    assert (
        first.keys() == metrics.keys() and first["adversarial"] == first["adaptive_weight"] == first["score_real"] == 0
    )
    assert not any(np.any(x) for x in jax.tree.leaves(gradients["discriminator"]))
    assert jax.tree.structure(kept) == jax.tree.structure(state)
    if kind == "codes":
        jax.tree.map(np.testing.assert_array_equal, kept, variables["model_state"])
        assert any(map(np.any, jax.tree.leaves(jax.tree.map(lambda a, b: a - b, state, kept))))
    else:
        assert float(state["latents"]["scale"]) > 0


@pytest.fixture(scope="module")
def eyes(tmp_path_factory):
    """A file of VGG's with random weights."""
    kwargs = {"variant": "16", "depths": [1, 1], "width": 4, "hidden": 8}
    params, _ = model_shapes("vgg", kwargs, (32, 32))
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in params.items()}
    path = tmp_path_factory.mktemp("eyes") / "vgg.safetensors"
    write_safetensors(path, timm_vgg.name_map(kwargs, {}).write(arrays))
    return path, arrays


def config(path):
    """Six steps on 8x8 digits; the discriminator comes after two, and the tokenizer learns in every second step.

    Args:
        path: of VGG's weights; None for no eyes.
    """
    adam = {"name": "adamw", "learning_rate": 1e-3, "b1": 0.5, "b2": 0.9}
    groups = [{"match": "discriminator/.*", **adam}, {"match": ".*", **adam, "every": 2}]
    values = tiny_config() | {
        "task": {"name": "vqgan", "discriminator": {**DISCRIMINATOR, "after": 2},
                 "last_layer": KINDS["codes"]["last_layer"]},
        "model": CODES, "evals": {}, "optim": {"groups": groups}, "steps": 6, "log_every": 2,
        "ema": {"decay": 0.9, "match": "(?!discriminator/).*"},
    }  # fmt: skip
    if path is not None:
        values["task"]["perceptual"], values["init_from"] = EYES, {"perceptual": f"{path}::"}
        values["optim"]["frozen"] = ["perceptual/.*"]
    return values


@pytest.mark.long
def test_a_run_and_what_it_leaves(eyes, tmp_path):
    path, arrays = eyes
    train(build_experiment(config(path)), tmp_path, jax.devices()[:1])
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "train/loss" in row]
    assert not {"train/discriminator", "train/adaptive_weight"} & rows[0].keys()
    assert rows[1]["train/discriminator"] > 0 and rows[1]["train/adaptive_weight"] > 0
    assert {"train/perceptual(vgg)", "train/codes_used", "train/learning_rate/discriminator/.*"} <= rows[-1].keys()
    loaded = vit_jax.load(tmp_path)
    np.testing.assert_array_equal(
        loaded.params["perceptual"]["encoder"]["stage0_conv0"]["kernel"], arrays["encoder/stage0_conv0/kernel"]
    )
    pictures = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    found = loaded.outputs({"image": pictures}, ("reconstruction", "indices"))
    assert (
        found["indices"].shape == (2, 16) and 0 <= found["reconstruction"].min() <= found["reconstruction"].max() <= 1
    )


@pytest.mark.long
def test_eight_devices_come_to_the_same(eyes, tmp_path):
    path, _ = eyes
    rows = {}
    for count in (1, 8):
        values = config(path) | {"log_every": 1, "ema": None}
        train(build_experiment(values), tmp_path / str(count), jax.devices()[:count])
        lines = (tmp_path / str(count) / "metrics.jsonl").read_text().splitlines()
        rows[count] = [json.loads(line) for line in lines]
    names = [
        n
        for n in rows[1][0]
        if n.startswith("train/") and "second" not in n and n not in ("train/data_wait", "train/productive")
    ]
    for one, eight in zip(*rows.values(), strict=True):
        np.testing.assert_allclose([eight[n] for n in names], [one[n] for n in names], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"name": "resnet", "variant": "18", "num_classes": 2}}, "'resnet' makes no tokens of images"),
        ({"r1": 10.0}, "batch normalisation mixes the images. Set config.task.discriminator.norm=none"),
        ({"discriminator": {"layers": 2}}, "'config.task.discriminator.layers'. Did you mean 'num_layers'"),
        ({"discriminator": {"norm": "batched"}}, "norm is 'batched'. Did you mean 'batch'"),
        ({"last_layer": "decoder/last/kernel"}, "no parameter 'decoder/last/kernel'"),
        ({"discriminator": {"num_layers": 3}}, "too small for a discriminator of 3 layers"),
    ],
)  # fmt: skip
def test_mistakes_get_a_sentence(changes, message):
    with pytest.raises(UserError, match=message):
        task = vqgan.build(data=DATA, **KINDS["codes"] | changes)
        jax.eval_shape(task.init, jax.random.key(0), {"image": IMAGES})
