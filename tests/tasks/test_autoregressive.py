"""Tokens one after the other: likelihoods by enumeration, what sees what, and samples with a cache as without."""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import tiny_config
from vit_jax import UserError
from vit_jax.checkpoints.generation import generate
from vit_jax.models import token_gpt
from vit_jax.models.color_palette import even_palette
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.tasks import DataInfo
from vit_jax.tasks.autoregressive import TokenSampling, build

SIZE = {"width": 16, "depth": 2, "num_heads": 2}
MODEL = {"name": "token_gpt", **SIZE}
CLASSES = ("a", "b", "c")


def config(**overrides):
    """A run of seconds: digits of 4x4 pixels in 5 colours."""
    return tiny_config(data__image_size=[4, 4], **overrides) | {
        "task": {"name": "autoregressive", "tokenizer": {"name": "color_palette", "colors": 5}},
        "model": {**MODEL, "dropout_rate": 0.1},
        "evals": {"val": {"name": "bits"}},
    }


@functools.cache
def task_of(size=2, colors=3, classes=CLASSES, model=None, **kwargs):
    tokenizer = {"name": "color_palette", "colors": colors}
    data = DataInfo((size, size), classes)
    return build(model=dict(model or {}) or MODEL, data=data, tokenizer=tokenizer, **kwargs)


@functools.cache
def variables_of(task):
    """Every parameter random, but for the colours, which stay apart."""
    rng = np.random.default_rng(1)
    shapes = init_shapes(task.init, jax.random.key(0), {})
    found = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), jnp.float32), shapes)
    found["params"]["tokenizer"]["palette"] = jnp.asarray(even_palette(task.tokenizer.colors))
    return found


@functools.partial(jax.jit, static_argnums=0)
def likelihoods(task, variables, sequences, orders):
    """Of whole images of class 1 by the chain rule, [orders, images]."""

    def one(places):
        places = jnp.broadcast_to(places, sequences.shape)
        return jnp.exp(-task._costs(variables, jnp.ones(len(sequences), int), sequences, places)[0].sum(1))

    return jax.lax.map(one, orders)


@functools.partial(jax.jit, static_argnums=0)
def loss_of(task, variables, batch):
    return task.loss(variables, batch, jax.random.key(0), 0)


@functools.partial(jax.jit, static_argnums=0)
def logits_of(task, variables, labels, tokens, places):
    return task.model.apply(task._own(variables), labels, tokens, places)["logits"]


@pytest.mark.parametrize("order", ["raster", "spiral_out", (2, 0, 3, 1), "random"])
def test_the_likelihoods_of_all_images_add_up_to_one_in_every_order(order):
    task = task_of(order=order)
    every = jnp.array(list(itertools.product(range(3), repeat=4)))
    orders = list(itertools.permutations(range(4))) if order == "random" else task._orders(np.zeros(1))
    of_orders = np.float64(likelihoods(task, variables_of(task), every, jnp.asarray(orders)))
    np.testing.assert_allclose(of_orders.sum(1), 1, rtol=1e-5)
    if order == "random":  # each order is a question of its own
        assert len(np.unique(of_orders[:, 5].round(7))) == 24


def test_the_order_of_reading_is_the_permutation_that_changes_nothing():
    by_name, by_places = task_of(order="raster"), task_of(order=(0, 1, 2, 3))
    variables = variables_of(by_name)
    indices = jnp.array([[0, 2, 1, 1], [2, 2, 0, 1]])
    batch = {"indices": indices, "label": jnp.array([0, 2])}
    ours, theirs = (loss_of(task, variables, batch)[0] for task in (by_name, by_places))
    assert ours == theirs


