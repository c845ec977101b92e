"""Classes of texts: the loss by hand for BERT and for GPT with its own beside, a run through every step, refusals."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from tests.drawn import drawn
from tests.tiny import tiny_config, untrained
from vit_jax import UserError
from vit_jax.commands.main import main
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.naming import build_named
from vit_jax.tasks import DataInfo
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

SIZE = {"width": 16, "depth": 1, "num_heads": 2, "max_length": 16}
BERT, GPT = {"name": "bert", **SIZE}, {"name": "gpt", **SIZE}
FIELDS = {"text": {"name": "tokens", "length": 12}, "label": {"name": "classes"}}
NAMES = ("calm", "loud", "odd")
DATA = DataInfo(None, NAMES, build_fields(FIELDS, Context(None, NAMES)))


def task_of(model=BERT, data=DATA, **kwargs):
    return build_named("task", {"name": "classify_text", **kwargs}, "config.task", model=model, data=data)


def batch_of(rows=8, length=12):
    rng = np.random.default_rng(0)
    mask = np.arange(length) < rng.integers(3, length + 1, (rows, 1))
    ids = np.where(mask, rng.integers(3, 259, (rows, length)), 0).astype(np.int32)
    return {"text": ids, "text_mask": mask, "label": rng.integers(0, 3, rows).astype(np.int32)}


@pytest.mark.parametrize("model, auxiliary", [(BERT, 0.0), (GPT, 0.0), (GPT, 0.5)], ids=["bert", "gpt", "gpt-lm"])
def test_the_loss_by_hand(model, auxiliary):
    """From `features` and the model's own logits, in float64."""
    task, batch = task_of(model, dropout_rate=0.0, auxiliary_lm=auxiliary), batch_of()
    variables = drawn(task.init, jax.random.key(0), batch)
    assert set(variables["params"]) == {"text", "head"} | ({"pooler"} if model is BERT else set())
    found, language = jax.jit(
        lambda v: (
            task.outputs(v, batch, frozenset({"features", "logits"}), jax.random.key(0)),
            task.model.apply({"params": v["params"]}, batch["text"], token_mask=batch["text_mask"]),
        )
    )(variables)
    head = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"]["head"])
    logits = np.asarray(found["features"], np.float64) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(found["logits"], logits, atol=1e-6)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = -log_p[np.arange(8), batch["label"]].mean()
    if auxiliary:
        rows = np.asarray(language["logits"], np.float64)
        log_p = rows - np.log(np.exp(rows).sum(-1, keepdims=True))
        costs = [
            -np.mean([log_p[b, i - 1, batch["text"][b, i]] for i in range(1, batch["text_mask"][b].sum())])
            for b in range(8)
        ]
        expected += auxiliary * np.mean(costs)
    loss = jax.jit(lambda v: task.loss(v, batch, jax.random.key(1), jnp.int32(0)))
    value, (metrics, _) = loss(variables)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert float(metrics["accuracy"][0]) == (logits.argmax(1) == batch["label"]).sum()


def config(folder):
    """Texts that say their class: of one letter, another one, or a third."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 48)
    texts = np.array(["abc"[c] * rng.integers(3, 9) for c in label])
    np.savez(folder / "classes.npz", labels=label, label_names=np.array(NAMES), text=texts)
    source = {"name": "arrays", "path": str(folder / "classes.npz"), "fields": ("text",)}
    return {
        "seed": 0, "steps": 140, "batch_size": 16, "log_every": 70, "model": BERT,
        "task": {"name": "classify_text"},
        "data": {"train": source, "eval": source, "fields": FIELDS},
        "optim": {"name": "adamw", "learning_rate": 0.003},
        "evals": {
            "val": {"name": "classification"},
            "knn": {"name": "knn", "train": source, "features": "last_layers_mean", "k": 5},
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Of no run, and of both signs, so that its answers differ."""
    folder = tmp_path_factory.mktemp("texts")
    return untrained(folder / "run", config(folder), signed=True)


