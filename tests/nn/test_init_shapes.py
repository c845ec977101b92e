"""Shapes with equal parts traced once are those with every part traced."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from vit_jax.naming import named_module
from vit_jax.nn.init_shapes import init_shapes

TRACED = []
SMALL = {
    "vit": {"variant": "mu/4", "depth": 3, "drop_path_rate": 0.1, "remat": "full", "scan": True, "pooling": "map"},
    "mixer": {"variant": "S/16", "width": 16, "depth": 3},
    "swin": {"variant": "T", "width": 16, "depths": [2, 2], "num_heads": [1, 2], "patch_size": 2, "window_size": 2},
    "resnet": {"variant": "50", "width": 8, "stem": "cifar"},
    "gpt": {"vocab_size": 11, "width": 12, "depth": 3, "num_heads": 2, "max_length": 8},
}


@pytest.mark.parametrize("name", SMALL)
def test_shapes_are_those_of_the_whole_trace(name):
    model = named_module("model", name).build(**SMALL[name], **({} if name == "gpt" else {"num_classes": 3}))
    inputs = jnp.zeros((2, 5), jnp.int32) if name == "gpt" else jnp.zeros((2, 32, 32, 3))
    arguments = model.init_with_output, jax.random.key(0), inputs
    found, whole = init_shapes(*arguments), jax.eval_shape(*arguments)
    assert jax.tree.structure(found) == jax.tree.structure(whole)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)


class Grown(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x, times=1):
        TRACED.append((self.name, x.shape))
        mean = self.variable("statistics", "mean", lambda: jnp.zeros(x.shape[-1], jnp.bfloat16))
        return nn.Dense(self.features)(x)[:, : x.shape[1] // times] + mean.value.sum(), times


class Stacked(nn.Module):
    @nn.compact
    def __call__(self, x):
        for name, features, times in [("a", 4, 1), ("b", 4, 1), ("c", 4, 1), ("d", 5, 1), ("e", 5, 2), ("f", 5, 2)]:
            module = Grown(features, name=name)
            x, _ = module(x, times)
            if name in "bc":
                x, _ = module(x)
        return x


def test_a_module_is_traced_once_for_its_fields_and_arguments():
    """Another width, another input and another argument that is no array are other questions."""
    model, x = Stacked(), jnp.zeros((2, 8, 3))
    found = init_shapes(model.init, jax.random.key(0), x)
    # The second call of a module finds its variables; "c" is "b" again.
    assert "".join(name for name, _ in TRACED) == "abbcdef"
    assert found == jax.eval_shape(model.init, jax.random.key(0), x)


def test_what_is_jitted_keeps_its_values():
    """Zeros stand for them in shapes alone: JAX keeps the trace of a jitted function."""
    model = nn.Sequential([nn.Dense(3), nn.Dense(3), nn.Dense(3)])
    init = jax.jit(model.init)
    init_shapes(init, jax.random.key(0), jnp.ones((1, 3)))
    kernels = [layer["kernel"] for layer in init(jax.random.key(0), jnp.ones((1, 3)))["params"].values()]
    assert len({float(kernel.sum()) for kernel in kernels}) == 3
