"""SAM: published sizes to the parameter, prompts and how many of them are padded, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.models import sam, vitdet
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.prompts import NOT_A_POINT, PADDING, PromptEncoder, box_corners, completed

TRUNK = {"name": "vitdet", "variant": "B/8", "width": 32, "depth": 2, "num_heads": 2, "mlp_dim": 48, "window_size": 3,
         "global_blocks": [1]}  # fmt: skip
TINY = {"trunk": TRUNK, "width": 16, "decoder_heads": 2, "decoder_mlp_dim": 24, "mask_channels": 4, "iou_hidden": 8}
# Parameters of encoder and neck, and multiply-adds of an image of 1024 pixels in billions, of segment_anything.
PUBLISHED = {"B/16": (89_670_912, 486), "L/16": (308_278_272, 1493), "H/16": (637_026_048, 2981)}


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("variant", ["B/16", *(pytest.param(v, marks=pytest.mark.slow) for v in ("L/16", "H/16"))])
def test_published_sizes(variant):
    parameters, billions = PUBLISHED[variant]
    model = sam.build({"name": "vitdet", "variant": variant})
    shapes = init_shapes(lambda: model.init(jax.random.key(0), jnp.zeros((1, 1024, 1024, 3))))
    params = shapes["params"]
    assert count(params["encoder"]) + count(params["neck"]) == parameters
    assert (count(params["prompts"]), count(params["decoder"])) == (6_220, 4_058_340)
    assert jax.tree.map(jnp.shape, shapes["constants"]) == {"prompts": {"fourier": (2, 128)}}
    assert round(model.flops((1024, 1024)) / 2e9) == billions


@pytest.mark.slow
def test_the_memory_of_an_image_of_1024_pixels_in_sam_b():
    """Nothing of the size of all pairs of places is ever there: one block's weights alone would be 805 MB."""
    model = sam.build({"name": "vitdet", "variant": "B/16"})
    images = jax.ShapeDtypeStruct((1, 1024, 1024, 3), jnp.float32)
    variables = init_shapes(model.init, jax.random.key(0), images)

    def run(variables, images, points, labels):
        return model.apply(variables, model.apply(variables, images, method="embed"), points, labels, method="predict")

    prompts = jax.ShapeDtypeStruct((1, 4, 2), jnp.float32), jax.ShapeDtypeStruct((1, 4), jnp.int32)
    temporaries = jax.jit(run).lower(variables, images, *prompts).compile().memory_analysis().temp_size_in_bytes
    print(f"\n{temporaries / 1e6:.0f} MB")
    assert temporaries < 4 * 12 * 4096**2 < 2.5e9


def drawn(shapes):
    """Every leaf random."""
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(1)
    return jax.tree.unflatten(tree, [jnp.asarray(0.7 * rng.normal(size=leaf.shape), jnp.float32) for leaf in leaves])


@pytest.fixture(scope="module")
def tiny():
    """A model that is jitted once for each shape of prompts, with every leaf drawn, and two embeddings 4x6."""
    model = sam.build(**TINY)
    images = np.random.default_rng(0).normal(size=(2, 32, 48, 3)).astype(np.float32)
    variables = drawn(init_shapes(lambda: model.init(jax.random.key(0), images)))
    embeddings = jax.jit(lambda v, x: model.apply(v, x, method="embed"))(variables, images)
    predict = jax.jit(lambda *prompts: model.apply(variables, embeddings, *prompts, method="predict"))
    return model, variables, embeddings, predict


POINTS = np.array([[[3.0, 5.0], [40.0, 20.0], [7.0, 30.0]], [[9.0, 9.0], [30.0, 2.0], [0.0, 0.0]]], np.float32)
LABELS = np.array([[1, 0, 4], [2, 3, -1]])


@pytest.mark.long
def test_an_answer_has_four_masks_at_four_times_the_sides(tiny):
    model, _, embeddings, predict = tiny
    masks, iou = predict(POINTS, LABELS)
    assert embeddings.shape == (2, 4, 6, 16) and masks.shape == (2, 4, 16, 24) and iou.shape == (2, 4)
    assert masks.dtype == iou.dtype == jnp.float32 and model.stride == 8


