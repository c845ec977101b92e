"""Initial values of MAE and MoCo v3 against torch's rule for the matrices of the authors' code."""

import math

import jax
import numpy as np
import pytest

from vit_jax.naming import build_named
from vit_jax.nn.xavier import xavier_redrawn
from vit_jax.tasks import DataInfo
from vit_jax.training.parameters import leaf_names

VIT = {"name": "vit", "variant": "mu/4", "width": 64, "depth": 1, "num_heads": 4, "pooling": "token", "gelu": "exact"}
HEAD = {"name": "moco_v3", "hidden": 24, "out": 8}
TASKS = {
    "mae": ({"name": "mae", "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2}, "sincos2d_mae", (1, 16, 16, 3)),
    "moco_v3": (HEAD, "sincos2d_moco", (2, 2, 16, 16, 3)),
}  # fmt: skip


@pytest.mark.parametrize("fused", [True, False])
def test_bounds_by_hand(fused):
    """Of kernels alone, by their inputs and outputs; tokens by their names, biases nothing, norms as they were."""
    shapes = {"embedding": {"kernel": (4, 4, 3, 64)}, "query": {"kernel": (64, 4, 16), "bias": (4, 16)},
              "norm": {"scale": (64,)}, "cls": (1, 1, 640)}  # fmt: skip
    params = jax.tree.map(lambda shape: np.ones(shape, np.float32), shapes, is_leaf=lambda x: isinstance(x, tuple))
    redraw = jax.jit(lambda params: xavier_redrawn(params, jax.random.key(0), fused_qkv=fused, tokens={"cls": 0.02}))
    drawn = redraw(params)
    for name, inputs, outputs in (("embedding", 48, 64), ("query", 64, 192 if fused else 64)):
        bound = math.sqrt(6 / (inputs + outputs))
        assert 0.97 * bound < np.abs(drawn[name]["kernel"]).max() <= bound, name
    assert not drawn["query"]["bias"].any() and (drawn["norm"]["scale"] == 1).all()
    assert drawn["cls"].std() == pytest.approx(0.02, rel=0.1)


@pytest.mark.long
@pytest.mark.parametrize("name", TASKS)
def test_kernels_are_xaviers_and_tokens_normal(name):
    section, posemb, shape = TASKS[name]
    task = build_named("task", section, "config.task", model=VIT | {"posemb": posemb}, data=DataInfo((16, 16), ()))
    init = jax.jit(task.init)
    params = init(jax.random.key(0), {"image": np.zeros(shape, np.float32)})["params"]
    fused = 3 if name == "mae" else 1
    # Inputs and outputs of the matrices in PyTorch.
    fans = {
        "encoder/embedding/kernel": (4 * 4 * 3, 64),
        **{f"encoder/block_00/attention/{x}/kernel": (64, fused * 64) for x in ("query", "key", "value")},
        "encoder/block_00/attention/out/kernel": (64, 64),
        "encoder/block_00/mlp/fc1/kernel": (64, 128),
        "encoder/block_00/mlp/fc2/kernel": (128, 64),
    }
    if name == "mae":
        fans |= {
            "decoder/embedding/kernel": (64, 32),
            "decoder/block_00/attention/key/kernel": (32, 3 * 32),
            "decoder/prediction/kernel": (32, 4 * 4 * 3),
        }
    values = dict(zip(leaf_names(params), map(np.asarray, jax.tree.leaves(params)), strict=True))
    for parameter, (inputs, outputs) in fans.items():
        bound = math.sqrt(6 / (inputs + outputs))
        value = values[parameter]
        assert 0.97 * bound < np.abs(value).max() <= bound, parameter
        assert abs(value.std() / (bound / math.sqrt(3)) - 1) < 0.06 and abs(value.mean()) < 0.06 * bound, parameter
    trunk = [n for n in values if not n.startswith("pr")]
    assert all(not values[n].any() for n in trunk if n.endswith("bias"))
    assert all((values[n] == 1).all() for n in trunk if n.endswith("scale"))
    assert abs(values["encoder/cls"].std() / (0.02 if name == "mae" else 1e-6) - 1) < 0.3
    if name == "mae":
        assert abs(values["decoder/mask_token"].std() / 0.02 - 1) < 0.4
    again, other = (init(jax.random.key(seed), {"image": np.zeros(shape, np.float32)})["params"] for seed in (0, 1))
    np.testing.assert_array_equal(again["encoder"]["cls"], params["encoder"]["cls"])
    assert (other["encoder"]["cls"] != params["encoder"]["cls"]).all()
