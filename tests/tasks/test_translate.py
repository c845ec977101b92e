"""Translation: its loss by hand, its search, and a run from a config to translations of a file."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import vit_jax
from tests.drawn import drawn
from vit_jax import UserError
from vit_jax.commands.main import main
from vit_jax.naming import build_named
from vit_jax.tasks import example_keys
from vit_jax.tasks.translate import shifted, token_losses
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train
from vit_jax.training.remarks import opening

PAIRS = [
    ("ab", "BA"),
    ("abc", "CBA"),
    ("ba", "AB"),
    ("cab", "BAC"),
    ("c", "C"),
    ("bca", "ACB"),
    ("bb", "BB"),
    ("ac", "CA"),
]


def config(path, **target):
    tokens = {"name": "tokens", "tokenizer": "bytes", "length": 6, "bos": False}
    pairs = {"name": "arrays", "path": str(path), "fields": ["source", "target"]}
    return {
        "seed": 0,
        "steps": 4,
        "batch_size": 8,
        "task": {"name": "translate"},
        "model": {"name": "transformer", "width": 16, "encoder_depth": 1, "decoder_depth": 1, "mlp_dim": 16,
                  "num_heads": 2, "max_length": 8},
        "data": {"train": pairs, "eval": pairs, "fields": {"source": tokens, "target": {**tokens, **target}}},
        "optim": {"name": "adamw", "weight_decay": 0.0, "learning_rate": 0.01, "b2": 0.98, "eps": 1e-9},
        "evals": {"val": {"name": "translation"}, "greedy": {"name": "translation", "output": "greedy"}},
        "checkpoint": {"every": 2, "keep": 2},
    }  # fmt: skip


def write_pairs(folder):
    """The pairs as a file."""
    path = folder / "pairs.npz"
    columns = {
        name: np.array(column) for name, column in zip(("source", "target"), zip(*PAIRS, strict=True), strict=True)
    }
    np.savez(path, labels=np.zeros(len(PAIRS), np.int32), **columns)
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def workdir(pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(build_experiment(config(pairs)), folder, jax.devices()[:1])
    return folder


@pytest.mark.parametrize("devices", [1, 8])
def test_the_loss_by_hand(devices):
    rng = np.random.default_rng(0)
    logits, ids = rng.normal(0, 3, (8, 5, 11)), rng.integers(0, 11, (8, 5))
    expected = np.zeros((8, 5))
    for b in range(8):
        for t in range(5):
            logs = logits[b, t] - np.log(np.exp(logits[b, t]).sum())
            shares = np.full(11, 0.1 / 11)
            shares[ids[b, t]] += 0.9
            expected[b, t] = -(shares * logs).sum()
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    rows = NamedSharding(mesh, PartitionSpec("data"))
    found = jax.jit(lambda a, b: token_losses(a, b, 0.1))(
        jax.device_put(logits.astype(np.float32), rows), jax.device_put(ids, rows)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.long
def test_the_decoder_sees_what_comes_before_and_padding_does_not_count(pairs):
    """The loss of a batch is the mean over its real tokens of what the model gives for shifted targets."""
    experiment = build_experiment(config(pairs))
    task, batch = experiment.task, experiment.pipeline.batch(0)
    np.testing.assert_array_equal(shifted(jnp.asarray([[3, 4, 2, 0]]), 0), [[0, 3, 4, 2]])
    variables = drawn(task.init, jax.random.key(0), batch)
    names = frozenset(("token_losses", "counted", "logits"))
    found = jax.jit(lambda v, b: task.outputs(v, b, names, example_keys(0, b)))(variables, batch)
    np.testing.assert_array_equal(found["counted"], batch["target_mask"])

    quiet = build_experiment({**config(pairs), "model": {**config(pairs)["model"], "dropout_rate": 0.0}}).task
    loss = jax.jit(quiet.loss)
    value, (metrics, _) = loss(variables, batch, jax.random.key(0), 0)
    logs = np.asarray(jax.nn.log_softmax(found["logits"]), np.float64)
    right = np.take_along_axis(logs, batch["target"][..., None], axis=-1)[..., 0]
    smoothed = -(0.9 * right + 0.1 * logs.mean(-1))
    np.testing.assert_allclose(value, smoothed[batch["target_mask"]].mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["nats_per_token"][0], -right[batch["target_mask"]].sum(), rtol=1e-6)

    # A later token changes nothing before it, and what stands in the padding nothing at all.
    other = {**batch, "source": np.where(batch["source_mask"], batch["source"], 7)}
    other["target"] = np.where(batch["target_mask"], batch["target"], 9)
    np.testing.assert_allclose(loss(variables, other, jax.random.key(0), 0)[0], value, rtol=1e-6)
    last = {**batch, "target": np.concatenate([batch["target"][:, :-2], batch["target"][:, -2:] + 1], axis=1)}
    changed = jax.jit(lambda v, b: task.outputs(v, b, frozenset(["logits"]), example_keys(0, b)))(variables, last)
    np.testing.assert_array_equal(changed["logits"][:, :-1], found["logits"][:, :-1])


@pytest.mark.long
def test_a_translation_does_not_depend_on_its_batch(workdir):
    loaded = vit_jax.load(workdir)
    rows = [loaded.fields["source"].batched("source", loaded.fields["source"].read(s, "", None)) for s, _ in PAIRS]
    batch = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    together = loaded.outputs(batch, ("samples",))["samples"]
    alone = np.stack([loaded.outputs({k: v[i : i + 1] for k, v in batch.items()}, ("samples",))["samples"][0]
                      for i in range(3)])  # fmt: skip
    np.testing.assert_array_equal(alone, together[:3])
    shown = loaded.task.shown(np.asarray(together), batch)
    assert shown[0] == loaded.fields["target"].text(together[0])


@pytest.mark.long
def test_a_run_is_measured_and_its_translations_kept(workdir, tmp_path, capsys):
    summary = json.loads((workdir / "summary.json").read_text())
    assert {"val/bleu", "val/chrf", "val/exact", "greedy/exact"} <= set(summary) and summary["val/examples"] == 8
    assert main(["evaluate", "--checkpoint", str(workdir), "--average", "2", "--output", f"{tmp_path}/out/"]) == 0
    capsys.readouterr()
    rows = [json.loads(line) for line in (tmp_path / "out" / "val_translations.jsonl").read_text().splitlines()]
    assert [(row["source"], row["target"]) for row in rows] == PAIRS


def test_texts_are_not_called_images(pairs):
    assert opening(build_experiment(config(pairs)))[0].startswith("1 class, 8 training examples, 8 for")


def test_right_translations_have_full_marks(pairs):
    """What the evaluator makes of ids that are the targets themselves, and of none."""
    evaluator = build_experiment(config(pairs)).evaluators["val"]

    def run(wrong):
        class Run:
            keep = staticmethod(lambda *_: None)

            def __call__(self, pipeline):
                for batch in pipeline.iterate():
                    ids = np.where(np.arange(len(batch["target"]))[:, None] < wrong, 0, batch["target"])
                    yield {"ids": ids, "index": batch["index"], "valid": batch["valid"]}

        return evaluator.metrics(Run())

    assert run(0)["exact"] == 1 and run(0)["chrf"] == pytest.approx(100)
    assert run(2)["exact"] == 0.75


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"data": {"fields": {"source": {"name": "tokens", "length": 6}}}}, "reads a field 'target'"),
        ({"target": {"eos": False}}, "do not say where they end"),
    ],
)
def test_fields_that_do_not_fit(pairs, change, what):
    values = config(pairs, **change.pop("target", {}))
    values["data"] |= change.get("data", {})
    with pytest.raises(UserError, match=what):
        build_experiment(values)


def test_a_task_is_not_built_without_its_fields():
    from vit_jax.tasks import DataInfo

    with pytest.raises(UserError, match="reads a field 'source'"):
        build_named(
            "task", {"name": "translate"}, "config.task", model={"name": "transformer"}, data=DataInfo(None, ())
        )
