"""CLIP's ResNets: published sizes, how maps are halved, and errors; the forward pass is tested in parity/."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import UserError, naming
from vit_jax.models.clip_resnet import VARIANTS, build
from vit_jax.nn.bottleneck import averaged
from vit_jax.nn.init_shapes import init_shapes

TINY = {"variant": "RN50", "depths": [1, 2], "width": 8, "features": 6, "num_heads": 2}
# Parameters of the published models, and the widths of their text towers.
WHOLE = {
    "RN50": (102_007_137, 512), "RN101": (119_688_033, 512), "RN50x4": (178_300_601, 640),
    "RN50x16": (290_979_217, 768), "RN50x64": (623_258_305, 1024),
}  # fmt: skip


@pytest.mark.parametrize("variant", ["RN50", *(pytest.param(name, marks=pytest.mark.long) for name in [*WHOLE][1:])])
def test_published_sizes(variant):
    size = VARIANTS[variant]
    image = jax.ShapeDtypeStruct((1, size.image_size, size.image_size, 3), jnp.float32)
    params = init_shapes(build(variant, num_classes=0).init, jax.random.key(0), image)["params"]
    total, width = WHOLE[variant]
    blocks = 12 * (12 * width**2 + 13 * width)
    text = (49_408 + 77) * width + blocks + 2 * width + width * size.features + 1  # with projection and temperature
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == total - text


@pytest.mark.long
def test_outputs_and_flops():
    model = naming.build_named("model", {"name": "clip_resnet", **TINY, "num_classes": 3}, "config.model")
    images = np.random.default_rng(0).normal(size=(2, 32, 48, 3)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    found = jax.jit(model.apply, static_argnames="maps")(variables, images, maps=True)
    assert found["tokens"].shape == (2, 24, 64) and found["features"].shape == (2, 6) and not found["logits"].any()
    assert {stride: x.shape for stride, x in found["maps"].items()} == {4: (2, 8, 12, 32), 8: (2, 4, 6, 64)}
    pool = variables["params"]["pool"]
    assert set(pool) == {"pos_embedding", "mean_pos_embedding", "query", "key", "value", "out"}
    assert pool["pos_embedding"].shape == (4, 6, 64) and set(variables["batch_stats"]) == {"encoder"}
    # Counted by hand: the stem at 16x24 places, one unit at 8x12, and two of which the first halves.
    stem = 16 * 24 * (27 * 4 + 36 * 4 + 36 * 8)
    first = 8 * 12 * (8 * 8 + 72 * 8 + 8 * 32 + 8 * 32)
    halved = 8 * 12 * (32 * 16 + 144 * 16) + 4 * 6 * (16 * 64 + 32 * 64)
    last = 4 * 6 * (64 * 16 + 144 * 16 + 16 * 64)
    assert model.flops((32, 48)) == 2 * (stem + first + halved + last)
    with pytest.raises(UserError, match="a grid of 4x4 patches, but the parameters hold positions for 4x6"):
        jax.eval_shape(model.apply, variables, images[:, :, :32])


def test_every_place_counts_where_a_map_is_halved():
    x = np.arange(2 * 5 * 6, dtype=np.float32).reshape(2, 5, 6, 1)
    np.testing.assert_array_equal(averaged(x, 2), x[:, :4].reshape(2, 2, 2, 3, 2, 1).mean((2, 4)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "RN34"}, "no ResNet of CLIP named 'RN34'"),
        ({"width": 9}, "width of 9"),
        ({"depths": [1, 0]}, "make no ResNet of CLIP"),
        ({"num_heads": 3}, "64 channels do not divide into 3 heads"),
        ({"posemb_resize": "cubic"}, "posemb_resize"),
    ],
)
def test_what_is_no_such_network_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        build(**{**TINY, **changes}, num_classes=0)
