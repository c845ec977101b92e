"""The mean of a run's last checkpoints."""

import jax
import numpy as np
import pytest

import vit_jax
from tests.tiny import tiny_config, tiny_run, untrained
from vit_jax import UserError
from vit_jax.checkpoints.average import read_averaged
from vit_jax.commands.main import main


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    tiny_run(folder, checkpoint__every=2, checkpoint__keep=3)
    return folder


@pytest.mark.long
def test_the_last_checkpoints_are_averaged(workdir):
    ours = vit_jax.load(workdir, average=2)
    four, six = (vit_jax.load(workdir / "checkpoints" / step) for step in ("4", "6"))
    assert ours.metadata["step"] == 6
    for mean, a, b in zip(*map(jax.tree.leaves, (ours.params, four.params, six.params)), strict=True):
        assert mean.dtype == np.float32
        np.testing.assert_allclose(mean, (np.float64(a) + np.float64(b)) / 2, rtol=1e-7)


@pytest.mark.long
@pytest.mark.parametrize(
    ("path", "count", "what"),
    [
        (".", "4", "has 3 checkpoints, and 4 are to be averaged"),
        (".", "1", "A mean of 1 checkpoints is none"),
        ("checkpoints/4", "2", "is a single checkpoint"),
    ],
)
def test_what_cannot_be_averaged(workdir, path, count, what, capsys):
    assert main(["evaluate", "--checkpoint", str(workdir / path), "--average", count]) == 2
    assert what in capsys.readouterr().err


def test_statistics_of_batches_are_not_averaged(tmp_path, monkeypatch):
    state = {"batch_stats": {"mean": np.zeros(2)}}
    monkeypatch.setattr("vit_jax.checkpoints.store.read_params", lambda *_: ({}, state))
    with pytest.raises(UserError, match="keeps statistics of its batches"):
        read_averaged([tmp_path, tmp_path], "params", True, dict)


def test_of_adapters_their_products_are_averaged(tmp_path):
    """The mean of A times the mean of B is another matrix."""
    for step in (1, 2):
        untrained(tmp_path, tiny_config(lora__rank=2, model__depth=1), step, signed=step == 1)
    one, two = (vit_jax.load(tmp_path / "checkpoints" / step).params for step in "12")
    mean = vit_jax.load(tmp_path, average=2).params
    jax.tree.map(lambda m, a, b: np.testing.assert_allclose(m, (a + b) / 2, rtol=1e-6, atol=1e-7), mean, one, two)