@pytest.mark.long
@pytest.mark.parametrize("own_places", [False, True])
def test_no_token_sees_itself_or_a_later_one(own_places):
    """The Jacobian of the logits by what the tokens, of which each has a row of its own, are embedded as."""
    model = token_gpt.build(vocab_size=4, num_tokens=4, num_conditions=2, own_places=own_places, **SIZE)
    rng, inputs = np.random.default_rng(0), (jnp.array([1]), jnp.arange(4)[None], jnp.array([[2, 0, 3, 1]]))
    shapes = init_shapes(model.init, jax.random.key(0), *inputs)["params"]
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), jnp.float32), shapes)

    def logits(table):
        trunk = {**params["transformer"], "embedding": table}
        return model.apply({"params": {**params, "transformer": trunk}}, *inputs)["logits"][0]

    seen = np.abs(jax.jit(jax.jacobian(logits))(params["transformer"]["embedding"])).max((1, 3))  # [of, by]
    assert (seen[:, :3] > 0).tolist() == [[by < of for by in range(3)] for of in range(4)]
    # The last token is not read; the condition is, by all, and not another one.
    assert not seen[:, 3].any() and (seen[:, 5] > 0).all() and not seen[:, 4].any()
    if own_places:
        # Of the tokens at 2, 0, 3 and 1 each is asked for by its place, and read with it; the condition is nowhere.
        for table, read in (("pos_embedding", lambda of: [2, 0, 3, 1][: of + 1]), ("own", lambda of: [2, 0, 3][:of])):

            def logits_by(places, table=table):
                found = {**params, "place_embedding": places}
                if table == "pos_embedding":
                    found = {**params, "transformer": {**params["transformer"], table: places}}
                return model.apply({"params": found}, *inputs)["logits"][0]

            seen = np.abs(jax.jit(jax.jacobian(logits_by))(params["place_embedding"])).max((1, 3)) > 0
            assert seen.tolist() == [[place in read(of) for place in range(4)] for of in range(4)], table


@pytest.mark.long
def test_the_loss_by_hand_and_its_gradients():
    task = task_of()
    variables = variables_of(task)
    rng = np.random.default_rng(0)
    images = jnp.asarray(even_palette(3)[rng.integers(0, 3, (6, 2, 2))])
    batch = {"image": images, "label": jnp.asarray(rng.integers(0, 3, 6))}
    sure = dataclasses.replace(task, label_drop=0.0)
    (value, (metrics, _)), gradients = jax.jit(jax.value_and_grad(sure.loss, has_aux=True))(
        variables, batch, jax.random.key(0), 0
    )
    indices = np.asarray(task._indices(variables, batch))
    logits = np.float64(logits_of(task, variables, batch["label"], indices, task._orders(np.zeros(6))))
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    picked = -np.take_along_axis(logs, indices[..., None], 2)[..., 0]
    assert float(value) == pytest.approx(picked.mean(), rel=1e-5)
    assert float(metrics["bits"][0] / metrics["bits"][1]) == pytest.approx(picked.mean() / math.log(2), rel=1e-5)
    assert metrics["accuracy"][0] == (logits.argmax(-1) == indices).sum()
    assert not jnp.any(gradients["params"]["tokenizer"]["palette"])
    assert jnp.any(gradients["params"]["head"]["kernel"])
    # What the tokenizer would make of the images may be there already.
    ready = {"indices": indices, "label": batch["label"]}
    assert float(loss_of(sure, variables, ready)[0]) == pytest.approx(float(value), rel=1e-6)
    # Some are shown without their class: with all of them, it is the null class.
    never = dataclasses.replace(task, label_drop=0.999999)
    null = {"indices": indices, "label": jnp.full(6, 3)}
    assert loss_of(never, variables, ready)[0] == loss_of(sure, variables, null)[0]


GREEDY = TokenSampling(temperature=0.0, top_k=None)


@pytest.fixture(scope="module")
def drawing():
    """Samples of 3x3 pixels in 5 colours, in an order of each."""
    task = task_of(size=3, colors=5, order="random")
    run = jax.jit(functools.partial(task.sample, variables_of(task)), static_argnums=2)
    keys = jax.random.split(jax.random.key(5), 6)
    labels = jnp.array([0, 1, 2, 0, 1, 3])
    return task, run, keys, labels


@pytest.mark.long
def test_samples_are_colours_and_of_their_own_key_alone(drawing):
    _, run, keys, labels = drawing
    whole = run({"label": labels}, keys, TokenSampling(guidance=2.0))
    assert whole.shape == (6, 3, 3, 3) and len(np.unique(np.asarray(whole).reshape(-1, 3), axis=0)) > 2
    colours = np.asarray(even_palette(5)) / 2 + 0.5
    assert np.abs(np.asarray(whole)[..., None, :] - colours).sum(-1).min(-1).max() < 1e-6
    some = run({"label": labels[4:]}, keys[4:], TokenSampling(guidance=2.0))
    np.testing.assert_array_equal(some, whole[4:])


@pytest.mark.long
def test_a_cache_changes_nothing(drawing):
    _, run, keys, labels = drawing
    how = TokenSampling(guidance=1.5, temperature=0.7, top_k=3, top_p=0.9)
    with_cache, without = (run({"label": labels}, keys, dataclasses.replace(how, cache=on)) for on in (True, False))
    np.testing.assert_array_equal(with_cache, without)


