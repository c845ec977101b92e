"""A Swin with other mixers: what each sees, and what it costs."""

import functools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.errors import UserError
from vit_jax.models import mixer_swin, swin
from vit_jax.nn.init_shapes import init_shapes

SMALL = dict(num_classes=3, width=8, depths=(2, 2), num_heads=(2, 2), window_size=4, patch_size=2)
IMAGE = np.random.default_rng(0).normal(size=(1, 16, 16, 3)).astype(np.float32)


@functools.cache
def shapes(model):
    return init_shapes(model.init, jax.random.key(0), IMAGE)


def test_shifted_is_swin():
    ours, theirs = mixer_swin.build(**SMALL), swin.build(**SMALL)
    assert shapes(ours) == shapes(theirs)
    programs = [str(jax.make_jaxpr(m.apply)(jax.tree.map(jnp.zeros_like, shapes(m)), IMAGE)) for m in (ours, theirs)]
    assert programs[0] == programs[1]


def test_what_tells_the_mixers_apart():
    """Tables, gathering, and operations: linear attention has the fewest, attention among all tokens the most."""
    models = {mixer: mixer_swin.build(**SMALL, mixer=mixer) for mixer in get_args(mixer_swin.Mixer)}
    found = {name: shapes(model)["params"]["encoder"]["stage_0"]["block_01"] for name, model in models.items()}
    tables = {name: block.get("relative_position_bias_table") for name, block in found.items()}
    assert {name: table and table.shape for name, table in tables.items()} == {
        "softmax": (15**2, 2), "window": (7**2, 2), "shifted": (7**2, 2), "linear": None, "multiscale": None,
    }  # fmt: skip
    assert "depthwise_5" in found["multiscale"]["attention"] and "depthwise_5" not in found["linear"]["attention"]
    flops = {name: model.encoder.flops((64, 64)) for name, model in models.items()}
    assert flops["linear"] < flops["multiscale"] < flops["softmax"]
    assert flops["linear"] < flops["window"] == flops["shifted"] < flops["softmax"]
    with pytest.raises(UserError, match="Unknown mixer 'shift'. Did you mean 'shifted'"):
        mixer_swin.build(**SMALL, mixer="shift")


@pytest.mark.parametrize(("mixer", "sees"), [("window", 16), ("linear", 64)])
def test_what_a_token_sees(mixer, sees):
    """Of 64 tokens those of its window, in however many blocks; by linear attention all."""
    model = mixer_swin.build(**SMALL | {"depths": (2,), "num_heads": (2,)}, mixer=mixer)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda x: rng.uniform(0.2, 1, x.shape).astype(x.dtype), shapes(model))
    gradient = jax.jit(jax.grad(lambda x: model.apply(variables, x)["tokens"][0, 0, 0]))(IMAGE)
    tokens = np.abs(np.asarray(gradient)).reshape(8, 2, 8, 2, 3).sum((1, 3, 4))
    assert (tokens > 0).sum() == sees and (tokens[:4, :4] > 0).all()
