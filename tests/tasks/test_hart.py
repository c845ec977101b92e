"""HART as a task: its losses by hand, classes, texts and vectors of texts, and samples of their own key alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import tiny_config
from vit_jax import UserError
from vit_jax.data.field import Context
from vit_jax.data.fields import Fields
from vit_jax.data.fields.encoded import Encoded
from vit_jax.naming import build_named
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.tasks import DataInfo
from vit_jax.tasks.hart import HARTSampling, build

TOKENIZER = {
    "name": "hart_tokenizer", "scales": [1, 2, 4], "vocab_size": 12, "latent_width": 4, "channels": 4,
    "multipliers": [1, 2], "num_blocks": 1, "attention_levels": [], "middle_attends": False, "groups": 2, "phis": 2,
}  # fmt: skip
MODEL = {"name": "hart", "width": 16, "depth": 1, "num_heads": 2, "mlp_dim": 16, "head_width": 8, "head_depth": 1}
TEXT = {"name": "text_tower", "width": 8, "depth": 1, "num_heads": 2, "mlp_dim": 16, "max_length": 5}
CLASSES = ("a", "b", "c")
IMAGES = np.random.default_rng(0).uniform(-1, 1, (6, 8, 8, 3)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def config(**overrides):
    """A run of seconds: digits of 8x8 pixels as 1, 4 and 16 codes."""
    task = {"name": "hart", "tokenizer": TOKENIZER}
    return {**tiny_config(**overrides), "task": task, "model": MODEL, "evals": {"val": {"name": "perplexity"}}}


@functools.cache
def task_of(kind="classes", **kwargs):
    kinds = {}
    if kind == "texts":
        section = {"name": "tokens", "tokenizer": "bytes", "length": 5, "long": "cut"}
        kinds["text"] = build_named("field", section, "text", data=Context((8, 8)))
        kwargs["text"] = TEXT
    if kind == "vectors":
        kinds["text_embeddings"] = Encoded((5, 7))
    model = {**MODEL, "adaptive": True, "step_features": False} if kind == "classes" else MODEL
    data = DataInfo((8, 8), CLASSES, Fields(kinds))
    return build(model=model, data=data, tokenizer=TOKENIZER, **kwargs)


@functools.cache
def variables_of(task):
    """Every parameter random."""
    rng = np.random.default_rng(1)
    shapes = init_shapes(task.init, jax.random.key(0), {})
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.4, leaf.shape), jnp.float32), shapes)


@pytest.mark.long
def test_losses_and_outputs():
    task = dataclasses.replace(task_of(), label_drop=0.0, repeats=2)
    batch, key = {"image": IMAGES, "label": LABELS}, jax.random.key(4)
    names = frozenset({"token_losses", "indices", "latents", "reconstruction", "discrete_reconstruction", "original"})
    keys = jax.random.split(key, 6)

    @jax.jit
    def run(variables):
        value, (metrics, _) = task.loss(variables, batch, key, 0)
        found = task.outputs(variables, batch, names, keys)
        return value, metrics, found, task._tokenizing(variables, found["latents"], task._grids, method="hybrid")

    value, metrics, found, hybrid = jax.tree.map(np.asarray, run(variables_of(task)))
    # A token of the last scale sees all others of it, so that half of them are another question: scales before not.
    assert metrics["token_loss"][1] == metrics["accuracy"][1] == 6 * (1 + 4 + 8) and metrics["noise"][1] == 6 * 8
    means = {name: float(total / count) for name, (total, count) in metrics.items()}
    assert value == pytest.approx(means["token_loss"] + means["noise"] + means["bound"], rel=1e-5)
    assert means["loss"] == pytest.approx(float(value), rel=1e-6)
    assert found["token_losses"].shape == (6, 21)
    assert means["token_loss"] == pytest.approx(found["token_losses"].mean(), rel=0.3)
    np.testing.assert_array_equal(found["indices"], hybrid.indices)
    assert found["reconstruction"].shape == found["discrete_reconstruction"].shape == IMAGES.shape
    assert np.abs(found["reconstruction"] - found["discrete_reconstruction"]).max() > 1e-3


@functools.cache
def sampler(kind):
    task = task_of(kind)
    return jax.jit(functools.partial(task.sample, variables_of(task)), static_argnums=2)


KEYS = jax.random.split(jax.random.key(5), 4)


@pytest.mark.long
def test_samples_of_classes_are_of_their_own_key_alone():
    run, how = sampler("classes"), HARTSampling(steps=2, top_k=5)
    whole = np.asarray(run({"label": LABELS[:4]}, KEYS, how))
    assert whole.shape == (4, 8, 8, 3) and whole.min() >= 0 and whole.max() <= 1 and whole.std() > 0.01
    np.testing.assert_allclose(run({"label": LABELS[3:4]}, KEYS[3:], how), whole[3:], atol=2e-5)


def texts():
    """What is asked for: a text, nothing, another text and the first one again; as tokens, or as vectors."""
    task = task_of("texts")
    tokens = task.conditions(["cat", "", "ab", "cat"], HARTSampling())
    assert tokens["text"].shape == (4, 5) and tokens["text_mask"].any(1).tolist() == [True, False, True, True]
    vectors = task_of("vectors").unprompted(np.arange(4))
    vectors["text_embeddings"][[0, 2], :3] = np.random.default_rng(0).normal(size=(2, 3, 7))
    vectors["text_embeddings"][3] = vectors["text_embeddings"][0]
    return {"texts": tokens, "vectors": vectors}


@pytest.mark.long
def test_texts_of_a_tower_and_vectors_of_texts():
    for kind, asked in texts().items():
        task = task_of(kind)
        what, positions = jax.tree.map(np.asarray, jax.jit(task._asked)(variables_of(task), asked))
        assert not np.any(what[1]) and np.any(what[2]) and positions[1].tolist() == [0] * 5
        # Paddings have the place of the last token.
        lengths = asked["text_mask"].sum(1) if kind == "texts" else np.array([3, 0, 3, 3])
        assert positions[:, -1].tolist() == np.maximum(lengths - 1, 0).tolist()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["texts", "vectors"])
def test_samples_of_texts(kind):
    keys = jax.random.split(jax.random.key(1), 2)[np.array([0, 1, 1, 0])]
    drawn = np.asarray(sampler(kind)(texts()[kind], keys, HARTSampling(steps=2, passes=2, guidance=1.5)))
    np.testing.assert_allclose(drawn[0], drawn[3], atol=2e-5)  # the same text, the same key
    assert np.abs(drawn[1] - drawn[2]).max() > 1e-3


@pytest.mark.long
def test_gradients_go_to_the_model_alone():
    task = task_of("texts")
    rng = np.random.default_rng(2)
    text, mask = rng.integers(0, 99, (6, 5)).astype(np.int32), np.arange(5) < 3 + np.zeros((6, 1))
    batch = {"image": IMAGES, "text": text, "text_mask": mask}
    gradients = jax.jit(jax.grad(lambda v: task.loss(v, batch, jax.random.key(0), 0)[0]))(variables_of(task))["params"]
    gradients = jax.tree.map(np.asarray, gradients)
    assert not any(map(np.any, jax.tree.leaves([gradients["tokenizer"], gradients["text"]])))
    for tree in (gradients["residual"]["output"], gradients["block_00"]["mlp"]["fc1"], *map(gradients.get, _ENDS)):
        assert np.any(tree["kernel"])


_ENDS = ("word", "context", "head")


def test_costs():
    task = task_of()
    how = HARTSampling(passes=3)
    found = task.sampling_costs(how)
    assert found == {"tokens": 21, "passes": 5, "cache_bytes": 2 * 2 * 21 * 16 * 4}
    assert task.forward_flops({}) > 0


def test_bad_input():
    task = task_of()
    draw = functools.partial(task.sample, variables_of(task), {"label": LABELS[:1]}, KEYS[:1])
    with pytest.raises(UserError, match="16 tokens in the last scale, not 17"):
        draw(HARTSampling(passes=17))
    with pytest.raises(UserError, match="top_k is 13, and there are 12"):
        draw(HARTSampling(top_k=13))
    told = task_of(label_drop=0.0)
    with pytest.raises(UserError, match="without a null condition"):
        told.sample(variables_of(told), {"label": LABELS[:1]}, KEYS[:1], HARTSampling(guidance=1.0))
    with pytest.raises(UserError, match="no tower that reads texts"):
        task_of("vectors").conditions(["a cat"], HARTSampling())
    data = DataInfo((8, 8), CLASSES)
    with pytest.raises(UserError, match="Name hart"):
        build(model={"name": "vit"}, data=data, tokenizer=TOKENIZER)
    with pytest.raises(UserError, match="hybrid tokens"):
        build(model=MODEL, data=data, tokenizer={**TOKENIZER, "name": "var_tokenizer"})
    with pytest.raises(UserError, match="a field 'text'"):
        build(model=MODEL, data=data, tokenizer=TOKENIZER, text=TEXT)