@pytest.mark.long
def test_a_run_is_evaluated_loaded_and_gone_on_from(tmp_path, capsys, as_elsewhere):
    """From the first state of its seed: of others, one in four at least takes two of the classes for one."""
    workdir, values = tmp_path / "run", config(tmp_path)
    train(build_experiment(values), workdir, jax.devices()[:1])
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    last = {key: value for row in rows for key, value in row.items()}
    assert last["val/accuracy"] > 0.9 and last["knn/accuracy"] > 0.9
    loaded = vit_jax.load(workdir)
    row = loaded.fields["text"].batched("text", loaded.fields["text"].read("aaaa", "here", None))
    batch = {name: np.asarray(value)[None] for name, value in row.items()}
    (answer,) = loaded.task.answers(loaded.outputs(batch, ("logits",)), loaded.fields)
    assert answer.best(1)[0][0] == "calm"
    output = tmp_path / "said.jsonl"
    texts = [flag for text in ("bbb", "aaaa", "cccc") for flag in ("--text", text)]
    assert main(["predict", "--checkpoint", str(workdir), *texts, "--output", str(output)]) == 0
    said = [json.loads(line)["predictions"][0][0] for line in output.read_text().splitlines()]
    assert said == ["loud", "calm", "odd"]
    # Another head on the same text encoder.
    values = values | {"steps": 1, "init_from": str(workdir), "evals": {}}
    train(build_experiment(values), tmp_path / "next", jax.devices()[:1])
    assert "missing    2  head" in capsys.readouterr().err


@pytest.mark.long
def test_texts_are_predicted(checkpoint, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("aaaa\nbbbbb\ncccc\n")
    output = tmp_path / "said.jsonl"
    command = ["predict", "--checkpoint", str(checkpoint), "--text", "bbb", "--texts", str(tmp_path / "texts.txt")]
    assert main([*command, "--output", str(output), "--batch-size", "3", "--top", "2"]) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["text"] for row in rows] == ["bbb", "aaaa", "bbbbb", "cccc"]
    loaded = vit_jax.load(checkpoint)
    rows_of = [loaded.fields["text"].batched("text", loaded.fields["text"].read(row["text"], "", None)) for row in rows]
    batch = {name: np.stack([each[name] for each in rows_of]) for name in rows_of[0]}
    logits = np.float64(loaded.outputs(batch, ("logits",))["logits"])
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for row, each in zip(rows, shares, strict=True):
        order = np.argsort(-each)[:2]
        assert [name for name, _ in row["predictions"]] == [NAMES[i] for i in order]
        np.testing.assert_allclose([share for _, share in row["predictions"]], each[order], atol=1e-3)
    assert main([*command, "--output", str(output), "--batch-size", "3"]) == 0, "its own file may be replaced"
    capsys.readouterr()
    assert main([*command[:5], "--top", "1"]) == 0
    assert capsys.readouterr().out.startswith(f"bbb: {rows[0]['predictions'][0][0]} ")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ([], "There is nothing to predict"),
        (["--text", "a", "photo.jpg"], "There are both images and texts"),
        (["--text", "aaaaaaaaaaaaaaaaaaaa"], "Text 1 has 20 tokens, more than the 10"),
        (["--texts", "none.txt"], "There is no file none.txt with texts"),
        (["photo.jpg"], "photo.jpg"),
    ],
)
def test_texts_that_cannot_be_predicted(checkpoint, arguments, what, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # a photo.jpg may lie where the tests are run
    assert main(["predict", "--checkpoint", str(checkpoint), *arguments]) == 2
    assert what in capsys.readouterr().err


def test_images_are_not_asked_of_texts_nor_texts_of_images(tmp_path, capsys):
    images = untrained(tmp_path / "images", tiny_config())
    assert main(["predict", "--checkpoint", str(images), "--text", "a cat"]) == 2
    assert "does not answer texts" in capsys.readouterr().err


@pytest.mark.parametrize(
    "kwargs, said",
    [
        ({"data": DataInfo(None, NAMES)}, "reads a field 'text' of tokens"),
        ({"data": DataInfo(None, (), DATA.fields)}, "names no classes"),
        ({"model": {"name": "vit", "variant": "mu/2"}}, "reads no texts"),
        ({"model": {"name": "transformer"}}, "makes no features"),
        ({"auxiliary_lm": 0.5}, "is no language model"),
        ({"auxiliary_lm": -1.0}, "auxiliary_lm"),
    ],
)
def test_refusals(kwargs, said):
    with pytest.raises(UserError, match=said):
        task_of(**kwargs)