@pytest.mark.long
def test_answers_do_not_depend_on_how_many_slots_are_padded(tiny):
    _, _, _, predict = tiny
    masks, iou = predict(POINTS, LABELS)
    more = np.random.default_rng(0).uniform(0, 30, size=(2, 5, 2)).astype(np.float32)
    padded = predict(np.concatenate([POINTS, more], 1), np.concatenate([LABELS, np.full((2, 5), PADDING)], 1))
    scale = float(jnp.abs(masks).max())
    np.testing.assert_allclose(padded[0], masks, atol=2e-6 * scale)
    np.testing.assert_allclose(padded[1], iou, atol=1e-5)
    # What counts is seen.
    assert np.abs(predict(POINTS, np.where(LABELS == 4, -1, LABELS))[0] - masks).max() > 5e-5 * scale


@pytest.mark.long
def test_several_prompts_of_an_image_are_each_by_itself(tiny):
    _, _, _, predict = tiny
    rng = np.random.default_rng(0)
    points = np.stack([POINTS, POINTS + 3], axis=1)
    labels = np.stack([LABELS, LABELS[::-1]], axis=1)
    masks = rng.normal(size=(2, 2, 16, 24)).astype(np.float32)
    has_mask = np.array([[True, False], [False, True]])
    several = predict(points, labels, masks, has_mask)
    assert several[0].shape == (2, 2, 4, 16, 24) and several[1].shape == (2, 2, 4)
    for q in range(2):
        for found, wanted in zip(
            several, predict(points[:, q], labels[:, q], masks[:, q], has_mask[:, q]), strict=True
        ):
            np.testing.assert_allclose(found[:, q], wanted, atol=1e-4)
    # A mask that does not count is like none at all.
    none = predict(points[:, 1], labels[:, 1])
    np.testing.assert_allclose(several[0][0, 1], none[0][0], atol=1e-4)
    assert np.abs(several[0][1, 1] - none[0][1]).max() > 1e-2


def test_points_without_a_box_get_one_more_token():
    points = np.zeros((5, 2, 2), np.float32)
    labels = np.array([[1, -1], [2, 3], [-1, -1], [0, 4], [0, 1]])
    found = completed(points, labels)
    assert found[0].shape == (5, 3, 2)
    np.testing.assert_array_equal(found[1][:, 2], [NOT_A_POINT, PADDING, PADDING, PADDING, NOT_A_POINT])
    corners, kinds = box_corners(np.array([[1.0, 2.0, 5.0, 9.0]]))
    np.testing.assert_array_equal(corners, [[[1, 2], [5, 9]]])
    np.testing.assert_array_equal(kinds, [[2, 3]])


@pytest.mark.long
def test_positions_of_a_point_and_of_the_place_under_it_are_one():
    """The centre of a place is where a point at its middle pixel is: both are encoded alike."""
    encoder = PromptEncoder(8)
    grid, variables = encoder.init_with_output(jax.random.key(0), 3, 5, method="grid")
    x, y = 2 * 16 + 7.5, 1 * 16 + 7.5
    place = (np.array([x, y]) + 0.5) / np.array([80, 48])
    np.testing.assert_allclose(encoder.apply(variables, place, method="at"), grid[1, 2], atol=1e-5)


@pytest.mark.long
def test_a_text_is_a_token_of_one_linear_layer():
    model = sam.build(**TINY, text_width=5)
    embeddings = np.random.default_rng(0).normal(size=(2, 2, 2, 16)).astype(np.float32)
    points, labels = np.zeros((2, 1, 2), np.float32), np.full((2, 1), PADDING)
    text = np.random.default_rng(1).normal(size=(2, 5)).astype(np.float32)
    variables = drawn(init_shapes(lambda: model.init(jax.random.key(0), jnp.zeros((2, 16, 16, 3)))))
    assert variables["params"]["prompts"]["text"]["kernel"].shape == (5, 16)

    @jax.jit
    def iou(text, has_text):
        return model.apply(variables, embeddings, points, labels, None, None, text, has_text, method="predict")[1]

    both, first, none = (iou(text, np.array(there)) for there in ([True, True], [True, False], [False, False]))
    np.testing.assert_allclose(first, np.stack([both[0], none[1]]), atol=1e-5)
    assert np.abs(both - none).max(1).min() > 1e-3
    np.testing.assert_array_equal(iou(-text, np.zeros(2, bool)), none)
    with pytest.raises(UserError, match="5 wide, these are 4"):
        iou(text[:, :4], np.ones(2, bool))


