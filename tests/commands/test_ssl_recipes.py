"""From a self-supervised checkpoint to a linear probe and to a fine-tuned model, by the shipped recipes, on digits."""

import json

import cv2
import jax
import numpy as np
import pytest

import vit_jax
from tests.tasks.test_mae import mae_run
from tests.tiny_contrastive import RESNET, VIT, contrastive_run
from vit_jax.checkpoints.steps import find
from vit_jax.checkpoints.store import read_params
from vit_jax.commands.main import main
from vit_jax.data.sources import digits

pytestmark = pytest.mark.slow

DIGITS = [
    "--config.data.train.name=digits", "--config.data.train.split=train", "--config.data.train.per_class=20",
    "--config.data.eval.name=digits", "--config.data.eval.split=test", "--config.data.eval.per_class=10",
    "--config.data.transform.area=(0.8, 1.0)", "--config.data.transform.flip=false", "--config.data.num_workers=0",
    "--config.batch_size=48", "--config.eval_every=none", "--config.checkpoint.every=none",
]  # fmt: skip


def train(spec, workdir, *more):
    assert main(["train", "--config", spec, "--workdir", str(workdir), *DIGITS, *more]) == 0
    return json.loads((workdir / "summary.json").read_text())


def probe(source, workdir, *more, method="mae"):
    steps = ["--config.steps=60", "--config.optim.schedule.warmup_steps=5"]
    return train(f"linear_probe:init={source},method={method},rate=1.0", workdir, *steps, *more)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("pretrained")
    contrastive_run(workdir, "simclr", VIT | {"dropout_rate": 0.3, "drop_path_rate": 0.3}, steps=30, batch_size=64)
    return workdir


def test_linear_probe(source, tmp_path, capsys):
    """It learns, leaves the trunk as it was, and its checkpoint serves every command."""
    summary = probe(source, tmp_path / "probe")
    missing = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("  missing"))
    assert "encoder" not in missing and missing.endswith("head/bias, head/kernel")
    assert summary["val/accuracy"] > 0.25, "a tenth by chance; the trunk has seen 30 steps"
    params, state = read_params(find(tmp_path / "probe"))
    jax.tree.map(np.testing.assert_array_equal, params["encoder"], read_params(find(source))[0]["encoder"])
    assert set(params) == {"encoder", "head"} and set(state) == {"batch_stats"}

    images = digits.build("test", per_class=1)
    paths = []
    for i in range(3):
        paths.append(str(tmp_path / f"{i}.png"))
        cv2.imwrite(paths[-1], images[i]["image"])
    loaded = vit_jax.load(tmp_path / "probe")
    batch = np.stack([loaded.preprocess(path) for path in paths])
    trunk, statistics = vit_jax.load(source), state["batch_stats"]["head_norm"]
    features = (trunk.features(batch) - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-6)
    logits = features @ np.asarray(params["head"]["kernel"]) + params["head"]["bias"]
    np.testing.assert_allclose(loaded.logits(batch), logits, rtol=1e-3, atol=1e-3)

    output = str(tmp_path / "out")
    assert main(["evaluate", "--checkpoint", str(tmp_path / "probe"), "--output", output]) == 0
    assert json.loads((tmp_path / "out").read_text())["val/accuracy"] == summary["val/accuracy"]
    assert main(["predict", "--checkpoint", str(tmp_path / "probe"), *paths, "--output", output]) == 0
    answers = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [a["predictions"][0][0] for a in answers] == [loaded.labels[i] for i in logits.argmax(1)]


def test_linear_probe_of_a_resnet(tmp_path):
    """The trunk's running statistics come with its parameters and stay what they were."""
    contrastive_run(tmp_path / "pretrained", "simclr", RESNET, steps=6, batch_size=32)
    probe(tmp_path / "pretrained", tmp_path / "probe", "--config.steps=8", method="simclr")
    before, after = (read_params(find(tmp_path / name)) for name in ("pretrained", "probe"))
    jax.tree.map(np.testing.assert_array_equal, after[0]["encoder"], before[0]["encoder"])
    statistics = [state["batch_stats"]["encoder"] for _, state in (before, after)]
    assert any(np.asarray(leaf).any() for leaf in jax.tree.leaves(statistics[0]["norm1"]["mean"]))
    jax.tree.map(np.testing.assert_array_equal, *statistics)
    assert set(after[1]["batch_stats"]) == {"encoder"}


def test_a_probe_goes_on_where_it_was_stopped(source, tmp_path):
    for name, stops in (("whole", [12]), ("parts", [5, 12])):
        for stop in stops:
            probe(source, tmp_path / name, "--config.steps=12", f"--config.stop_at={stop}")
    both = [read_params(find(tmp_path / name)) for name in ("whole", "parts")]
    jax.tree.map(np.testing.assert_array_equal, *both)


def test_from_mae_to_a_probe_and_a_fine_tuned_model(tmp_path, capsys):
    """The decoder is left behind; the encoder is fine-tuned without its final norm, in full."""
    mae_run(tmp_path / "mae", steps=10, batch_size=32)
    probe(tmp_path / "mae", tmp_path / "probe", "--config.steps=6")
    before = read_params(find(tmp_path / "mae"))[0]["encoder"]
    jax.tree.map(np.testing.assert_array_equal, read_params(find(tmp_path / "probe"))[0]["encoder"], before)

    steps = ["--config.steps=3", "--config.optim.schedule.warmup_steps=1"]
    capsys.readouterr()
    train(f"mae_finetune:init={tmp_path}/mae", tmp_path / "tuned", *steps)
    report = capsys.readouterr().err.split("init_from")[1].splitlines()
    assert report[2].split() == ["missing", "0"] and report[3].endswith("encoder/norm (2 arrays)")
    params, state = read_params(find(tmp_path / "tuned"))
    assert set(params) == {"encoder", "fc_norm", "head"} and "norm" not in params["encoder"] and not state
    before.pop("norm")
    moved = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - b).max()), params["encoder"], before)
    assert all(0 < size < 0.01 for size in jax.tree.leaves(moved)), moved
    model = vit_jax.load(tmp_path / "tuned").model
    assert model.encoder.positions.posemb == "sincos2d_mae" and model.encoder.tokens.class_token and model.fc_norm
