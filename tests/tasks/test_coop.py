"""CoOp: prompts in tokens, what of them is learned, and what an independent text tower makes of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny_pairs import CLIP, FIELDS, pairs_config
from vit_jax import UserError
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.preprocess import Preprocess
from vit_jax.data.tokenizers import bytes as utf8
from vit_jax.data.tokenizers import clip_bpe
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.tasks import DataInfo, coop
from vit_jax.tasks._prompts import prompts_of
from vit_jax.training.experiment import build_experiment
from vit_jax.training.optim import frozen_mask

NAMES = ("red", "light_blue", "green")
LONG = {**CLIP, "text": {**CLIP["text"], "max_length": 24}}
BATCH = {
    "image": np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32),
    "label": np.array([0, 1, 1, 0]),
}


def task(names=NAMES, model=LONG, **kwargs):
    data = DataInfo((8, 8), names, build_fields(None, Context(Preprocess((8, 8)), names)))
    return coop.build(**{"model": model, "data": data, "tokenizer": "bytes", "context_length": 4, **kwargs})


@functools.cache
def shared(context="unified"):
    """One task for several tests, which then compile it once; half of its classes are trained on."""
    return task(context=context, words="abcd", classes="base")


def random_params(built):
    rng = np.random.default_rng(1)
    shapes = init_shapes(built.init, jax.random.key(0), BATCH)["params"]
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32), shapes)


@functools.partial(jax.jit, static_argnums=(0, 3))
def outputs(built, params, batch, names):
    return built.outputs({"params": params, "model_state": {}}, batch, frozenset(names), None)


@functools.partial(jax.jit, static_argnums=0)
def loss(built, params, batch):
    return built.loss({"params": params, "model_state": {}}, batch, None, 0)


def logits(built, params):
    return outputs(built, params, BATCH, ("logits",))["logits"]


@pytest.mark.parametrize(
    ("position", "told"),
    [("end", "^0123 light blue.$"), ("middle", "^01 light blue23.$"), ("front", "^light blue0123.$")],
)
def test_where_the_name_stands(position, told):
    tokenizer = utf8.build()
    found = prompts_of(NAMES, tokenizer, 4, position, 24)
    marks = {tokenizer.bos_id: "^", tokenizer.eos_id: "$", tokenizer.pad_id: ""}

    def written(i: int, slot: int) -> str:
        return str(slot) if slot >= 0 else marks[i] if i in marks else tokenizer.decode([i])

    rows = zip(found.ids.tolist(), found.slots.tolist(), strict=True)
    texts = ["".join(map(written, ids, slots)) for ids, slots in rows]
    assert texts[1] == told
    assert [row[end] for row, end in zip(found.ids, found.ends, strict=True)] == [tokenizer.eos_id] * 3


def test_the_prompts_of_clip_are_those_of_the_authors_code():
    """They write "X X X X light blue." and put their vectors in place of the four."""
    tokenizer = clip_bpe.build()
    found = prompts_of(NAMES, tokenizer, 4, "end", 77)
    for name, ids, slots, end in zip(NAMES, found.ids, found.slots, found.ends, strict=True):
        theirs = [tokenizer.bos_id, *tokenizer.encode(f"X X X X {name.replace('_', ' ')}."), tokenizer.eos_id]
        assert end == len(theirs) - 1
        np.testing.assert_array_equal(np.where(slots >= 0, tokenizer.encode("X")[0], ids)[: end + 1], theirs)


@pytest.mark.parametrize("context", ["unified", "csc"])
def test_words_written_as_vectors_are_the_words(context):
    """A context that is the vectors of words gives what the words themselves give, and starts there whatever weights come
    after `init`."""
    built = shared(context)
    params = random_params(built)
    params["prompt"]["context"] = np.zeros_like(params["prompt"]["context"])
    tokenizer = utf8.build()
    rows = [[1, *tokenizer.encode(f"abcd {name.replace('_', ' ')}."), 2] for name in NAMES]
    ids = np.array([row + [0] * (24 - len(row)) for row in rows])

    @jax.jit
    def similarity(params, images):
        found = built.model.apply({"params": params}, images, ids)
        embeddings = found["image_embedding"], found["text_embedding"]
        return built.model.apply({"params": params}, *embeddings, method="similarity")

    np.testing.assert_allclose(logits(built, params), similarity(params, BATCH["image"]), atol=2e-5)


def test_the_loss_is_cross_entropy_over_the_classes_that_are_trained_on():
    built = shared()
    params = random_params(built)
    found, (metrics, _) = loss(built, params, BATCH)
    of_all = np.asarray(logits(built, params), np.float64)
    assert of_all.shape == (4, 3)
    base = of_all[:, :2]
    chances = np.exp(base) / np.exp(base).sum(1, keepdims=True)
    np.testing.assert_allclose(found, -np.log(chances[np.arange(4), BATCH["label"]]).mean(), rtol=1e-5)
    assert metrics["accuracy"][0] == (base.argmax(1) == BATCH["label"]).sum()


@pytest.mark.parametrize("context", ["unified", "csc"])
def test_a_context_for_all_classes_or_for_each(context):
    """A class's own context moves its own logit alone."""
    built = shared(context)
    params = random_params(built)
    shape = params["prompt"]["context"].shape
    assert shape == ((4, 16) if context == "unified" else (3, 4, 16))

    def moved(of: int):
        changed = np.array(params["prompt"]["context"])
        changed[of if context == "csc" else ...] += np.random.default_rng(2).normal(size=changed.shape[-2:])
        return logits(built, {**params, "prompt": {"context": changed}})

    differs = np.abs(moved(1) - logits(built, params)).max(0) > 1e-4
    np.testing.assert_array_equal(differs, [context == "unified", True, context == "unified"])


