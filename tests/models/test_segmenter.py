"""A segmenter's parts: which maps a head takes, what it makes of them, and what it counts of itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.errors import UserError
from vit_jax.models import segmenter
from vit_jax.models.segmenter_variants import EFFICIENTVIT
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.resize import resize_bilinear
from vit_jax.nn.upernet import adaptive_mean

VIT = {"name": "vit", "variant": "mu/4", "depth": 2, "pooling": "mean"}
SWIN = {"name": "swin", "variant": "T", "width": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 2}
IMAGES = np.random.default_rng(0).normal(size=(2, 32, 48, 3)).astype(np.float32)


def made(trunk, head, num_classes=3, seed=0):
    """A model with random parameters and statistics, and what it gives."""
    model = segmenter.build(trunk, head, num_classes=num_classes)
    shapes = init_shapes(lambda: model.init(jax.random.key(0), IMAGES))
    rng = np.random.default_rng(seed)
    variables = jax.tree.map(lambda leaf: rng.uniform(0.1, 0.9, leaf.shape).astype(np.float32), shapes)
    return model, variables


def test_a_linear_head_is_a_batch_norm_and_a_matrix_on_the_last_layers():
    """Against NumPy, on what the blocks give: the last two, each through the trunk's last norm."""
    model, variables = made(VIT, {"name": "linear", "last": 2})

    @jax.jit
    def run(variables):
        found, hidden = model.apply(variables, IMAGES, maps=True, mutable=["hidden"])
        normed = model.encoder.clone(parent=None).apply
        alone = normed({"params": variables["params"]["encoder"]}, IMAGES, method="encode")
        return found, hidden["hidden"]["encoder"]["layers"][0], alone

    found, layers, (tokens, maps) = run(variables)
    np.testing.assert_allclose(found["tokens"], tokens, atol=1e-5)
    (stride,) = found["maps"]
    width = model.encoder.width
    assert found["maps"][stride].shape == (2, 8, 12, 2 * width)
    np.testing.assert_allclose(found["maps"][stride][..., width:], maps[stride], atol=1e-5)
    norm, before = variables["params"]["encoder"]["norm"], np.asarray(layers[-2], np.float64)
    before = (before - before.mean(-1, keepdims=True)) / np.sqrt(before.var(-1, keepdims=True) + 1e-6)
    before = before * norm["scale"] + norm["bias"]
    np.testing.assert_allclose(found["maps"][stride][..., :width], before.reshape(2, 8, 12, width), atol=1e-4)
    head, statistics = variables["params"]["head"], variables["batch_stats"]["head"]["norm"]
    x = (np.asarray(found["maps"][stride]) - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-5)
    x = x * head["norm"]["scale"] + head["norm"]["bias"]
    wanted = x @ head["classifier"]["kernel"][0, 0] + head["classifier"]["bias"]
    np.testing.assert_allclose(found["mask_logits"], wanted, rtol=1e-4, atol=1e-4)
    assert found["mask_logits"].dtype == jnp.float32


@pytest.mark.long
def test_a_linear_head_puts_maps_of_several_sizes_together_at_the_finest():
    model, variables = made(SWIN, {"name": "linear", "last": 3})
    found = jax.jit(lambda v: model.apply(v, IMAGES, maps=True))(variables)
    maps = {stride: np.asarray(of) for stride, of in found["maps"].items()}
    assert sorted(maps) == [4, 8, 16, 32]
    joined = [
        np.stack([resize_bilinear(of, (4, 6), align_corners=False) for of in maps[stride]]) for stride in (8, 16, 32)
    ]
    x, head = np.concatenate(joined, axis=-1), variables["params"]["head"]
    statistics = variables["batch_stats"]["head"]["norm"]
    x = (x - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-5) * head["norm"]["scale"] + head["norm"]["bias"]
    wanted = x @ head["classifier"]["kernel"][0, 0] + head["classifier"]["bias"]
    np.testing.assert_allclose(found["mask_logits"], wanted, rtol=1e-4, atol=1e-4)


def test_a_segmenter_counts_its_trunk_and_its_head():
    model = segmenter.build(VIT, {"name": "linear", "last": 2}, num_classes=5)
    width, places = model.encoder.width, 8 * 12
    assert model.flops((32, 48)) == model.encoder.flops((32, 48)) + 2 * places * 2 * width * 5
    assert model.layers()[0][0].startswith("encoder/")


