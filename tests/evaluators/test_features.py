"""Features are computed once for all evaluators, and once for all runs that share a cache."""

import json

import jax
import numpy as np
import pytest

from tests.tiny import tiny_config, untrained
from vit_jax import UserError
from vit_jax.commands.main import main
from vit_jax.evaluators.features import FeatureCache, digest
from vit_jax.tasks import chosen
from vit_jax.training.config import differences, run_config
from vit_jax.training.evaluation import Evaluation, build_evaluators, intervals
from vit_jax.training.inputs import build_inputs
from vit_jax.training.sharding import make_mesh

TRAIN = {"name": "digits", "split": "train", "per_class": 8}
TEST = {"name": "digits", "split": "test", "per_class": 3}
SETS = {"train": TRAIN, "test": TEST}
PROBES = {
    "knn": {"name": "knn", "k": 5, **SETS},
    "linear": {"name": "linear_probe", **SETS},
    "sgd": {"name": "sgd_probe", "epochs": 5, **SETS},
    "few": {"name": "fewshot", "shots": [2], "seeds": 1, **SETS},
}


class Counting:
    """Outputs of a task that are counted by the host, batch by batch."""

    def __init__(self):
        self.batches = 0

    def outputs(self, variables, batch, names, rng):
        def count(x):
            self.batches += 1
            return x

        features = batch["image"].reshape(batch["image"].shape[0], -1) * variables["scale"]
        shape = jax.ShapeDtypeStruct(features.shape, features.dtype)
        return chosen(names, {"features": jax.pure_callback(count, shape, features)})


def evaluation(counting, probes=PROBES, cache=None, devices=1):
    inputs = build_inputs(tiny_config(data__eval_batch_size=16)["data"])
    evaluators = build_evaluators(probes, inputs, 16)
    mesh = make_mesh({}, jax.devices()[:devices])
    normalise = lambda batch: {**batch, "image": batch["image"] / 255.0}  # noqa: E731
    return Evaluation(evaluators, counting.outputs, normalise, mesh, cache=cache)


VARIABLES = {"scale": np.float32(1)}


def test_all_probes_share_one_pass_over_each_set():
    counting = Counting()
    metrics = evaluation(counting).run(VARIABLES)
    assert counting.batches == 5 + 2  # 80 and 30 images in batches of 16
    assert all(metrics[f"{name}/accuracy"] > 0.5 for name in ("knn", "linear", "sgd"))
    assert {"few/2shot", "linear/accuracy_std", "linear/penalty", "sgd/accuracy_std"} <= set(metrics)


def test_features_are_not_shared_between_different_models():
    counting = Counting()
    same = evaluation(counting, {"knn": PROBES["knn"]})
    assert same.run(VARIABLES) != same.run({"scale": np.float32(0)})
    assert counting.batches == 14


def test_a_cache_on_disk_saves_the_pass(tmp_path):
    def run(model, probes=PROBES):
        counting = Counting()
        return evaluation(counting, probes, FeatureCache(tmp_path / "cache", model)).run(VARIABLES), counting.batches

    first, batches = run("a")
    assert batches == 7
    assert run("a") == (first, 0)
    assert run("b") == (first, 7)  # another model
    few = {"few": {**PROBES["few"], "test": {**TEST, "per_class": 4}}}
    assert run("a", few)[1] == 3  # other images, of the test set alone
    turned = {"few": {**PROBES["few"], "transform": {"name": "supervised", "crop": "none", "rotate": 30.0}}}
    assert run("a", turned)[1] == 7  # augmented ones
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert run("a") == (first, 7)  # damaged ones are computed again
    assert run("a") == (first, 0)


def test_pixels_are_features_too():
    counting = Counting()
    probes = {"knn": {**PROBES["knn"], "features": "pixels"}}
    metrics = evaluation(counting, probes).run(VARIABLES)
    assert counting.batches == 0 and metrics["knn/accuracy"] > 0.5


def test_an_output_that_the_task_lacks():
    with pytest.raises(UserError, match="'knn' failed: This task does not give 'tokens'. It gives features"):
        evaluation(Counting(), {"knn": {**PROBES["knn"], "features": "tokens"}}).run(VARIABLES)


def test_digests_differ_by_bits_names_and_description():
    tree = {"a": np.ones(3, np.float32), "b": np.zeros(2, np.float32)}
    others = [
        {**tree, "a": np.nextafter(tree["a"], 2)},
        {"c": tree["a"], "b": tree["b"]},
        {**tree, "b": np.zeros((1, 2), np.float32)},
    ]
    assert digest(tree) == digest({"b": tree["b"].copy(), "a": tree["a"].copy()})
    assert len({digest(tree), digest(tree, {"gelu": "exact"}), *(digest(other) for other in others)}) == 5


def test_a_cache_that_cannot_be_one(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        FeatureCache(tmp_path / "file", "a")


@pytest.mark.long
def test_evaluators_run_on_schedules_of_their_own(tmp_path):
    evals = {"val": {"name": "classification", "every": 2}, "knn": {**PROBES["knn"], "every": 3}}
    from vit_jax.training.experiment import build_experiment
    from vit_jax.training.loop import train

    values = {**tiny_config(), "evals": {**evals, "end": {"name": "classification"}}}
    summary = train(build_experiment(values), tmp_path, jax.devices()[:1])
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = {key: [r["step"] for r in rows if key in r] for key in ("val/accuracy", "knn/accuracy", "end/accuracy")}
    assert steps == {"val/accuracy": [2, 4, 6], "knn/accuracy": [3, 6], "end/accuracy": [6]}
    assert {"val/accuracy", "knn/accuracy", "end/accuracy"} <= set(summary)

    changed = json.loads(json.dumps(values))
    changed["evals"]["val"]["every"] = 1
    assert differences(changed, values) == [], "a run goes on with another schedule"
    changed["evals"]["knn"]["k"] = 1
    assert differences(changed, values) == ["evals.knn.k"]
    values["evals"]["val"]["every"] = 0
    with pytest.raises(UserError, match=r"config.evals.val.every is 0"):
        intervals(run_config(values))


def test_the_command_keeps_features(tmp_path, capsys):
    untrained(tmp_path / "run", tiny_config())
    argv = ["evaluate", "--checkpoint", str(tmp_path / "run"), "--cache", str(tmp_path / "cache")]
    argv += ["--config", str(tmp_path / "probe.py")]
    (tmp_path / "probe.py").write_text(
        f"def get_config(arg=''):\n    return {{**{tiny_config()!r}, 'evals': {dict(knn=PROBES['knn'])!r}}}\n"
    )
    assert main(argv) == 0
    first = capsys.readouterr().out
    kept = sorted((tmp_path / "cache").iterdir())
    assert len(kept) == 2 and "knn/accuracy" in first
    times = [path.stat().st_mtime_ns for path in kept]
    assert main(argv) == 0
    assert capsys.readouterr().out == first
    assert [path.stat().st_mtime_ns for path in kept] == times