def test_an_embedding_in_the_batch_takes_the_place_of_the_image():
    built = shared()
    params = random_params(built)
    given = {"label": BATCH["label"], **outputs(built, params, BATCH, ("image_embedding",))}
    np.testing.assert_allclose(loss(built, params, given)[0], loss(built, params, BATCH)[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": {"name": "vit", "variant": "mu/4"}}, "The model 'vit' has no text tower that could read a prompt"),
        ({"model": {**CLIP, "text": {**CLIP["text"], "mask": None}}}, "whose tokens see those before them"),
        ({"context_length": 21}, "A context of 21 leaves no room for a class name in the 24 places"),
        ({"context_length": 15}, "The class name 'light_blue' has 11 tokens, more than the 6 places that a context of 15"),
        ({"names": ("red", " ")}, "The class name ' ' is empty"),
        ({"words": "a photo of a"}, "The words 'a photo of a' are 12 tokens, and the context has 4"),
        ({"names": ()}, "this data has none"),
    ],
)  # fmt: skip
def test_what_is_refused(change, sentence):
    with pytest.raises(UserError, match=sentence):
        task(**change)


def run_config(folder, **task):
    values = pairs_config(folder, steps=8)
    values["task"] = {"name": "coop", "tokenizer": "bytes", "context_length": 2, "words": "a ", **task}
    values["model"] = {**CLIP, "text": {**CLIP["text"], "max_length": 12}}
    train = {"name": "few_shot", "source": values["data"]["train"], "shots": 2}
    fields = {name: FIELDS[name] for name in ("image", "label")}
    values["data"] = {**values["data"], "train": train, "fields": fields}
    values["optim"] = {"name": "sgd", "learning_rate": 0.3, "frozen": ["(?!prompt/).*"]}
    return values | {"evals": {"val": {"name": "classification"}}, "precompute": {"output": "image_embedding"}}


def test_the_prompt_is_all_that_a_run_learns(tmp_path):
    experiment = build_experiment(run_config(tmp_path))
    assert len(experiment.pipeline.source) == 8 and len(experiment.task.label_names) == 4
    params = init_shapes(experiment.task.init, jax.random.key(0), BATCH)["params"]
    mask = frozen_mask(params, experiment.config.optim["frozen"])
    assert not mask.pop("prompt")["context"] and all(jax.tree.leaves(mask))
    answers = experiment.task.answers({"logits": np.eye(4)}, experiment.fields)
    assert [answer.best(1)[0][0] for answer in answers] == list(experiment.task.label_names)
