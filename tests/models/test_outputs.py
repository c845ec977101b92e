"""What every model gives under which names: tokens, features, maps where they are asked for, and its own count."""

import chex
import jax
import numpy as np
import pytest

from vit_jax.naming import build_model
from vit_jax.nn.flops import forward_flops, products_of
from vit_jax.nn.init_shapes import init_shapes

VIT = {"name": "vit", "variant": "mu/16"}
# By name: the model, and the channels of its maps by their strides.
MODELS = {
    "vit": ({**VIT, "num_registers": 2}, {16: 32}),
    "fc_norm": ({**VIT, "pooling": "mean", "fc_norm": True}, {16: 32}),
    "mae": ({"name": "mae", "trunk": VIT, "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2}, {16: 32}),
    "probed": ({"name": "probed", "trunk": VIT, "norm": "none"}, {16: 32}),
    "mixer": ({"name": "mixer", "variant": "S/16", "depth": 1}, {16: 512}),
    "hybrid": (
        {"name": "hybrid", "variant": "R50+Ti/16", "stage_sizes": [1, 1, 1], "depth": 1, "stem_width": 32},
        {4: 128, 8: 256, 16: 192},
    ),
    "root": ({"name": "hybrid", "variant": "R+Ti/16", "depth": 1, "stem_width": 32}, {4: 32, 32: 192}),
    "bit": (
        {"name": "bit", "variant": "R50x1", "stage_sizes": [1, 1, 1, 1], "width": 32},
        {4: 128, 8: 256, 16: 512, 32: 1024},
    ),
    "resnet": ({"name": "resnet", "variant": "18", "width": 8}, {4: 8, 8: 16, 16: 32, 32: 64}),
    "swin": (
        {"name": "swin", "variant": "T", "width": 16, "depths": [1, 2, 1, 1], "num_heads": [1, 2, 4, 8]},
        {4: 16, 8: 32, 16: 64, 32: 128},
    ),
    "efficientvit": (
        {"name": "efficientvit", "variant": "B1", "conv_implementation": "convolution"}
        | {"widths": [8, 8, 16, 32, 32], "head_width": 8, "head_widths": [40, 24]},
        {4: 8, 8: 16, 16: 32, 32: 32},
    ),
    "swin_v2": (
        {"name": "swin_v2", "variant": "T", "width": 16, "depths": [1, 2, 1, 1], "num_heads": [1, 2, 4, 8]},
        {4: 16, 8: 32, 16: 64, 32: 128},
    ),
    "cifar": ({"name": "resnet", "variant": "50", "depths": [1, 1], "width": 8, "stem": "cifar"}, {1: 32, 2: 64}),
}


@pytest.mark.parametrize("name", MODELS)
def test_names_and_maps(name):
    section, channels = MODELS[name]
    model = build_model(section, num_classes=0 if name == "mae" else 3)[0]
    images = jax.ShapeDtypeStruct((2, 64, 96, 3), np.float32)
    plain, variables = init_shapes(model.init_with_output, jax.random.key(0), images)
    asked = jax.eval_shape(lambda v, x: model.apply(v, x, maps=True), variables, images)
    assert set(plain) == {"tokens", "features"} | ({"logits"} if name != "mae" else set())
    assert {stride: leaf.shape for stride, leaf in asked.pop("maps").items()} == {
        stride: (2, 64 // stride, 96 // stride, width) for stride, width in channels.items()
    }
    chex.assert_trees_all_equal_shapes_and_dtypes(asked, plain)
    assert plain["tokens"].shape[::2] == (2, channels[max(channels)])


@pytest.mark.parametrize(
    ("model", "size", "expected"),
    [
        # Training GFLOP an image at 224 of the ViTs, three times forward; multiply-adds of the others in the papers.
        ({"name": "vit", "variant": "S/16"}, 224, 27.6 / 3),
        ({"name": "vit", "variant": "B/16"}, 224, 105.4 / 3),
        ({"name": "vit", "variant": "L/16"}, 224, 369.3 / 3),
        ({"name": "vit", "variant": "H/14"}, 224, 1004 / 3),
        ({"name": "resnet", "variant": "18"}, 224, 2 * 1.814),
        ({"name": "resnet", "variant": "50"}, 224, 2 * 4.09),
        ({"name": "resnet", "variant": "152"}, 224, 2 * 11.51),
        ({"name": "mixer", "variant": "B/16"}, 224, 2 * 12.6),
    ],
    ids=lambda value: value["name"] + str(value["variant"]) if isinstance(value, dict) else None,
)
def test_models_count_themselves(model, size, expected):
    found = forward_flops(build_model(model, num_classes=0)[0], (size, size))
    assert found / 1e9 == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("name", ["hybrid", "bit", "cifar", "mixer", "fc_norm", "swin", "swin_v2", "efficientvit"])
def test_counts_are_those_of_the_lowered_program(name):
    model = build_model(MODELS[name][0], num_classes=0)[0]
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    variables = init_shapes(model.init, jax.random.key(0), images)
    assert forward_flops(model, (64, 64)) == products_of(model.apply, variables, images)


def test_a_model_without_a_count_says_so():
    assert forward_flops(build_model(MODELS["probed"][0], num_classes=3)[0], (64, 64)) is None
