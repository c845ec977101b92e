"""What is read off weights and attention, against loops, closed forms and a model written out in NumPy."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.loaded import loaded_model
from vit_jax import UserError
from vit_jax.data.preprocess import Preprocess
from vit_jax.inspection import arrays, extract
from vit_jax.models import hybrid, vit
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.posemb import SINCOS2D

SIZE, GRID = (8, 12), (2, 3)


def loaded(seed=0, **kwargs):
    """A model of two layers on 2x3 patches, every parameter drawn at random."""
    kwargs = {"variant": "mu/4", "num_classes": 3, "width": 16, "depth": 2, "mlp_dim": 24, **kwargs}
    model = vit.build(**kwargs)
    shapes = init_shapes(lambda: model.init(jax.random.key(0), jnp.zeros((1, *SIZE, 3))))["params"]
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda x: (0.4 * rng.standard_normal(x.shape)).astype(np.float32), shapes)
    metadata = {"model": {"name": "vit", "kwargs": kwargs}}
    return loaded_model(model, params, ("a", "b", "c"), Preprocess(SIZE), metadata)


def images(n=2):
    return np.random.default_rng(7).standard_normal((n, *SIZE, 3)).astype(np.float32)


def random_weights(layers=2, batch=2, heads=3, tokens=7):
    weights = np.random.default_rng(1).random((layers, batch, heads, tokens, tokens)).astype(np.float32)
    return weights / weights.sum(axis=-1, keepdims=True)


# Filters and positions.


def test_components_span_the_filters_and_are_ordered():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((4 * 2 * 3, 3)))[0]
    filters = basis @ (np.array([[9.0], [3.0], [1.0]]) * rng.standard_normal((3, 500))) + 5.0  # the mean must not count
    components = arrays.filter_components(filters.reshape(4, 2, 3, 500).astype(np.float32), 3)
    assert components.shape == (3, 4, 2, 3)
    flat = components.reshape(3, -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(3), atol=1e-5)
    overlap = np.abs(flat @ basis)
    np.testing.assert_allclose(overlap, np.eye(3), atol=0.15)  # the strongest direction comes first
    np.testing.assert_allclose(np.linalg.norm(flat @ basis, axis=1), 1, atol=1e-4)


def test_components_have_one_sign_and_are_as_many_as_there_are():
    kernel = np.random.default_rng(0).standard_normal((4, 4, 3, 40)).astype(np.float32)
    components = arrays.filter_components(kernel)
    assert components.shape == (28, 4, 4, 3)
    np.testing.assert_allclose(arrays.filter_components(-kernel), components, atol=1e-5)
    flat = components.reshape(28, -1)
    assert (flat.max(axis=1) == np.abs(flat).max(axis=1)).all()
    assert arrays.filter_components(kernel[..., :5]).shape == (5, 4, 4, 3)
    assert arrays.filter_components(kernel[:2, :2]).shape == (12, 2, 2, 3)


def test_similarity_is_the_cosine():
    table = np.random.default_rng(0).standard_normal((2, 3, 5)).astype(np.float32)
    similarity = arrays.position_similarity(table)
    for a, b, i, j in itertools.product(range(2), range(3), range(2), range(3)):
        p, q = table[a, b], table[i, j]
        assert similarity[a, b, i, j] == pytest.approx(p @ q / math.sqrt((p @ p) * (q @ q)), abs=1e-6)
    assert np.isfinite(arrays.position_similarity(np.zeros((2, 3, 5), np.float32))).all()


# Attention.


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_distance_against_a_loop(prefix):
    weights, pixels = random_weights(tokens=6 + prefix), (4.0, 5.0)
    distance = arrays.mean_attention_distance(weights, GRID, pixels)
    places = [(4.0 * row, 5.0 * column) for row in range(2) for column in range(3)]
    expected = np.zeros((2, 3))
    for layer, image, head, query in itertools.product(range(2), range(2), range(3), range(6)):
        row = [float(weights[layer, image, head, prefix + query, prefix + key]) for key in range(6)]
        far = sum(a * math.dist(places[query], places[key]) for key, a in enumerate(row))
        expected[layer, head] += far / sum(row) / (2 * 6)
    np.testing.assert_allclose(distance, expected, rtol=1e-5)


def test_distance_of_known_patterns():
    tokens, identity = 7, np.eye(7, dtype=np.float32)
    uniform = np.full((tokens, tokens), 1 / tokens, np.float32)
    to_class = np.zeros((tokens, tokens), np.float32)
    to_class[:, 0] = 1
    weights = np.stack([identity, uniform, to_class])[None, None]
    # Ordered pairs of the 2x3 grid by their distance in patches: 6 zero, 14 of 1, 4 of 2, 8 of sqrt 2, 4 of sqrt 5.
    mean = (14 * 1 + 4 * 2 + 8 * math.sqrt(2) + 4 * math.sqrt(5)) / 36
    distance = arrays.mean_attention_distance(weights, GRID, (16, 16))
    np.testing.assert_allclose(distance, [[0, 16 * mean, 0]], rtol=1e-6)


def test_maps_are_rows_of_the_class_token_or_means():
    weights = random_weights()
    maps = arrays.query_maps(weights, GRID)
    assert maps.shape == (2, 2, 3, 2, 3)
    for row, column in itertools.product(range(2), range(3)):
        np.testing.assert_array_equal(maps[..., row, column], weights[..., 0, 1 + 3 * row + column])
    registers = arrays.query_maps(weights, GRID, class_token=False)
    np.testing.assert_allclose(registers[..., 1, 2], weights[..., 1:, 6].mean(axis=-1), rtol=1e-6)
    without = random_weights(tokens=6)
    np.testing.assert_allclose(arrays.query_maps(without, GRID)[..., 1, 2], without.mean(axis=-2)[..., 5])


def test_rollout_against_a_loop():
    weights = random_weights(layers=3)
    rollout = arrays.attention_rollout(weights)
    for image in range(2):
        expected = np.eye(7)
        for layer in range(3):
            mixing = weights[layer, image].astype(np.float64).mean(axis=0) / 2 + np.eye(7) / 2
            expected = mixing @ expected
        np.testing.assert_allclose(rollout[image], expected, rtol=1e-5)
    np.testing.assert_allclose(rollout.sum(axis=-1), 1, rtol=1e-5)
    identity = np.broadcast_to(np.eye(7, dtype=np.float32), (4, 2, 3, 7, 7))
    np.testing.assert_array_equal(arrays.attention_rollout(identity), identity[0, :, 0])


def test_a_grid_of_another_model():
    with pytest.raises(UserError, match="7 tokens are too few for 3x3 patches"):
        arrays.query_maps(random_weights(), (3, 3))


# Weights of a model.


def numpy_attention(loaded, images):
    """The attention weights of a ViT with a class token, straight from its parameters, in float64."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), loaded.params["encoder"])

    def norm(x, p):
        x = x - x.mean(axis=-1, keepdims=True)
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]

    def dense(x, p):
        return x @ p["kernel"] + p["bias"]

    result, (rows, columns) = [], GRID
    for image in images.astype(np.float64):
        patches = image.reshape(rows, 4, columns, 4, 3).transpose(0, 2, 1, 3, 4).reshape(rows * columns, 48)
        x = patches @ params["embedding"]["kernel"].reshape(48, -1) + params["embedding"]["bias"]
        x = x + params["pos_embedding"].reshape(rows * columns, -1)
        x = np.concatenate([(params["cls"] + params["cls_pos_embedding"])[0], x])
        layers = []
        for i in range(loaded.model.encoder.depth):
            block = params[f"block_{i:02d}"]
            y, p = norm(x, block["norm1"]), block["attention"]
            q, k, v = (
                np.einsum("td,dhe->hte", y, p[n]["kernel"]) + p[n]["bias"][:, None] for n in ("query", "key", "value")
            )
            logits = np.einsum("hte,hse->hts", q, k) / math.sqrt(q.shape[-1])
            weights = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
            layers.append(weights)
            x = x + np.einsum("hts,hse,hed->td", weights, v, p["out"]["kernel"]) + p["out"]["bias"]
            y = dense(norm(x, block["norm2"]), block["mlp"]["fc1"])
            y = 0.5 * y * (1 + np.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
            x = x + dense(y, block["mlp"]["fc2"])
        result.append(np.stack(layers))
    return np.stack(result, axis=1)


def test_weights_are_the_softmax_of_the_parameters():
    model, x = loaded(), images()
    weights = extract.attention_weights(model, x)
    assert weights.shape == (2, 2, 2, 7, 7) and weights.dtype == np.float32
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(weights, numpy_attention(model, x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("switch", [{"scan": True}, {"remat": "full"}, {"attention_implementation": "xla"}])
def test_however_the_model_is_run(switch):
    x = images()
    plain = extract.attention_weights(loaded(), x)
    np.testing.assert_allclose(extract.attention_weights(loaded(**switch), x), plain, rtol=1e-5, atol=1e-7)


def test_layers_are_in_order():
    model = loaded(depth=11)
    weights = extract.attention_weights(model, images(1))
    np.testing.assert_allclose(weights, numpy_attention(model, images(1)), rtol=1e-3, atol=1e-5)


def test_it_costs_nothing_when_off():
    model, x = loaded(), images()

    def forward(module):
        return lambda p: module.apply({"params": p}, x, train=False)

    off = jax.make_jaxpr(forward(model.model))(model.params)
    assert len(off.out_avals) == len(jax.eval_shape(forward(model.model), model.params))
    caught = functools.partial(model.model.apply, train=False, mutable=["intermediates"])
    _, sown = jax.eval_shape(caught, {"params": model.params}, x)
    assert not sown
    # Weights are divided by their sums, which the forward pass leaves to the smaller product with the values.
    assert str(off).count(" div ") < str(jax.make_jaxpr(forward(loaded(sow_attention=True).model))(model.params)).count(
        " div "
    )


def test_it_compiles_once():
    model = loaded()
    extract.attention_weights(model, images())
    before = extract.sown._cache_size()
    extract.attention_weights(model, images())
    assert extract.sown._cache_size() == before


@pytest.mark.long
@pytest.mark.parametrize(
    ("kwargs", "prefix"), [({}, 1), ({"pooling": "mean"}, 0), ({"pooling": "map", "posemb": "sincos2d"}, 0)]
)
def test_models_with_and_without_a_class_token(kwargs, prefix):
    model, x = loaded(**kwargs), images(1)
    grid = extract.patch_grid(model)
    weights = extract.attention_weights(model, x)
    assert grid == GRID and arrays.num_prefix_tokens(weights.shape[-1], grid) == prefix
    assert extract.patch_pixels(model) == (4, 4)
    assert extract.patch_kernel(model).shape == (4, 4, 3, 16)
    assert extract.position_table(model).shape == (*GRID, 16)
    assert (extract.pooling_weights(model, x) is None) == (kwargs.get("pooling") != "map")


@pytest.mark.parametrize("posemb", SINCOS2D)
def test_fixed_positions_are_those_of_their_dialect(posemb):
    """An encoder without blocks whose patches are embedded as zeros gives nothing but the positions."""
    model = loaded(posemb=posemb, pooling="mean", depth=0)
    nothing = jax.tree.map(jnp.zeros_like, {"params": model.params["encoder"]})
    tokens = model.model.encoder.apply(nothing, images(1), final_norm=False)
    np.testing.assert_allclose(extract.position_table(model).reshape(-1, 16), tokens[0], atol=1e-6)


@pytest.mark.parametrize("posemb", ["sincos2d", "sincos2d_mae", "learn"])
def test_a_hybrids_patches_are_cut_from_its_map(posemb):
    kwargs = {"width": 16, "depth": 1, "mlp_dim": 24, "num_heads": 2, "stage_sizes": (1,), "stem_width": 8,
              "num_groups": 4, "pooling": "mean", "num_classes": 3, "posemb": posemb}  # fmt: skip
    model, size = hybrid.build("R50+B/16", **kwargs), (16, 40)
    outputs, variables = init_shapes(model.init_with_output, jax.random.key(0), jnp.zeros((1, *size, 3)))
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), variables["params"])
    metadata = {"model": {"name": "hybrid", "kwargs": kwargs}}
    of_map = loaded_model(model, params, (), Preprocess(size), metadata)
    assert extract.patch_grid(of_map) == (4, 10) and outputs["tokens"].shape[1] == 40
    assert extract.patch_pixels(of_map) == (4, 4)
    assert extract.position_table(of_map).shape == (4, 10, 16)


def test_pooling_weights_pool_as_the_model_does():
    model, x = loaded(pooling="map"), images()
    weights = extract.pooling_weights(model, x)
    assert weights.shape == (2, 2, 6)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), model.params["pool"]["attention"])
    tokens = np.asarray(model.outputs(x)["tokens"], np.float64)
    q = np.einsum("d,dhe->he", model.params["pool"]["probe"][0, 0], params["query"]["kernel"]) + params["query"]["bias"]
    k = np.einsum("btd,dhe->bthe", tokens, params["key"]["kernel"]) + params["key"]["bias"]
    logits = np.einsum("he,bthe->bht", q, k) / math.sqrt(q.shape[-1])
    np.testing.assert_allclose(weights, np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True), rtol=1e-4)


class Convolutional(nn.Module):
    """A trunk without attention, patches or positions."""

    @nn.compact
    def __call__(self, images, *, train=False):
        x = nn.Conv(4, (3, 3), name="encoder")(images).mean(axis=(1, 2))
        return {"features": x}


def test_a_model_without_attention():
    model = Convolutional()
    params = model.init(jax.random.key(0), images(1))["params"]
    other = loaded_model(model, params, (), Preprocess(SIZE), {"model": {"name": "resnet", "kwargs": {}}})
    assert not extract.has_attention(other)
    with pytest.raises(UserError, match="'resnet' has no attention weights"):
        extract.attention_weights(other, images(1))
    with pytest.raises(UserError, match="'resnet' embeds no patches"):
        extract.patch_kernel(other)
    with pytest.raises(UserError, match="'resnet' has no position embeddings"):
        extract.position_table(other)
    with pytest.raises(UserError, match="'resnet' has no patches"):
        extract.patch_grid(other)
    assert extract.pooling_weights(other, images(1)) is None