@pytest.mark.parametrize(
    "trunk, head, message",
    [
        (VIT, {"name": "linaer"}, "Did you mean 'linear'"),
        (VIT, {"name": "linear", "last": 0}, "config.model.head.last is 0"),
        (VIT, {"name": "linear", "lest": 2}, "config.model.head.lest"),
        ({"name": "probed", "trunk": VIT}, {"name": "linear"}, "'probed' is no trunk with maps"),
    ],
)
def test_what_cannot_be_a_segmenter_is_said(trunk, head, message):
    with pytest.raises(UserError, match=message):
        segmenter.build(trunk, head, num_classes=3)


def test_more_maps_than_there_are_is_said():
    model = segmenter.build(SWIN, {"name": "linear", "last": 5}, num_classes=3)
    with pytest.raises(UserError, match="cannot take the last 5 of 4 maps"):
        init_shapes(lambda: model.init(jax.random.key(0), IMAGES))


def counted(trunk, head, num_classes, size):
    """Parameters, and products of one image in billions."""
    model = segmenter.build(trunk, head, num_classes=num_classes)
    shapes = init_shapes(lambda: model.init(jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32)))["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(shapes)), model.flops(size) / 2e9


# What the authors' README prints as 0.7M and 4.4G, and so on; the exact numbers are those of their code.
PUBLISHED = {
    ("B0", "cityscapes"): (706_691, 4.39),
    ("B1", "cityscapes"): (4_803_443, 25.1),
    ("B2", "cityscapes"): (15_323_779, 73.6),
    ("B3", "cityscapes"): (39_603_155, 179),
    ("L1", "cityscapes"): (40_242_227, 282),
    ("L2", "cityscapes"): (52_607_923, 396),
    ("B1", "ade20k"): (4_791_414, 3.09),
    ("B2", "ade20k"): (15_293_382, 9.08),
    ("B3", "ade20k"): (39_546_198, 22.2),
    ("L1", "ade20k"): (40_409_526, 36.3),
    ("L2", "ade20k"): (51_462_454, 45.2),
}


@pytest.mark.parametrize(
    "variant, data", [pytest.param(*k, marks=[] if k[0] == "B0" else pytest.mark.slow) for k in PUBLISHED]
)
def test_efficientvit_seg_has_the_published_sizes(variant, data):
    classes, size = {"cityscapes": (19, (1024, 2048)), "ade20k": (150, (512, 512))}[data]
    head = {"name": "efficientvit", **EFFICIENTVIT[variant, data]}
    params, products = counted({"name": "efficientvit", "variant": variant}, head, classes, size)
    wanted, giga = PUBLISHED[variant, data]
    assert params == wanted
    assert float(f"{products:.3g}") == giga


@pytest.mark.long
def test_upernet_learns_by_a_second_answer_in_training_alone():
    head = {"name": "upernet", "width": 8, "auxiliary_width": 6}
    model = segmenter.build(SWIN, head, num_classes=3)
    shapes = init_shapes(lambda: model.init(jax.random.key(0), IMAGES))
    train = jax.eval_shape(lambda v: model.apply(v, IMAGES, train=True, mutable=["batch_stats"])[0], shapes)
    plain = jax.eval_shape(lambda v: model.apply(v, IMAGES), shapes)
    assert train["auxiliary_logits"].shape == (2, 2, 3, 3) and "auxiliary_logits" not in plain
    assert train["mask_logits"].shape == plain["mask_logits"].shape == (2, 8, 12, 3)
    maps = {4: (8, 12, 8), 8: (4, 6, 16), 16: (2, 3, 32), 32: (1, 2, 64)}
    assert model.map_shapes((32, 48)) == maps
    # Pooling, bottleneck, three laterals and outputs, the sum of channels, the classes.
    wanted = (1 + 4 + 9 + 36) * 64 * 8 + 2 * 9 * (64 + 4 * 8) * 8
    wanted += sum(h * w * (c * 8 + 9 * 8 * 8) for h, w, c in list(maps.values())[:3]) + 96 * (9 * 4 * 8 * 8 + 8 * 3)
    assert model.head.flops(maps) == 2 * wanted


def test_means_of_parts_overlap_where_they_do_not_divide_the_map():
    """PyTorch's adaptive pooling, by a loop."""
    x = np.random.default_rng(0).normal(size=(1, 7, 5, 2)).astype(np.float32)
    found = adaptive_mean(x, 3)
    for i in range(3):
        rows = slice(i * 7 // 3, -(-(i + 1) * 7 // 3))
        for j in range(3):
            part = x[0, rows, j * 5 // 3 : -(-(j + 1) * 5 // 3)]
            np.testing.assert_allclose(found[0, i, j], part.mean((0, 1)), atol=1e-6)
