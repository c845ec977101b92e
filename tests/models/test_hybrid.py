"""Hybrids: published sizes, the stem in a ViT with all of a ViT's options, errors; the numbers are in tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.errors import UserError
from vit_jax.models.hybrid import build, parse_variant, vit_arguments
from vit_jax.models.vit import ViT
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.parameter_count import parameter_count

KEY = jax.random.key(0, impl="rbg")
TINY = {"variant": "R26+mu/32", "stage_sizes": [1, 1], "stem_width": 8, "num_groups": 4, "num_classes": 3}


def images(height=32, width=48):
    return np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)


def random_params(model, images):
    """Large enough everywhere that every part reaches the output; without compiling `init`."""
    rng = np.random.default_rng(3)
    shapes = init_shapes(model.init, KEY, images)["params"]

    def draw(path, leaf):
        mean = 1.0 if path[-1].key == "scale" else 0.0
        return rng.normal(mean, 0.2, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


# Exact counts of the original repository at 224 pixels with 1000 classes.
@pytest.mark.parametrize(
    ("variant", "count"),
    [
        ("R+Ti/16", 6_337_704),
        ("R26+S/32", 36_431_912),
        ("R26+B/32", 101_383_976),
        ("R50+B/16", 98_659_112),
        ("R50+L/32", 328_994_856),
    ],
)
def test_parameter_counts(variant, count):
    assert parameter_count(build(variant, num_classes=1000), 224) == count


def test_the_tokens_of_r_ti_16_are_32_pixels_apart():
    model = build("R+Ti/16", num_classes=0)
    encoder = init_shapes(model.init, KEY, jnp.zeros((1, 224, 224, 3)))["params"]["encoder"]
    assert encoder["pos_embedding"].shape == (7, 7, 192)
    assert encoder["embedding"]["kernel"].shape == (8, 8, 64, 192)
    assert set(encoder["stem"]) == {"root_conv", "root_norm"}


def test_it_is_a_vit_on_a_map():
    model = build(**TINY)
    assert isinstance(model, ViT)
    params = random_params(model, images())
    encoder = params["encoder"]
    assert set(encoder["stem"]) == {"root_conv", "root_norm", "stage1_unit01", "stage2_unit01"}
    assert encoder["pos_embedding"].shape == (4, 6, 32)
    apply = jax.jit(lambda params: model.apply({"params": params}, images())["tokens"])
    tokens = apply(params)
    assert tokens.shape == (2, 1 + 4 * 6, 32)
    # The stem's parameters reach the output.
    encoder["stem"]["root_norm"]["bias"] += 1.0
    assert float(jnp.abs(apply(params) - tokens).max()) > 1e-3
    with pytest.raises(UserError, match="grid of 4x4 patches"):
        jax.eval_shape(model.apply, {"params": params}, images(32, 32))


@pytest.mark.parametrize(
    "option",
    [pytest.param({"remat": "full"}, marks=pytest.mark.slow), {"depth": 2, "scan": True, "remat": "dots"}],
    ids=str,
)
@pytest.mark.long
def test_options_of_the_vit_change_nothing_of_the_result(option):
    tiny = TINY | {"stage_sizes": [1]}
    plain, other = build(**tiny | {"depth": option.get("depth")}), build(**tiny | option)
    params = random_params(plain, images(16, 16))

    def gradient(model):
        def loss(params):
            return (model.apply({"params": params}, images(16, 16), train=True)["logits"] ** 2).sum()

        return jax.jit(jax.grad(loss))(params)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), gradient(plain), gradient(other))


def test_options_of_the_vit_arrive():
    model = build(**TINY, pooling="mean", gelu="exact", dropout_rate=0.1, dtype="bfloat16", posemb="sincos2d")
    encoder = model.encoder
    assert model.pooling == "mean" and not encoder.tokens.class_token and encoder.style.activation == "gelu_exact"
    assert encoder.style.dropout_rate == 0.1 and encoder.positions.posemb == "sincos2d"
    assert encoder.execution.dtype == encoder.stem.style.dtype == jnp.bfloat16
    variables = init_shapes(model.init, KEY, images())
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    assert jax.eval_shape(model.apply, variables, images())["tokens"].dtype == jnp.bfloat16


def test_arguments_of_the_vit_alone():
    vit = vit_arguments(TINY | {"weight_epsilon": 1e-8, "padding": "same", "gelu": "exact"})
    assert vit == {"variant": "mu/1", "num_classes": 3, "gelu": "exact"}


@pytest.mark.parametrize("wrong", ["R50+B", "B/16", "R51+B/16", "R26+B/16", "R50+/16", "R50+B/x"])
def test_unknown_variants(wrong):
    with pytest.raises(UserError, match="There is no hybrid"):
        parse_variant(wrong)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"dropout_rat": 0.1}, "'config.model.dropout_rat'.*'dropout_rate'"),
        ({"weight_epsilo": 0.1}, "'config.model.weight_epsilo'.*'weight_epsilon'"),
        ({"variant": "R50+X/16"}, "no ViT 'X/1'"),
    ],
)
def test_errors(kwargs, message):
    with pytest.raises(UserError, match=message):
        build(**TINY | kwargs)
