"""The language model's loss, its metrics, and how it goes on: by cache as without, alone as in a batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vit_jax.checkpoints.generation import generate
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.tokenizers.bytes import Bytes
from vit_jax.errors import UserError
from vit_jax.models.gpt import build as build_gpt
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.next_token import next_token_losses
from vit_jax.tasks import DataInfo
from vit_jax.tasks.language_model import LanguageModel, TextSampling, build

LENGTH = 12
MODEL = {"name": "gpt", "width": 16, "depth": 2, "num_heads": 2, "max_length": 24}
TASK = LanguageModel(build_gpt(vocab_size=259, **{k: v for k, v in MODEL.items() if k != "name"}), {}, Bytes())
RNG = np.random.default_rng(0)
BATCH = {
    "text": RNG.integers(3, 259, (8, LENGTH)).astype(np.int32),
    "text_mask": np.arange(LENGTH) < RNG.integers(4, LENGTH + 1, (8, 1)),
    "text_documents": np.cumsum(RNG.random((8, LENGTH)) < 0.2, axis=1).astype(np.int32),
}


@functools.cache
def variables():
    """Every parameter random."""
    shapes = init_shapes(lambda: TASK.init(jax.random.key(0), BATCH))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.4, leaf.shape), jnp.float32), shapes)


@functools.partial(jax.jit, static_argnums=0)
def loss_of(task, variables, batch):
    return task.loss(variables, batch, jax.random.key(0), 0)


def wanted(logits):
    """Loss and metrics in float64, token by token."""
    total, count, right, size = 0.0, 0, 0, 0
    for row in range(8):
        for t in range(LENGTH - 1):
            size += 1
            if not BATCH["text_mask"][row, t + 1]:
                continue
            scores, target = logits[row, t].astype(np.float64), BATCH["text"][row, t + 1]
            total += np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[target]
            right += scores.argmax() == target
            count += 1
    return total, count, right, size


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("separate", [False, True])
def test_the_loss_is_that_of_float64_numpy(devices, separate):
    task = TASK if not separate else LanguageModel(TASK.model, {}, Bytes(), separate_documents=True)
    everywhere = NamedSharding(Mesh(np.array(jax.devices()[:devices]), "data"), PartitionSpec())
    rows = NamedSharding(everywhere.mesh, PartitionSpec("data"))
    params, batch = jax.device_put(variables(), everywhere), jax.device_put(BATCH, rows)
    loss, (metrics, _) = loss_of(task, params, batch)
    logits = jax.jit(lambda v, b: task._run(v, b, train=False)["logits"])(variables(), BATCH)
    total, count, right, size = wanted(np.asarray(logits))
    np.testing.assert_allclose(loss, total / size, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], (total, count), rtol=1e-6)
    np.testing.assert_allclose(metrics["accuracy"], (right, count))
    np.testing.assert_allclose(metrics["bits_per_byte"], (total / np.log(2), count), rtol=1e-6)


def test_documents_of_a_window_are_as_if_they_were_alone():
    """The second half of a window, as a window of its own, has the same losses; only its positions are others."""
    task = LanguageModel(TASK.model, {}, Bytes(), separate_documents=True)
    batch = {"text": BATCH["text"], "text_documents": np.tile(np.arange(LENGTH) // 6, (8, 1))}
    other = {**batch, "text": np.where(batch["text_documents"] == 0, 5, BATCH["text"])}
    run = jax.jit(lambda batch: task._run(variables(), batch, train=False)["logits"])
    np.testing.assert_allclose(run(batch)[:, 6:], run(other)[:, 6:], atol=1e-5)
    together = jax.jit(lambda batch: TASK._run(variables(), batch, train=False)["logits"])
    assert np.abs(together(batch)[:, 6:] - together(other)[:, 6:]).max() > 0.1


def test_large_logits_cost_what_they_should():
    logits = jnp.array([[[1000.0, 0.0], [0.0, -1000.0], [0.0, 0.0]]])
    losses, weights = next_token_losses(logits, jnp.array([[0, 1, 1]]))
    np.testing.assert_allclose(losses, [[1000.0, 1000.0]])
    np.testing.assert_array_equal(weights, [[1.0, 1.0]])


@pytest.mark.long
def test_step_by_step_is_the_whole_text_for_rows_of_different_lengths():
    """Each row goes on from its own place in the cache; what padding left there is overwritten."""
    collections = {"params": variables()["params"]}
    whole = jax.jit(lambda ids: TASK.model.apply(collections, ids)["logits"])(BATCH["text"])
    lengths = np.array([1, 2, 3, 4, 5, 6, 7, 8], np.int32)
    prompts = np.where(np.arange(8) < lengths[:, None], BATCH["text"][:, :8], 0)
    cache = TASK.model.text.new_cache(8, LENGTH)

    @jax.jit
    def further(ids, cache, at):
        tokens, cache = TASK.model.apply(collections, ids, cache, at, method="further")
        return TASK.model.apply(collections, tokens, method="logits"), cache

    _, cache = further(prompts, cache, 0)
    for i in range(4):
        at = lengths - 1 + i
        logits, cache = further(np.take_along_axis(BATCH["text"], at[:, None], axis=1), cache, at)
        np.testing.assert_allclose(logits[:, 0], whole[np.arange(8), at], atol=1e-5 * np.abs(whole).max())


GREEDY = {"tokens": 6, "temperature": 0.0}
PROMPTS = ["a", "some longer", "mid"]
KEYS = jax.random.split(jax.random.key(0), 3)


@pytest.mark.long
def test_greedy_texts_are_the_most_probable_tokens_of_the_whole_model():
    conditions = TASK.conditions(PROMPTS, TextSampling(**GREEDY))
    drawn = jax.jit(functools.partial(TASK.sample, settings=TextSampling(**GREEDY)))(variables(), conditions, KEYS)
    lengths, drawn = conditions["length"], np.asarray(drawn)
    texts = np.zeros((3, 24), np.int32)
    for row, length, ids, new in zip(texts, lengths, conditions["ids"], drawn, strict=True):
        row[: length + 6] = [*ids[:length], *new]
    logits = jax.jit(lambda ids: TASK.model.apply({"params": variables()["params"]}, ids)["logits"])(texts)
    best = np.asarray(logits.argmax(-1))
    for row, length, new in zip(best, lengths, drawn, strict=True):
        end = [*new, Bytes.eos_id].index(Bytes.eos_id)
        np.testing.assert_array_equal(row[length - 1 :][:end], new[:end])


@pytest.mark.long
def test_a_sample_depends_on_prompt_seed_and_number_alone():
    draw = functools.partial(generate, TASK, variables(), settings={"tokens": 6, "top_p": 0.95}, batch_size=4)
    [four] = draw(["ab"], samples=4)
    assert len(set(four)) > 1 and all(text.startswith("ab") for text in four)
    assert draw(["ab"], samples=6)[0][:4] == four
    assert draw(["a longer one", "ab"], samples=3)[1] == four[:3]
    assert draw(["ab"], samples=4, seed=1)[0] != four


def test_texts_end_where_the_model_ends_them():
    """A head that says the end after everything."""
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), variables()["params"])
    params["text"]["norm"]["bias"] += 1
    params["text"]["embedding"][Bytes.eos_id] = 1
    params = jax.tree.map(jnp.asarray, params)
    assert generate(TASK, {"params": params}, ["one", "two"], GREEDY) == [["one"], ["two"]]


def test_features_and_token_losses_are_outputs():
    names = frozenset({"features", "token_losses", "token_weights", "token_bytes"})
    out = jax.jit(lambda v, b: TASK.outputs(v, b, names, None))(variables(), BATCH)
    assert set(out) == names and out["features"].shape == (8, 16)
    _, (metrics, _) = loss_of(TASK, variables(), BATCH)
    np.testing.assert_allclose(np.sum(out["token_losses"]), metrics["loss"][0], rtol=1e-6)
    assert out["token_bytes"].shape == (8, LENGTH - 1)


def test_init_has_the_papers_deviations():
    params = init_shapes(lambda: TASK.init(jax.random.key(0), BATCH))["params"]
    assert set(params) == {"text"}
    drawn = jax.jit(lambda: TASK.init(jax.random.key(0), BATCH)["params"]["text"]["embedding"])()
    assert float(drawn.std()) == pytest.approx(0.02, rel=0.05)


def test_flops_are_those_of_the_length_of_the_batch():
    forward = TASK.model.text_flops(LENGTH)
    assert TASK.forward_flops(BATCH) == forward and TASK.flops(BATCH) == 3 * forward


def info(**field):
    return DataInfo(None, (), build_fields({"text": {"name": "tokens", "length": 12, **field}}, Context()))


def test_a_config_builds_it_with_the_vocabulary_of_the_tokenizer():
    task = build(model=MODEL, data=info(bos=True))
    assert task.model.text.vocab_size == 259 and task.begin_id == Bytes.bos_id
    assert task.conditions(["ab"], TextSampling(tokens=2))["ids"][0, :3].tolist() == [1, 100, 101]
    packed = info(name="packed")
    assert build(model=MODEL, data=packed).begin_id is None
    assert build(model=MODEL, data=packed, separate_documents=True).begin_id == Bytes.eos_id


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: build(model=MODEL, data=DataInfo(None, ())), "reads a field 'text'"),
        (lambda: build(model=MODEL, data=info(), separate_documents=True), "Only packed texts"),
        (lambda: generate(TASK, {}, [], {}), "no prompt"),
        (lambda: generate(TASK, {}, ["a", "  "], {"tokens": 2}), "Prompt 2 is empty"),
        (lambda: generate(TASK, {}, ["a" * 24], {}), "Prompt 1 has 24 tokens.*no room in a context of 24"),
        (lambda: generate(TASK, {}, ["a" * 20], {"tokens": 5}), "has room for 4 and not for 5"),
        (lambda: generate(TASK, {}, ["a"], {"temperature": -1.0}), "sampling.temperature is -1.0"),
        (lambda: generate(TASK, {}, ["a"], {"top_p": 1.5}), "sampling.top_p is 1.5"),
        (lambda: generate(TASK, {}, ["a"], {"top_k": 0}), "sampling.top_k is 0"),
        (lambda: generate(TASK, {}, ["a"], {"tokens": 0}), "sampling.tokens is 0"),
        (lambda: generate(TASK, {}, ["a"], {"beams": 2}), "beams"),
        (lambda: generate(TASK, {}, ["a"], {}, samples=0), "samples is 0"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()
