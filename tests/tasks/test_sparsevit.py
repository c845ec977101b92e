"""Sparsity-aware adaptation: other ratios in each step, the same for the same seed and step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import tiny_config
from vit_jax.errors import UserError
from vit_jax.nn.classification_loss import classification_losses
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.training.config import load_config
from vit_jax.training.experiment import build_experiment
from vit_jax.training.parameters import by_name, leaf_names


def config(**overrides):
    """A sparse Swin of 16 and 4 windows on digits."""
    model = {
        "name": "sparse_swin",
        "width": 8,
        "depths": [1, 3],
        "num_heads": [2, 2],
        "patch_size": 1,
        "window_size": 2,
    }
    return {**tiny_config(**overrides), "model": model, "task": {"name": "sparsevit"}}


@functools.cache
def task():
    return build_experiment(config()).task


@pytest.mark.long
def test_each_step_has_ratios_of_its_own():
    ours = task()
    rng = np.random.default_rng(0)
    batch = {"image": rng.normal(size=(4, 8, 8, 3)).astype(np.float32), "label": np.arange(4)}
    shapes = init_shapes(ours.init, jax.random.key(0), batch)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes)

    @jax.jit
    def step(key):
        loss, (metrics, _) = ours.loss(variables, batch, key, jnp.int32(0))
        # All ratios from 0 to 0.8 of the first stage, and those that leave one of four windows in the second.
        return loss, metrics["pruned"]

    found = [jax.device_get(step(jax.random.key(i))) for i in (0, 1, 2, 0)]
    assert found[0] == found[3]
    assert len({float(loss) for loss, _ in found}) == 3 and len({float(total) for _, (total, _) in found}) == 3
    for _, (total, count) in found:
        assert count == 3 and 0 <= total <= 0.8 + 2 * 0.7 + 1e-6

    # No window left out is what Classify has: a loss apart from it says that some were.
    def dense(params):
        logits = ours.model.apply({"params": params}, batch["image"], train=False)["logits"]
        return classification_losses(
            logits, jax.nn.one_hot(batch["label"], logits.shape[1]), "softmax", None, 0.0
        ).mean()

    assert all(abs(loss - jax.jit(dense)(variables["params"])) > 1e-4 for loss, (total, _) in found if total > 0)


def test_a_model_without_windows_is_refused():
    with pytest.raises(UserError, match="model 'vit' has no windows that can be left out. Set .*=sparse_swin"):
        build_experiment(tiny_config(task__name="sparsevit"))
    with pytest.raises(UserError, match="label_smoothing is 2"):
        build_experiment(config() | {"task": {"name": "sparsevit", "label_smoothing": 2}})


@pytest.mark.parametrize("spec", ["garment_sparse:smoke", "sparsevit_i1k:init=x,smoke"])
def test_decay_is_for_neither_norms_nor_tables(spec):
    names = leaf_names(
        init_shapes(task().init, jax.random.key(0), {"image": np.zeros((1, 8, 8, 3), np.float32)})["params"]
    )
    factor = by_name(load_config(spec)["optim"]["weight_decay_multipliers"], names, "x")
    spared = {name for name in names if factor(name) == 0}
    assert spared == {name for name in names if "norm" in name or "relative_position_bias_table" in name}
    assert all(factor(name) == 1 for name in names if name not in spared) and len(spared) > 10


def test_adaptation_goes_on_with_the_head_of_the_dense_run():
    assert load_config("garment_sparse:stage=adapt,init=runs/dense,smoke")["init_from"].keys() == {"encoder", "head"}
    assert load_config("sparsevit_i1k:init=runs/swin,smoke")["init_from"].keys() == {"encoder", "head"}