def test_any_trunk_with_maps_can_be_the_encoder(tiny):
    model = sam.build(**{**TINY, "trunk": {"name": "vit", "variant": "mu/8", "pooling": "token"}})
    shapes = init_shapes(lambda: model.init(jax.random.key(0), jnp.zeros((1, 16, 24, 3))))
    assert model.stride == 8 and "cls" in shapes["params"]["encoder"]


def test_as_a_model_for_images_it_is_its_encoder(tiny):
    model, variables, _, _ = tiny
    images = np.random.default_rng(0).normal(size=(2, 32, 48, 3)).astype(np.float32)
    found = jax.jit(lambda v: model.apply(v, images, maps=True))(variables)
    assert found["features"].shape == (2, 32) and list(found["maps"]) == [8]
    trunk = vitdet.build(num_classes=0, **{k: v for k, v in TRUNK.items() if k != "name"})
    alone = jax.jit(lambda v: trunk.apply(v, images, maps=True))(
        {"params": {"encoder": variables["params"]["encoder"]}}
    )
    np.testing.assert_array_equal(alone["maps"][8], found["maps"][8])
    np.testing.assert_array_equal(found["tokens"], found["maps"][8].reshape(2, 24, 32))


def test_layers_have_all_parameters_of_the_trunk(tiny):
    model, variables, _, _ = tiny
    names = ["/".join(k.key for k in path) for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"])]
    beginnings = [begin for layer in model.layers() for begin in layer]
    assert beginnings == [f"encoder/{name}" for name in ("embedding", "pos_embedding", "block_00", "block_01")]
    for name in names:
        assert sum(f"{name}/".startswith(f"{begin}/") for begin in beginnings) == name.startswith("encoder/"), name


def test_published_sizes_have_a_global_block_at_the_end_of_each_quarter():
    for depth, last in ((12, (2, 5, 8, 11)), (24, (5, 11, 17, 23)), (32, (7, 15, 23, 31)), (2, (0, 1))):
        assert vitdet.default_global_blocks(depth) == last
    assert vitdet.turns((2, 5, 8, 11), 12) == (False, False, True)
    assert vitdet.turns((1,), 3) == (False, True, False)
    styles = vitdet.build("B/16", num_classes=0).encoder.styles
    assert [style.window_size for style in styles] == [14, 14, None]
    assert [style.windows((64, 64)).count * style.windows((64, 64)).tokens for style in styles] == [70**2, 70**2, 64**2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 12}, "A width of 12 does not divide into 2 heads"),
        ({"num_classes": 3}, "no head for classes"),
        ({"mask_channels": 6}, "6 channels for masks"),
        ({"trunk": {"name": "mixer", "variant": "B/16"}}, "not a trunk with maps"),
        ({"trunk": {**TRUNK, "global_blocks": [2]}}, "global_blocks names block 2 of 2"),
        ({"trunk": {**TRUNK, "windw_size": 2}}, "window_size"),
    ],
)
def test_what_cannot_be_built(change, message):
    with pytest.raises(UserError, match=message):
        sam.build(**{**TINY, **change})


def test_prompts_that_do_not_belong_to_the_images(tiny):
    _, _, _, predict = tiny
    for prompts, message in (
        ((POINTS[:1], LABELS[:1]), "no prompts for 2 images"),
        ((POINTS, LABELS[:, :2]), "no prompts for 2 images"),
        ((POINTS, LABELS, np.zeros((2, 4, 6))), r"Masks of shape \[2, 4, 6\] are no prompts here. Give \[2, 16, 24\]"),
    ):
        with pytest.raises(UserError, match=message):
            predict(*prompts)
    with pytest.raises(UserError, match="takes no text"):
        predict(POINTS, LABELS, None, None, np.zeros((2, 5)))
