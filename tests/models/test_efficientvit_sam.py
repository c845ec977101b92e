"""EfficientViT-SAM: published sizes, points in SAM's frame, and what goes on from its encoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.models import efficientvit, efficientvit_sam
from vit_jax.naming import build_model
from vit_jax.nn.init_shapes import init_shapes

# Parameters of the whole model, and multiply-adds of an image's embedding in billions (the authors' README: 34.8 M and
# 35 G, 47.7 M and 49 G, 61.3 M and 69 G, 117.0 M and 185 G, 203.3 M and 322 G), counted in their package.
PUBLISHED = {
    "L0": (34_792_784, 34.8), "L1": (47_650_128, 49.0), "L2": (61_328_592, 68.6), "XL0": (116_957_904, 184.8),
    "XL1": (203_346_128, 321.9),
}  # fmt: skip
TINY = {
    "variant": "L0", "widths": [4, 4, 8, 8, 16], "depths": [1, 1, 1, 1, 1], "head_width": 8, "neck_width": 8,
    "neck_depth": 2, "embedding_size": 4, "width": 16, "decoder_heads": 2, "decoder_mlp_dim": 24, "mask_channels": 4,
    "iou_hidden": 8,
}  # fmt: skip


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    "variant", ["L0", "XL0", *(pytest.param(v, marks=pytest.mark.slow) for v in ("L1", "L2", "XL1"))]
)
def test_published_sizes(variant):
    parameters, billions = PUBLISHED[variant]
    model = efficientvit_sam.build(variant)
    side = efficientvit_sam.VARIANTS[variant].image_size
    shapes = init_shapes(lambda: model.init(jax.random.key(0), jnp.zeros((1, side, side, 3))))
    assert count(shapes["params"]) == parameters
    assert round(model.flops((side, side)) / 2e9, 1) == billions


@pytest.fixture(scope="module")
def tiny():
    """A model with every leaf drawn, and what it makes of two images."""
    model = efficientvit_sam.build(**TINY)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    shapes = init_shapes(lambda: model.init(jax.random.key(0), images))
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda leaf: rng.uniform(-0.5, 0.5, leaf.shape).astype(np.float32), shapes)
    variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
    return model, variables, images


@pytest.mark.long
def test_statistics_of_encoder_and_neck_move_in_training(tiny):
    model, variables, images = tiny

    @jax.jit
    def both(variables):
        embed = {"method": "embed"}
        still = model.apply(variables, images, **embed)
        return still, model.apply(variables, images, train=True, mutable=["batch_stats"], **embed)

    still, (moving, changed) = both(variables)
    assert still.shape == moving.shape == (2, 4, 4, 16) and not np.allclose(still, moving)
    before, after = variables["batch_stats"], changed["batch_stats"]
    assert set(after) == {"encoder", "neck"}
    assert all(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True))


@pytest.mark.long
def test_points_are_in_sam_s_frame_whatever_the_image(tiny):
    """Images of 32 and 64 pixels have embeddings of 4x4, on which the frame has 16 pixels a place."""
    model, variables, images = tiny
    assert model.stride == 16
    larger = images.repeat(2, 1).repeat(2, 2)
    tokens = []

    @jax.jit
    def run(variables, images):
        embeddings = model.apply(variables, images, method="embed")
        points, labels = jnp.full((2, 1, 2), 31.5), jnp.ones((2, 1), jnp.int32)
        masks, _ = model.apply(variables, embeddings, points, labels, method="predict")
        middle = model.prompts.clone(parent=None).bind(prompts(variables)).at(jnp.array([0.5, 0.5]))
        token = model.prompts.clone(parent=None).bind(prompts(variables)).tokens(points, labels, (64, 64))[0]
        return masks, token[0, 0] - variables["params"]["prompts"]["kinds"][1], middle

    for seen in (images, larger):
        masks, token, middle = run(variables, seen)
        assert masks.shape == (2, 4, 16, 16)
        np.testing.assert_allclose(token, middle, atol=1e-5)
        tokens.append(np.asarray(masks))
    assert not np.allclose(*tokens)


def prompts(variables):
    return {kind: tree["prompts"] for kind, tree in variables.items() if "prompts" in tree}


def test_a_classifier_goes_on_from_the_encoder(tiny):
    """What `finetune` builds has its parameters, of the same shapes and by the same names."""
    _, variables, images = tiny
    section = efficientvit_sam.downstream(TINY)
    classifier = build_model(section, num_classes=3)[0]
    shapes = init_shapes(lambda: classifier.init(jax.random.key(0), images))
    assert jax.tree.map(jnp.shape, shapes["params"]["encoder"]) == jax.tree.map(
        jnp.shape, variables["params"]["encoder"]
    )
    assert classifier.encoder == efficientvit_sam.build(**TINY).encoder
    assert isinstance(classifier, efficientvit.EfficientViT) and not classifier.head_widths


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "L9"}, "no EfficientViT-SAM named 'L9'"),
        ({"variant": "B1"}, "no EfficientViT-SAM named 'B1'"),
        ({"num_classes": 2}, "no head for classes"),
        ({"width": 12}, "A width of 12 does not divide into 2 heads"),
    ],
)
def test_what_cannot_be_built(change, message):
    with pytest.raises(UserError, match=message):
        efficientvit_sam.build(**{**TINY, **change})