@pytest.mark.long
def test_greedy_samples_by_hand(drawing):
    """The likeliest token, one after the other, from the forward pass of training."""
    task, run, keys, labels = drawing
    variables = variables_of(task)
    places = task._orders(jax.vmap(jax.random.split)(keys)[:, 0])
    tokens = np.zeros((6, 9), int)
    for i in range(9):
        with_class, without = (
            np.asarray(logits_of(task, variables, of, tokens, places)[:, i]) for of in (labels, jnp.full(6, 3))
        )
        tokens[:, i] = (without + 1.5 * (with_class - without)).argmax(-1)
    there = np.zeros((6, 9), int)
    np.put_along_axis(there, np.asarray(places), tokens, axis=1)
    passes = task.outputs(variables, {}, frozenset({"passes"}), keys)["passes"]
    np.testing.assert_array_equal(np.take_along_axis(np.asarray(passes), np.asarray(places), 1), [range(9)] * 6)
    colours = np.asarray(even_palette(5)) / 2 + 0.5
    found = run({"label": labels}, keys, dataclasses.replace(GREEDY, guidance=1.5))
    np.testing.assert_allclose(found.reshape(6, 9, 3), colours[there], atol=1e-6)


def test_pictures_of_classes_by_name():
    task = task_of(size=2)
    pictures = generate(task, variables_of(task), ["b", "2", ""], {"guidance": 1.5}, samples=2)
    assert [len(row) for row in pictures] == [2, 2, 2] and pictures[0][0].dtype == np.uint8
    costs = task.sampling_costs(TokenSampling(guidance=1.5))
    # With and without the class: keys and values of 2 layers, 4 tokens, 16 features of float32.
    assert costs == {"tokens": 4, "passes": 4, "cache_bytes": 2 * 2 * 2 * 4 * 16 * 4}
    assert task.unprompted(np.arange(5))["label"].tolist() == [0, 1, 2, 0, 1]


@pytest.mark.long
def test_an_unconditional_model_of_pixels():
    """iGPT has one start token, and features."""
    igpt = {"name": "igpt", **SIZE}
    task = task_of(size=3, colors=5, classes=(), model=tuple(igpt.items()))
    variables, keys = variables_of(task), jax.random.split(jax.random.key(0), 2)
    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 3, 3, 3)), jnp.float32)
    names = frozenset({"features", "token_losses", "samples"})
    found = jax.jit(lambda *args: task.outputs(*args, names, keys))(variables, {"image": images})
    assert found["features"].shape == (2, 16) and found["token_losses"].shape == (2, 9)
    trunk = variables["params"]["transformer"]
    assert trunk["embedding"].shape == (6, 16) and "bias" not in trunk["norm"]
    # By hand: what the second block's norm makes of what the first block gives.
    indices = task._indices(variables, {"image": images})
    ids = jnp.concatenate([jnp.full((2, 1), 5), indices[:, :-1]], axis=1)
    shown = jax.jit(lambda ids: task.model.transformer.apply({"params": trunk}, ids, mutable=["hidden"])[1])(ids)
    hidden = np.asarray(shown["hidden"]["layers"][0][0])
    normed = hidden / np.sqrt(np.square(hidden).mean(-1, keepdims=True) + 1e-5)
    wanted = (normed * trunk["block_01"]["norm1"]["scale"]).mean(1)
    np.testing.assert_allclose(found["features"], wanted, rtol=1e-4, atol=1e-5)


def test_bad_input():
    task = task_of()
    variables, keys = variables_of(task), jax.random.split(jax.random.key(0), 1)
    label = {"label": jnp.zeros(1, jnp.int32)}
    with pytest.raises(UserError, match="top_k is 4, and there are 3 tokens"):
        task.sample(variables, label, keys, TokenSampling(top_k=4))
    told = task_of(label_drop=0.0)
    with pytest.raises(UserError, match="trained without a null class"):
        told.sample(variables_of(told), label, keys, TokenSampling(guidance=2.0))
    with pytest.raises(UserError, match="always told a class"):
        told.conditions([""], TokenSampling())
    with pytest.raises(UserError, match="no class 7.*0 to 2"):
        task.conditions(["7"], TokenSampling())
    with pytest.raises(UserError, match="no order 'snake'"):
        task_of(order="snake")
    with pytest.raises(UserError, match="does not predict tokens"):
        task_of(model=(("name", "color_palette"),))
