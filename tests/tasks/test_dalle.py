"""DALL-E: the loss by hand, samples of texts with a cache as without, and the best of several by a judge."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from tests.tiny import untrained
from tests.tiny_pairs import pairs_config
from vit_jax import UserError
from vit_jax.checkpoints import reranking
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.preprocess import Preprocess
from vit_jax.models.color_palette import even_palette
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.tasks import DataInfo
from vit_jax.tasks.dalle import DalleSampling, build

MODEL = {"name": "dalle", "width": 16, "depth": 2, "num_heads": 2, "reach": 1}
TOKENIZER = {"name": "color_palette", "colors": 5}
L, SIDE, V = 6, 3, 5


def config(folder, **overrides):
    """A run of seconds: a colour of 4x4 pixels, and its name."""
    task = {"name": "dalle", "tokenizer": TOKENIZER, "text_drop": 0.1}
    values = pairs_config(folder, {**MODEL, "dropout_rate": 0.1}, "dalle", data__image_size=[4, 4], **overrides)
    fields = {name: values["data"]["fields"][name] for name in ("image", "text")}
    data = {**values["data"], "fields": fields}
    return values | {"task": task, "data": data, "evals": {"val": {"name": "bits"}}}


@functools.cache
def task_of(**kwargs):
    fields = {"image": {"name": "image"}, "text": {"name": "tokens", "length": L}}
    data = DataInfo((SIDE, SIDE), (), build_fields(fields, Context(Preprocess((SIDE, SIDE)))))
    return build(model=MODEL, data=data, tokenizer=TOKENIZER, **kwargs)


@functools.cache
def variables_of(task):
    """Every parameter random, but for the colours, which stay apart."""
    rng = np.random.default_rng(1)
    shapes = init_shapes(task.init, jax.random.key(0), {})
    found = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), jnp.float32), shapes)
    found["params"]["tokenizer"]["palette"] = jnp.asarray(even_palette(V))
    return found


@pytest.mark.long
def test_the_loss_by_hand():
    task, rng = task_of(), np.random.default_rng(0)
    text, mask = rng.integers(0, 259, (4, L)), np.arange(L) < rng.integers(1, L + 1, (4, 1))
    indices = rng.integers(0, V, (4, SIDE * SIDE))
    batch, variables = {"text": text, "text_mask": mask, "indices": indices}, variables_of(task)
    value, (metrics, _) = jax.jit(lambda b: task.loss(variables, b, jax.random.key(0), 0))(batch)
    found = jax.jit(task.model.apply)(task._own(variables), text, mask, indices)
    of = {}
    for kind, ids in (("text", np.where(mask, text, 259 + np.arange(L))), ("image", indices)):
        logits = np.float64(found[f"{kind}_logits"])
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        of[kind] = -np.take_along_axis(logs, ids[..., None], 2)[..., 0].mean()
        sums, weights = metrics[f"{kind}_loss"]
        assert float(sums / weights) == pytest.approx(of[kind], rel=1e-5)
    assert float(value) == pytest.approx(of["text"] / 8 + of["image"] * 7 / 8, rel=1e-5)


@pytest.fixture(scope="module")
def drawing():
    task = task_of(text_drop=0.1)
    run = jax.jit(functools.partial(task.sample, variables_of(task)), static_argnums=2)
    asked = {k: jnp.asarray(x) for k, x in task.conditions(["ab", "", "wxyz", "ab"], DalleSampling()).items()}
    return task, run, asked, jax.random.split(jax.random.key(5), 4)


@pytest.mark.long
def test_samples_with_a_cache_are_those_without_and_of_their_own_key_alone(drawing):
    _, run, asked, keys = drawing
    how = DalleSampling(guidance=1.5, temperature=0.8, top_k=4)
    whole = run(asked, keys, how)
    assert whole.shape == (4, SIDE, SIDE, 3) and (whole[0] != whole[3]).any()
    np.testing.assert_array_equal(run(asked, keys, dataclasses.replace(how, cache=False)), whole)
    some = run({name: x[2:] for name, x in asked.items()}, keys[2:], how)
    np.testing.assert_array_equal(some, whole[2:])


def test_greedy_samples_by_hand(drawing):
    """The likeliest token, one after the other, from the forward pass of training."""
    task, run, asked, keys = drawing
    apply = jax.jit(functools.partial(task.model.apply, task._own(variables_of(task))))
    tokens = np.zeros((4, 9), int)
    for i in range(9):
        tokens[:, i] = np.asarray(apply(asked["text"], asked["text_mask"], tokens)["image_logits"])[:, i].argmax(-1)
    found = run(asked, keys, DalleSampling(temperature=0.0))
    colours = np.asarray(even_palette(V)) / 2 + 0.5
    np.testing.assert_allclose(found.reshape(4, 9, 3), colours[tokens], atol=1e-6)


def test_texts_and_none():
    task = task_of(text_drop=0.1)
    found = task.conditions(["ab", ""], DalleSampling())
    assert found["text_mask"].tolist() == [[True] * 4 + [False] * 2, [False] * 6]  # with start and end
    with pytest.raises(UserError, match="always told a text"):
        task_of().conditions(["ab", " "], DalleSampling())
    with pytest.raises(UserError, match="prompt 2 has 8 tokens"):
        task.conditions(["ab", "abcdefgh"], DalleSampling())
    asked = {k: jnp.asarray(x) for k, x in task.conditions(["ab"], DalleSampling()).items()}
    keys = jax.random.split(jax.random.key(0), 1)
    with pytest.raises(UserError, match="without images of no text"):
        task_of().sample(variables_of(task_of()), asked, keys, DalleSampling(guidance=2.0))
    with pytest.raises(UserError, match="top_k is 6, and there are 5 tokens"):
        task.sample(variables_of(task), asked, keys, DalleSampling(top_k=6))
    with pytest.raises(UserError, match="need a field 'text'"):
        build(model=MODEL, data=DataInfo((SIDE, SIDE), ()), tokenizer=TOKENIZER)
    costs = task.sampling_costs(DalleSampling())
    assert costs == {"tokens": 9, "passes": 10, "cache_bytes": 2 * 2 * (L + 9) * 16 * 4}


@pytest.mark.long
def test_the_best_of_several_samples_by_a_judge(tmp_path):
    judge = vit_jax.load(untrained(tmp_path / "clip", pairs_config(tmp_path)))
    generator = vit_jax.load(untrained(tmp_path / "dalle", config(tmp_path)))
    prompts = ["red", "blue"]
    found = reranking.best_samples(generator, judge, prompts, samples=4, seed=1)
    drawn, texts = generator.generate(prompts, samples=4, seed=1), judge.embed_texts(prompts)
    for ranking, images, text in zip(found, drawn, texts, strict=True):
        scores = judge.embed_images(images) @ text
        assert sorted(ranking.numbers) == [0, 1, 2, 3] and (np.diff(ranking.scores) <= 0).all()
        for image, score, number in zip(ranking.images, ranking.scores, ranking.numbers, strict=True):
            np.testing.assert_array_equal(image, images[number])
            assert score == pytest.approx(float(scores[number]), abs=1e-6)
    with pytest.raises(UserError, match="5 of 4 samples"):
        reranking.best_samples(generator, judge, prompts, samples=4, keep=5)
