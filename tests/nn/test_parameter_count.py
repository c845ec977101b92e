"""The published sizes of the ViT, by their parameter counts; nothing is allocated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models.vit import VARIANTS, build
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.parameter_count import parameter_count


# Exact counts of the original repository at 224 pixels with 1000 classes; class token and 1+N learned positions.
@pytest.mark.parametrize(
    ("variant", "count"),
    [
        ("Ti/16", 5_717_416),
        ("S/16", 22_050_664),
        ("S/32", 22_878_952),
        ("B/8", 86_576_872),
        ("B/16", 86_567_656),
        ("B/32", 88_224_232),
        ("L/16", 304_326_632),
        ("L/32", 306_535_400),
        ("H/14", 632_045_800),
    ],
)
def test_parameter_counts_of_the_original_models(variant, count):
    assert parameter_count(build(variant, num_classes=1000), 224) == count


@pytest.mark.parametrize(("variant", "count"), [("S/16", 22_049_896), ("B/16", 86_566_120)])
def test_parameter_counts_without_a_class_token(variant, count):
    assert parameter_count(build(variant, num_classes=1000, pooling="mean"), 224) == count


# Printed digits of big_vision's models, in millions: mean pooling, attention pooling.
@pytest.mark.parametrize(
    ("variant", "mean", "map_"),
    [
        ("Ti/16", "5.717", "6.162"),
        ("S/16", "22.05", "23.82"),
        ("M/16", "38.84", "41.99"),
        ("B/16", "86.57", "93.65"),
        ("L/16", "304.3", "316.9"),
        ("So400m/14", "413.6", "428.8"),
        ("H/14", "632.0", "651.7"),
        ("g/14", "1012.6", "1037.9"),
        ("G/14", "1844", "1883"),
        ("e/14", "3807", "3875"),
    ],
)
def test_parameter_counts_of_big_vision(variant, mean, map_):
    def sizes(depth):
        model = build(variant, num_classes=1000, pooling="map", depth=depth)
        params = init_shapes(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))["params"]
        return np.array([sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (params, params["pool"])])

    # Blocks are alike, so that two depths tell the rest; the original models above are traced whole.
    none, one = sizes(0), sizes(1)
    count, in_pool = none + VARIANTS[variant.partition("/")[0]].depth * (one - none)
    for printed, of_pooling in ((map_, count), (mean, count - in_pool)):
        decimals = len(printed.partition(".")[2])
        assert f"{of_pooling / 1e6:.{decimals}f}" == printed


@pytest.mark.parametrize(("representation_size", "count"), [(384, 22_122_472), (None, 21_974_632)])
def test_parameter_counts_of_the_better_baseline(representation_size, count):
    model = build("S/16", num_classes=1000, pooling="mean", posemb="sincos2d", representation_size=representation_size)
    assert parameter_count(model, 224) == count


def test_the_opt_sizes():
    g, big_g = VARIANTS["g-opt"], VARIANTS["G-opt"]
    assert (g.width, g.depth, g.mlp_dim, g.num_heads) == (1536, 40, 6144, 16)
    assert (big_g.width, big_g.depth, big_g.mlp_dim, big_g.num_heads) == (1536, 48, 8192, 16)
