"""Which parameters tensor parallelism splits, for models of every kind, and that their results stay."""

import chex
import jax
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec

from vit_jax import UserError
from vit_jax.naming import build_model
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.training.parameters import path_name
from vit_jax.training.sharding import make_mesh, state_sharding, tensor_axes

VIT = {"name": "vit", "variant": "mu/4", "pooling": "mean"}
MIXER = {"name": "mixer", "variant": "S/4", "width": 16, "depth": 1, "tokens_mlp_dim": 8, "channels_mlp_dim": 32}
BLOCK = {
    "attention/query/kernel": 1, "attention/key/kernel": 1, "attention/value/kernel": 1, "attention/out/kernel": 0,
    "attention/query/bias": 0, "attention/key/bias": 0, "attention/value/bias": 0,
    "mlp/fc1/kernel": 1, "mlp/fc1/bias": 0, "mlp/fc2/kernel": 0,
}  # fmt: skip


def split_axes(init, tensor=2):
    """The axis of each parameter that lies over `tensor`, and the shardings of all."""
    with tensor_axes() as axes:
        params = jax.eval_shape(lambda: init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32)))["params"]
    mesh = make_mesh({"data": 1, "tensor": tensor}, jax.devices()[:tensor])
    shardings = state_sharding({"params": params}, mesh, axes)["params"]
    leaves = jax.tree_util.tree_leaves_with_path(shardings)
    return {path_name(p): s.spec.index("tensor") for p, s in leaves if "tensor" in s.spec}, shardings


def below(prefix, axes):
    return {f"{prefix}/{name}": axis for name, axis in axes.items()}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (VIT, below("encoder/block_00", BLOCK)),
        (
            {**VIT, "qkv_bias": False},
            below("encoder/block_00", {k: a for k, a in BLOCK.items() if k[:9] != "attention" or "bias" not in k}),
        ),
        ({**VIT, "mlp": "swiglu"}, below("encoder/block_00", {**BLOCK, "mlp/gate/kernel": 1, "mlp/gate/bias": 0})),
        (
            MIXER,
            below(
                "encoder/block_00",
                {f"{m}/{k[4:]}": a for m in ("token_mixing", "channel_mixing") for k, a in BLOCK.items() if "mlp" in k},
            ),
        ),
        # Of a stem that has convolutions of the same name nothing is split: it has no second one that sums up.
        (
            {"name": "resnet", "variant": "50", "depths": [1, 1]},
            {f"encoder/stage{s}_unit01/conv{c}/kernel": 4 - c for s in (1, 2) for c in (1, 2)},
        ),
        (
            {"name": "bit", "variant": "R50x1", "stage_sizes": [1]},
            {f"encoder/stage1_unit01/conv{c}/kernel": 4 - c for c in (1, 2)},
        ),
    ],
    ids=["vit", "no_qkv_bias", "swiglu", "mixer", "resnet", "bit"],
)
def test_what_is_split(model, expected):
    assert split_axes(build_model(model, num_classes=3)[0].init)[0] == expected


def test_nothing_to_split_and_what_does_not_divide():
    with pytest.raises(UserError, match="No parameter of this model can be split"):
        split_axes(nn.Dense(4).init)
    with pytest.raises(UserError, match="heads or units, which does not divide over tensor=3"):
        split_axes(build_model(MIXER, num_classes=3)[0].init, tensor=3)


def test_two_devices_share_a_mixer():
    model, rng = build_model(MIXER, num_classes=3)[0], np.random.default_rng(0)
    images = rng.normal(size=(4, 8, 8, 3)).astype(np.float32)
    shapes = init_shapes(model.init, jax.random.key(0), images)["params"]
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32), shapes)
    _, shardings = split_axes(model.init)
    mesh = jax.tree.leaves(shardings)[0].mesh
    shared = jax.jit(model.apply, out_shardings=jax.NamedSharding(mesh, PartitionSpec()))
    shared = shared.lower({"params": jax.device_put(params, shardings)}, images).compile()
    assert "all-reduce" in shared.as_text()  # the halves of the hidden layers are added up
    found = shared({"params": jax.device_put(params, shardings)}, images)
    chex.assert_trees_all_close(found, jax.jit(model.apply)({"params": params}, images), atol=1e-4)


def test_a_size_of_fsdp_that_splits_nothing_is_refused_with_one_that_does():
    """As 2048 does with a ViT-B's matrices: each device would hold all parameters."""
    large = {"params": {"kernel": jax.ShapeDtypeStruct((1028, 1030), np.float32)}}
    with pytest.raises(UserError, match=r"divides over fsdp=8. Set config.mesh.fsdp=4 and leave"):
        state_sharding(large, make_mesh({"data": 1, "fsdp": 8}, jax.devices()), {})
    found = state_sharding(large, make_mesh({"data": 2, "fsdp": 4}, jax.devices()), {})
    assert found["params"]["kernel"].spec == PartitionSpec("fsdp", None)
    # What is small lies everywhere: a gather would cost more than the copy saves.
    small = {"params": {"kernel": jax.ShapeDtypeStruct((16, 16), np.float32)}}
    assert (
        "fsdp"
        not in state_sharding(small, make_mesh({"data": 1, "fsdp": 8}, jax.devices()), {})["params"]["kernel"].spec
    )
