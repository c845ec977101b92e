"""MaskGIT: the loss by hand, what it sees, samples that know of their own key alone, and parts of images made anew."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import tiny_config
from vit_jax import UserError
from vit_jax.checkpoints.generation import generate
from vit_jax.models import maskgit
from vit_jax.models.color_palette import even_palette
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.tasks import DataInfo
from vit_jax.tasks._image_tokens import masked_tokens
from vit_jax.tasks.maskgit import MaskGITSampling, build

SIZE = {"width": 16, "depth": 2, "num_heads": 2}
MODEL = {"name": "maskgit", **SIZE}
CLASSES = ("a", "b", "c")
COLORS, SIDE = 5, 4


def config(**overrides):
    """A run of seconds: digits of 4x4 pixels in 5 colours."""
    return tiny_config(data__image_size=[4, 4], **overrides) | {
        "task": {"name": "maskgit", "tokenizer": {"name": "color_palette", "colors": 5}},
        "model": {**MODEL, "dropout_rate": 0.1},
        "evals": {},
    }


@functools.cache
def task_of(**kwargs):
    data = DataInfo((SIDE, SIDE), CLASSES)
    return build(model=MODEL, data=data, tokenizer={"name": "color_palette", "colors": COLORS}, **kwargs)


@functools.cache
def variables_of(task):
    """Every parameter random, but for the colours, which stay apart."""
    rng = np.random.default_rng(1)
    shapes = init_shapes(task.init, jax.random.key(0), {})
    found = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), jnp.float32), shapes)
    found["params"]["tokenizer"]["palette"] = jnp.asarray(even_palette(COLORS))
    return found


@functools.partial(jax.jit, static_argnums=0)
def logits_of(task, variables, labels, tokens, masked):
    return task.model.apply(task._own(variables), labels, tokens, masked)["logits"]


@functools.partial(jax.jit, static_argnums=0)
def loss_of(task, variables, batch):
    return task.loss(variables, batch, jax.random.key(7), 0)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {"indices": rng.integers(0, COLORS, (6, 16)), "label": rng.integers(0, 3, 6)}


@pytest.mark.long
def test_the_loss_by_hand(batch):
    task = task_of(label_drop=0.0)
    variables = variables_of(task)
    value, (metrics, _) = loss_of(task, variables, batch)
    masked = np.asarray(task._masks(jax.random.split(jax.random.key(7), 4)[1], 6))
    assert masked.any(1).all() and not masked.all()
    logits = np.float64(logits_of(task, variables, batch["label"], batch["indices"], masked))
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    smooth = 0.9 * np.eye(COLORS)[batch["indices"]] + 0.1 / COLORS
    losses = -(smooth * logs).sum(-1)
    assert float(value) == pytest.approx((losses * masked).sum() / masked.size, rel=1e-5)
    assert float(metrics["loss"][0] / metrics["loss"][1]) == pytest.approx(losses[masked].mean(), rel=1e-5)
    nats = -np.take_along_axis(logs, batch["indices"][..., None], 2)[..., 0]
    assert float(metrics["nats"][0] / metrics["nats"][1]) == pytest.approx(nats[masked].mean(), rel=1e-5)
    assert metrics["accuracy"][0] == ((logits.argmax(-1) == batch["indices"]) & masked).sum()
    assert metrics["masked"] == (masked.sum(), masked.size)


def test_shares_of_masks_are_a_cosine():
    """The mean of cos(pi/2 r) is 2 / pi; a token more or less by rounding up."""
    masked = np.asarray(jax.jit(lambda rng: task_of()._masks(rng, 3000))(jax.random.key(0)))
    assert masked.mean() == pytest.approx(2 / math.pi + 1 / 32, abs=0.02)
    np.testing.assert_allclose(masked.mean(0), masked.mean(), atol=0.04)  # at every place as often
    assert masked.sum(1).min() == 1 and masked.sum(1).max() == 16
    half = np.asarray(task_of(min_mask=0.5)._masks(jax.random.key(0), 300))
    assert half.sum(1).min() == 8


@pytest.mark.long
def test_all_tokens_see_each_other_and_nobody_what_is_masked():
    """The Jacobian of the logits by what the tokens, of which each has a row of its own, are embedded as."""
    model = maskgit.build(vocab_size=4, num_tokens=4, num_conditions=2, **SIZE)
    rng, masked = np.random.default_rng(0), jnp.array([[False, True, False, True]])
    inputs = (jnp.array([1]), jnp.arange(4)[None], masked)
    shapes = init_shapes(model.init, jax.random.key(0), *inputs)["params"]
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), jnp.float32), shapes)

    def tokens(table):
        trunk = {**params["transformer"], "embedding": table}
        return model.apply({"params": {**params, "transformer": trunk}}, *inputs)["tokens"][0]

    seen = np.abs(jax.jit(jax.jacobian(tokens))(params["transformer"]["embedding"])).max((1, 3))  # [of, by]
    # Rows of the table: four tokens, two conditions, the mask.
    assert (seen > 0).tolist() == [[True, False, True, False, False, True, True]] * 4


def test_published_size():
    model = maskgit.build(vocab_size=1024, num_tokens=256, num_conditions=1000)
    shapes = init_shapes(model.init, jax.random.key(0), *model.example_inputs(None))["params"]
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == 172_457_961 - 768  # a BERT has a segment


@pytest.fixture(scope="module")
def drawing():
    task = task_of()
    run = jax.jit(functools.partial(task._filled, variables_of(task)), static_argnums=2)
    return task, run, jax.random.split(jax.random.key(5), 6), jnp.array([0, 1, 2, 0, 1, 3])


@pytest.mark.long
def test_samples_are_of_their_own_key_alone(drawing):
    _, run, keys, labels = drawing
    how = MaskGITSampling(steps=4, guidance=2.0)
    whole = run({"label": labels}, keys, how)
    assert [int((whole.passes == i).sum(1)[0]) for i in range(4)] == [16 - 14, 14 - 11, 11 - 6, 6]
    some = run({"label": labels[4:]}, keys[4:], how)
    for ours, theirs in zip(some, whole, strict=True):
        np.testing.assert_array_equal(ours, theirs[4:])


@pytest.mark.long
def test_one_greedy_pass_by_hand(drawing):
    task, run, keys, labels = drawing
    how = MaskGITSampling(steps=1, temperature=0.0, guidance=1.5)
    nothing, variables = (jnp.zeros((6, 16), int), jnp.ones((6, 16), bool)), variables_of(task)
    with_class, without = (np.asarray(logits_of(task, variables, of, *nothing)) for of in (labels, jnp.full(6, 3)))
    wanted = (without + 1.5 * (with_class - without)).argmax(-1)
    np.testing.assert_array_equal(run({"label": labels}, keys, how).tokens, wanted)


def test_only_a_region_is_made_anew(drawing):
    """In-painting, out-painting (what is outside of the region is known) and another class for a box are one thing."""
    task, _, keys, labels = drawing
    image = jnp.asarray(even_palette(COLORS)[np.random.default_rng(2).integers(0, COLORS, (6, SIDE, SIDE))])
    region = np.zeros((6, SIDE, SIDE), bool)
    region[:, 1:3, 1:3] = True
    given = {"label": labels, "image": image, "mask": jnp.asarray(region[..., None], jnp.float32)}
    found = jax.jit(functools.partial(task.sample, variables_of(task)), static_argnums=2)(
        given, keys, MaskGITSampling(steps=2)
    )
    np.testing.assert_array_equal(np.asarray(found)[~region], (np.asarray(image) / 2 + 0.5)[~region])
    assert (np.asarray(found)[region] != (np.asarray(image) / 2 + 0.5)[region]).any()


def test_a_token_is_made_anew_where_a_pixel_of_its_place_is():
    mask = np.zeros((1, 4, 6, 1), np.float32)
    mask[0, 3, 2] = 1
    found = masked_tokens(jnp.asarray(mask), ((2, 2), (4, 6)))
    assert np.flatnonzero(found[0]).tolist() == [2, 4 + 3 * 6 + 2]
    with pytest.raises(UserError, match="4x6 pixels does not divide into 3x3"):
        masked_tokens(jnp.asarray(mask), ((3, 3),))


@pytest.mark.long
def test_pictures_features_and_costs(batch):
    task = task_of()
    pictures = generate(task, variables_of(task), ["b", "2"], {"steps": 2}, samples=2)
    assert [len(row) for row in pictures] == [2, 2] and pictures[0][0].shape == (SIDE, SIDE, 3)
    keys = jax.random.split(jax.random.key(0), 6)
    names = frozenset({"features", "reconstruction", "passes"})
    found = jax.jit(lambda *args: task.outputs(*args, names, keys))(variables_of(task), batch)
    assert found["features"].shape == (6, 16) and found["passes"].max() == 7
    assert task.sampling_costs(MaskGITSampling(guidance=2.0)) == {"tokens": 16, "passes": 8}


def test_bad_input():
    task, keys = task_of(), jax.random.split(jax.random.key(0), 1)
    label, variables = {"label": jnp.zeros(1, jnp.int32)}, variables_of(task)
    for how, said in (
        ({"steps": 17}, "17 passes cannot fill 16 tokens"),
        ({"top_k": 6}, "top_k is 6, and there are 5 tokens"),
    ):
        with pytest.raises(UserError, match=said):
            task.sample(variables, label, keys, MaskGITSampling(**how))
    told = task_of(label_drop=0.0)
    with pytest.raises(UserError, match="trained without a null class"):
        told.sample(variables_of(told), label, keys, MaskGITSampling(guidance=2.0))
    with pytest.raises(UserError, match="does not guess masked tokens"):
        build(model={**MODEL, "name": "token_gpt"}, data=DataInfo((4, 4), ()), tokenizer={"name": "color_palette"})
    with pytest.raises(UserError, match="label_smoothing"):
        from vit_jax.training.experiment import build_experiment

        values = config()
        build_experiment({**values, "task": {**values["task"], "label_smoothing": 2.0}})


@pytest.mark.long
def test_a_batch_is_the_mean_of_its_halves(batch):
    """What accumulation needs: the scalar is a mean over images."""
    task = dataclasses.replace(task_of(label_drop=0.0), min_mask=1.0)
    variables = variables_of(task_of(label_drop=0.0))
    parts = [{k: x[i : i + 3] for k, x in batch.items()} for i in (0, 3)]
    whole, *halves = (float(loss_of(task, variables, part)[0]) for part in (batch, *parts))
    assert whole == pytest.approx(sum(halves) / 2, rel=1e-5)
