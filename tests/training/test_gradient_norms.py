"""The norm of each layer's gradient, which shows where an instability starts."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import tiny_run
from vit_jax.training.metrics import read_metrics
from vit_jax.training.parameters import norms_by_layer


def test_norms_by_layer():
    tree = {"encoder": {"block_00": {"a": {"kernel": jnp.full(4, 3.0)}, "b": jnp.full(7, 2.0)}, "cls": jnp.ones(9)}}
    norms = norms_by_layer({**tree, "head": {"bias": jnp.full((2, 2), -1.0)}})
    assert {k: float(v) for k, v in norms.items()} == {"encoder/block_00": 8.0, "encoder/cls": 3.0, "head/bias": 2.0}


@pytest.mark.long
def test_they_are_logged_and_may_be_switched_on_later(tmp_path, capsys):
    tiny_run(tmp_path, stop_at=2)
    tiny_run(tmp_path, gradient_norms="true", log_every=1)
    rows = [row for row in read_metrics(tmp_path) if "train/loss" in row]
    prefix = "train/gradient_norm/"
    assert not any(key.startswith(prefix) for key in rows[0])
    layers = {key: value for key, value in rows[-1].items() if key.startswith(prefix)}
    assert {prefix + "encoder/embedding", prefix + "encoder/block_00", prefix + "head/kernel"} <= set(layers)
    np.testing.assert_allclose(np.sqrt(sum(v**2 for v in layers.values())), rows[-1]["train/gradient_norm"], rtol=1e-5)
    assert prefix.removeprefix("train/") not in capsys.readouterr().err
