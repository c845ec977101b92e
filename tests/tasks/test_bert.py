"""BERT's pretraining: the loss by hand on one device and on eight, what is guessed, gradients, outputs, and refusals."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import vit_jax
from tests.drawn import drawn
from vit_jax import UserError
from vit_jax.checkpoints.transfer import init_from
from vit_jax.data.fields import Fields
from vit_jax.naming import build_named
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.token_masking import Corrupted
from vit_jax.tasks import DataInfo, example_keys
from vit_jax.tasks.bert import pretraining_loss
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

MODEL = {"name": "bert", "width": 16, "depth": 2, "num_heads": 2, "max_length": 32}


@dataclasses.dataclass(frozen=True)
class Words:
    """What the task asks of a tokenizer: ids from 5 on are words, of which every third goes on the word before."""

    vocab_size: int = 50
    pad_id: int = 0
    cls_id: int = 1
    sep_id: int = 2
    mask_id: int | None = 3
    bos_id: None = None
    eos_id: None = None

    @property
    def continues(self):
        return np.arange(self.vocab_size) % 3 == 2


@dataclasses.dataclass(frozen=True)
class Text:
    tokenizer: Any


DATA = DataInfo(None, ("next", "random"), Fields({"text": Text(Words()), "label": None}))


def task_of(data=DATA, model=MODEL, **kwargs):
    return build_named("task", {"name": "bert"} | kwargs, "config.task", model=model, data=data)


def batch_of(rows=8, length=24, seed=0):
    rng = np.random.default_rng(seed)
    real = rng.integers(length // 2, length + 1, (rows, 1))
    place = np.arange(length)
    ids = np.where(place < real, rng.integers(5, 50, (rows, length)), 0)
    ids[:, 0] = 1
    ids[place == real - 1] = 2
    ids[place == real // 2] = 2
    segments = ((place > real // 2) & (place < real)).astype(np.int32)
    label = rng.integers(0, 2, rows)
    batch = {"text": ids, "text_mask": place < real, "text_segments": segments, "label": label}
    return {k: jnp.asarray(v, bool if k == "text_mask" else jnp.int32) for k, v in batch.items()}


def loss_by_hand(logits, targets, chosen, next_logits, label):
    """Guess by guess in float64: the mean over all that were chosen, and that over the answers."""

    def nats(row, i):
        return np.log(np.exp(row - row.max()).sum()) + row.max() - row[i]

    found = [
        nats(logits[b, p], targets[b, p]) for b in range(len(logits)) for p in range(logits.shape[1]) if chosen[b, p]
    ]
    return np.mean(found) + np.mean([nats(row, i) for row, i in zip(next_logits, label, strict=True)])


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("x64", [False, True], ids=["float32", "float64"])
def test_the_loss_by_hand(x64, devices):
    rng = np.random.default_rng(0)
    logits, next_logits = rng.normal(0, 3, (8, 5, 50)), rng.normal(0, 3, (8, 2))
    targets, label = rng.integers(0, 50, (8, 5)), rng.integers(0, 2, 8)
    chosen = (rng.random((8, 5)) < 0.6).astype(np.float64)
    expected = loss_by_hand(logits, targets, chosen, next_logits, label)
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    rows = NamedSharding(mesh, PartitionSpec("data"))

    def loss(logits, targets, chosen, next_logits, label):
        text = Corrupted(targets, targets, targets, chosen)
        return pretraining_loss(logits, text, next_logits, label)

    with jax.enable_x64(x64):
        kind = np.float64 if x64 else np.float32
        arrays = [logits.astype(kind), targets, chosen.astype(kind), next_logits.astype(kind), label]
        value, metrics = jax.jit(loss)(*(jax.device_put(a, rows) for a in arrays))
    np.testing.assert_allclose(float(value), expected, rtol=1e-12 if x64 else 1e-6)
    right = (logits.argmax(-1) == targets)[chosen > 0].mean()
    np.testing.assert_allclose(metrics["masked_accuracy"][0] / metrics["masked_accuracy"][1], right, rtol=1e-6)
    answered = (next_logits.argmax(-1) == label).mean()
    np.testing.assert_allclose(metrics["next_accuracy"][0] / metrics["next_accuracy"][1], answered, rtol=1e-6)


@pytest.fixture(scope="module")
def pretraining():
    """A task, its parameters, and its compiled loss of (params, batch, rng) with gradients."""
    task = task_of()
    batch = batch_of()
    variables = drawn(task.init, jax.random.key(0), batch, size=0.2)

    def loss(params, batch, rng):
        return task.loss({"params": params, "model_state": {}}, batch, rng, jnp.int32(0))

    return task, variables, jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.long
def test_gradients_and_what_the_loss_depends_on(pretraining):
    _, variables, loss = pretraining
    batch, rng = batch_of(), jax.random.key(1)
    (value, (metrics, state)), gradients = loss(variables["params"], batch, rng)
    assert state == {} and float(metrics["loss"][0]) == float(value)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        # The softmax of the attention does not see a shift of all keys.
        still = "key" in jax.tree_util.keystr(path) and "bias" in jax.tree_util.keystr(path)
        assert still or np.abs(leaf).max() > 0, path
    # A function of the key, and of nothing that padding holds.
    assert float(loss(variables["params"], batch, rng)[0][0]) == float(value)
    other = loss(variables["params"], batch, jax.random.key(2))[0][0]
    assert abs(float(other) - float(value)) > 1e-4
    padded = batch | {"text": jnp.where(batch["text_mask"], batch["text"], 7)}
    np.testing.assert_allclose(loss(variables["params"], padded, rng)[0][0], value, rtol=1e-6)
    # About one word in fifty and one answer of two is right by chance, at first.
    assert abs(float(value) - np.log(50) - np.log(2)) < 0.3


def test_only_words_are_guessed_and_each_example_has_its_own(pretraining):
    task, variables, _ = pretraining
    batch = batch_of() | {"index": jnp.arange(8) * 3}
    names = frozenset({"masked_logits", "masked_targets", "masked_chosen", "masked_next_logits"})
    outputs = jax.jit(lambda batch, seed: task.outputs(variables, batch, names, example_keys(seed, batch)))
    found = jax.tree.map(np.asarray, outputs(batch, 0))
    assert found["masked_logits"].shape == (8, 4, 50) and found["masked_next_logits"].shape == (8, 2)
    chosen = found["masked_chosen"] > 0
    assert (found["masked_targets"][chosen] >= 5).all() and chosen.any(axis=1).all()
    # The same examples in another order, and in a run of another seed.
    back = jax.tree.map(lambda x: x[::-1], batch)
    again = jax.tree.map(np.asarray, outputs(back, 1))
    np.testing.assert_array_equal(again["masked_targets"][::-1], found["masked_targets"])
    np.testing.assert_allclose(again["masked_logits"][::-1], found["masked_logits"], atol=1e-5)


def test_features_for_probes(pretraining):
    """The last four layers one after the other: here both of two, of which the second is what `tokens` are."""
    task, variables, _ = pretraining
    batch = batch_of()
    names = frozenset({"tokens", "features", "logits", "last_layers_token", "last_layers_mean"})
    found = jax.jit(lambda batch: task.outputs(variables, batch, names, example_keys(0, batch)))(batch)
    found = jax.tree.map(np.asarray, found)
    assert {k: v.shape for k, v in found.items()} == {
        "tokens": (8, 24, 16), "features": (8, 16), "logits": (8, 2),
        "last_layers_token": (8, 32), "last_layers_mean": (8, 32),
    }  # fmt: skip
    np.testing.assert_allclose(found["last_layers_token"][:, 16:], found["tokens"][:, 0], atol=1e-6)
    rows = [t[m].mean(0) for t, m in zip(found["tokens"], np.asarray(batch["text_mask"]), strict=True)]
    np.testing.assert_allclose(found["last_layers_mean"][:, 16:], np.stack(rows), atol=1e-5)
    with pytest.raises(UserError, match="does not give 'samples'"):
        jax.eval_shape(lambda b: task.outputs(variables, b, frozenset({"samples"}), example_keys(0, b)), batch)


def test_whole_words_and_other_settings():
    """Tokens that go on a word are guessed with it."""
    task = task_of(whole_words=True, predictions=6, mask_share=0.3, next_sentence=False)
    batch = batch_of(64)
    found = jax.jit(lambda keys: task._corrupted(batch, keys))(example_keys(0, batch))
    chosen = np.zeros((64, 24), bool)
    np.put_along_axis(chosen, np.asarray(found.places), np.asarray(found.chosen) > 0, axis=1)
    ids = np.asarray(batch["text"])
    together = (ids[:, 1:] % 3 == 2) & (ids[:, 1:] >= 5) & (ids[:, :-1] >= 5)
    np.testing.assert_array_equal(chosen[:, 1:][together], chosen[:, :-1][together])
    assert together.sum() > 100 and chosen.sum(axis=1).max() <= 6


@pytest.mark.parametrize(
    "data, kwargs, said",
    [
        (DataInfo(None, (), Fields({})), {}, "reads a field 'text' of tokens"),
        (DataInfo(None, (), Fields({"text": Text(Words())})), {}, "needs the field 'label'"),
        (DataInfo(None, (), Fields({"text": Text(Words(mask_id=None)), "label": None})), {}, "stands for a hidden one"),
        (DATA, {"mask_share": 0.0}, "leaves nothing to guess"),
        (DATA, {"mask_share": 1.5}, "mask_share"),
        (DATA, {"model": {"name": "vit", "variant": "mu/2"}}, "is no BERT"),
        (DATA, {"model": MODEL | {"vocab_size": 9}}, "vocab_size"),
    ],
)
def test_refusals(data, kwargs, said):
    with pytest.raises(UserError, match=said):
        task_of(**{"data": data} | kwargs)


def test_flops_of_base_by_hand():
    """12 blocks of 4 + 8 matrices of 768 x 768, attention over 128 tokens, and 20 guesses at 50 words; three times."""
    task = task_of(model={"name": "bert"})
    shapes = {"text": jax.ShapeDtypeStruct((4, 128), jnp.int32)}
    blocks = 12 * (2 * 128 * 12 * 768**2 + 4 * 128**2 * 768)
    assert task.flops(shapes) == 3 * (blocks + 20 * 2 * 768 * (768 + 50))


def config(folder, length=16):
    """Documents of sentences that count up by one: the words tell which come next, and what is hidden."""
    rng = np.random.default_rng(0)
    sentences = [
        [" ".join(str((start + i + j) % 10) for j in range(4)) for i in range(6)] for start in rng.integers(0, 10, 12)
    ]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"0123456789"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    rows = [json.dumps({"text": "\n".join(found)}) for found in sentences]
    (folder / "counting.jsonl").write_text("\n".join(rows) + "\n")
    source = {"name": "documents", "paths": str(folder / "counting.jsonl")}
    tokenizer = {"name": "wordpiece", "path": str(folder / "vocab.txt")}
    text = {"name": "sentence_pairs", "tokenizer": tokenizer, "length": length, "copies": 1}
    return {
        "seed": 0, "steps": 20, "batch_size": 8, "log_every": 10, "model": MODEL | {"depth": 1}, "task": {"name": "bert"},
        "data": {"train": source, "eval": source, "fields": {"text": text, "label": {"name": "classes"}}},
        "optim": {"name": "adamw", "learning_rate": 0.01},
        "evals": {"val": {"name": "masked_lm"}},
    }  # fmt: skip


@pytest.mark.long
def test_a_run_goes_on_with_longer_texts(tmp_path):
    """Every parameter comes over whole, positions that the shorter texts did not reach among them."""
    values = config(tmp_path)
    train(build_experiment(values), tmp_path / "short", jax.devices()[:1])
    rows = [json.loads(line) for line in (tmp_path / "short" / "metrics.jsonl").read_text().splitlines()]
    last = {key: value for row in rows for key, value in row.items()}
    assert last["train/masked_loss"] < 2.6 and 0.05 < last["val/commonest_accuracy"] < 0.3
    assert {"val/accuracy", "val/loss", "val/next_accuracy", "train/next_accuracy"} <= set(last)
    longer = build_experiment(config(tmp_path, length=24))
    batch = jax.eval_shape(longer.on_device, longer.pipeline.batch(0), jax.random.key(0))
    shapes = init_shapes(longer.task.init, jax.random.key(0), batch)
    found, (report,) = init_from({"params": shapes["params"]}, str(tmp_path / "short"))
    assert not report.missing and not report.unused and not report.resized
    positions = vit_jax.load(tmp_path / "short").params["text"]["pos_embedding"]
    assert positions.shape == (32, 16)
    np.testing.assert_array_equal(found["params/text/pos_embedding"], positions)


def test_microbatches_are_refused(tmp_path):
    with pytest.raises(UserError, match="hidden tokens"):
        train(build_experiment(config(tmp_path) | {"microbatch": 4}), tmp_path / "run", jax.devices()[:1])


@pytest.mark.long
def test_a_loss_is_the_same_on_eight_devices(pretraining):
    """What is hidden too: it is drawn text by text."""
    task, variables, loss = pretraining
    batch, rng = batch_of(), jax.random.key(1)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:8])
    rows, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    given = (*jax.device_put((variables, rng), whole), jax.device_put(batch, rows))
    value, _ = jax.jit(lambda variables, rng, batch: task.loss(variables, batch, rng, jnp.int32(0)))(*given)
    np.testing.assert_allclose(value, loss(variables["params"], batch, rng)[0][0], rtol=1e-6)
