"""Where layers of windows look, against loops over windows, and pictures of it."""

import dataclasses
import functools
import itertools
import math

import jax
import numpy as np
import pytest

from tests.loaded import loaded_model
from vit_jax.data.preprocess import Preprocess
from vit_jax.inspection import arrays, layers, linear, window_figures
from vit_jax.inspection.layers import Layer
from vit_jax.models import efficientvit, mixer_swin, sparse_swin, swin
from vit_jax.nn.init_shapes import init_shapes

SIZE = (48, 40)  # maps of 12x10 and 6x5 places: both are filled up to windows of 4x4
KWARGS = {"variant": "T", "num_classes": 3, "width": 8, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4}


@functools.cache
def made():
    """A Swin of two stages, its parameters drawn at random, and its layers for two images."""
    model = swin.build(**KWARGS)
    shapes = init_shapes(model.init, jax.random.key(0), np.zeros((1, *SIZE, 3), np.float32))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: (0.4 * rng.standard_normal(x.shape)).astype(np.float32), shapes)
    loaded = loaded_model(model, params, ("a", "b", "c"), Preprocess(SIZE), {"model": {"name": "swin"}})
    images = rng.standard_normal((2, *SIZE, 3)).astype(np.float32)
    return loaded, layers.window_layers(loaded, images)


def test_layers_of_windows_lie_where_they_are():
    loaded, found = made()
    assert layers.has_windows(loaded)
    assert [layer.name for layer in found] == [f"stage_{i}/block_{j:02d}" for i in range(2) for j in range(2)]
    assert [(layer.grid, layer.pixels) for layer in found] == [((12, 10), 4)] * 2 + [((6, 5), 8)] * 2
    assert [layer.weights.shape for layer in found] == [(2, 9, 1, 16, 16)] * 2 + [(2, 4, 2, 16, 16)] * 2
    for layer in found:
        np.testing.assert_allclose(layer.weights.sum(axis=-1), 1, atol=1e-5)
        # Each place of the map is in one window.
        centres = layer.queries[0][np.isfinite(layer.queries[0, ..., 0])]
        assert sorted(map(tuple, (centres / layer.pixels - 0.5).tolist())) == list(
            itertools.product(*map(range, layer.grid))
        )


def test_a_query_attends_to_its_window_alone():
    _, (plain, shifted, *_) = made()
    at = (4.0 * 5 + 2, 4.0 * 6 + 2)  # the place in row 5, column 6
    for layer, rows, columns in ((plain, slice(4, 8), slice(4, 8)), (shifted, slice(2, 6), slice(6, 10))):
        maps = layers.attended(layer, at)
        assert maps.shape == (2, 1, 12, 10)
        np.testing.assert_allclose(maps[:, :, rows, columns].sum(axis=(-2, -1)), 1, atol=1e-5)
        assert (maps[:, :, rows, columns] > 0).all()
        assert layer.groups[5, 6] == layer.groups[rows, columns].min() == layer.groups[rows, columns].max()
        assert (layer.groups == layer.groups[5, 6]).sum() == 16


@pytest.mark.long
def test_windows_that_are_left_out():
    """Of nine windows of the first stage four are computed, the second stage has all."""
    loaded, dense = made()
    model = sparse_swin.build(**KWARGS, pruning_ratios=[[0.5], [0.0]])
    loaded = loaded_model(model, loaded.params, ("a", "b", "c"), Preprocess(SIZE), {"model": None})
    images = np.random.default_rng(5).standard_normal((2, *SIZE, 3)).astype(np.float32)
    found = layers.window_layers(loaded, images)
    assert [layer.weights.shape[:2] for layer in found] == [(2, 4)] * 2 + [(2, 4)] * 2
    assert [layer.name for layer in found] == [layer.name for layer in dense]
    for layer, all_of_it in zip(found[:2], dense[:2], strict=True):
        assert layer.queries.shape == (2, 4, 16, 2) and layer.kept.shape == (2, 12, 10)
        for image in range(2):
            places = layer.queries[image][np.isfinite(layer.queries[image, ..., 0])]
            rows, columns = (places // 4).astype(int).T
            kept = np.zeros((12, 10), bool)
            kept[rows, columns] = True
            np.testing.assert_array_equal(layer.kept[image], kept)
            assert len(np.unique(all_of_it.groups[kept] // 9)) == 4, "whole windows"
    assert [layer.kept is None for layer in found] == [False, False, True, True]
    # What is asked lies in a window that is computed, the nearest one.
    np.testing.assert_allclose(layers.attended(found[0], (2.0, 2.0)).sum(axis=(-2, -1)), 1, atol=1e-5)


def test_pieces_of_a_window_that_came_around_are_apart():
    """In the corner the last shifted window has four pieces of the map, of which each sees itself alone."""
    _, (_, shifted, *_) = made()
    maps = layers.attended(shifted, (2.0, 2.0))
    np.testing.assert_allclose(maps[0, 0].sum(), 1, atol=1e-5)
    assert (
        maps[0, 0, :2, :2].sum() > 0.999
        and len({shifted.groups[0, 0], shifted.groups[0, 5], shifted.groups[5, 0]}) == 3
    )


def test_distance_against_a_loop():
    """Over the places of the map: what was filled up has none, and its weight is shared among the others."""
    _, found = made()
    for layer in found:
        expected = []
        for head in range(layer.weights.shape[2]):
            of_queries = []
            for image, window, query in itertools.product(*map(range, (*layer.weights.shape[:2], 16))):
                p, keys = layer.queries[0, window, query], layer.keys[0, window]
                if np.isfinite(p).all():
                    weights = layer.weights[image, window, head, query]
                    known = [k for k in range(16) if np.isfinite(keys[k]).all()]
                    total = sum(weights[k] for k in known)
                    of_queries.append(sum(weights[k] * math.dist(p, keys[k]) for k in known) / total)
            expected.append(np.mean(of_queries))
        np.testing.assert_allclose(layers.attention_distance(layer), expected, rtol=1e-4)


def test_one_group_is_a_vit():
    """The distance of one window with all tokens is that of a Vision Transformer, which has prefix tokens too."""
    rng = np.random.default_rng(1)
    weights = rng.random((2, 3, 7, 7)).astype(np.float32)
    weights /= weights.sum(axis=-1, keepdims=True)
    places = np.concatenate([[[np.nan, np.nan]], layers.centres((2, 3), 4)])[None, None]
    layer = Layer("block_00", weights[:, None], places, places, (2, 3), 4)
    expected = arrays.mean_attention_distance(weights[None], (2, 3), (4, 4))[0]
    np.testing.assert_allclose(layers.attention_distance(layer), expected, rtol=1e-5)
    np.testing.assert_allclose(layers.attended(layer, (6, 10))[1], weights[1, :, 6, 1:].reshape(3, 2, 3))


def test_borders_of_windows_are_drawn():
    tile = np.zeros((64, 64, 3), np.float32)
    groups = np.repeat([[0, 0, 1, 1]], 4, axis=0)
    drawn = window_figures.outlined(tile, groups).max(axis=-1) > 0
    assert drawn[:, 31:33].all() and not drawn[:, :31].any() and not drawn[:, 33:].any() and not tile.any()


def test_what_is_left_out_is_dark():
    image = np.full((40, 40, 3), 200, np.uint8)
    kept = np.zeros((4, 4), bool)
    kept[:2] = True
    (canvas,) = (
        np.asarray(drawn.get_array()) for drawn in window_figures.kept_figure(image, {"a": kept}).axes[0].images
    )
    light, dark = (np.isclose(canvas[..., 0], share * 200 / 255, atol=1e-3).sum() for share in (1.0, 0.2))
    assert light == 3 * dark > 0, "the image itself, and half of it"


@pytest.mark.long
def test_linear_attention_has_the_maps_that_it_never_computes():
    """Of both of its stages, each row a mixture; of one query the same row as among all."""
    kwargs = {"variant": "B0", "num_classes": 3, "widths": [8] * 5, "depths": [1] * 5, "head_width": 4}
    model, size = efficientvit.build(**kwargs), (96, 64)
    shapes = init_shapes(model.init, jax.random.key(0), np.zeros((1, *size, 3), np.float32))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: (0.5 * rng.standard_normal(x.shape)).astype(np.float32), shapes["params"])
    state = jax.tree.map(lambda x: np.ones(x.shape, np.float32), {"batch_stats": shapes["batch_stats"]})
    loaded = loaded_model(model, params, ("a", "b", "c"), Preprocess(size), {"model": None})
    loaded = dataclasses.replace(loaded, variables={"params": params, "model_state": state})
    assert linear.has_linear_attention(loaded) and not layers.has_windows(loaded)
    images = rng.standard_normal((2, *size, 3)).astype(np.float32)
    whole, one = (linear.linear_layers(loaded, images, at) for at in (None, (40.0, 8.0)))
    assert [(layer.grid, layer.pixels) for layer in whole] == [((6, 4), 16), ((3, 2), 32)]
    assert whole[0].name < whole[1].name
    for all_rows, row in zip(whole, one, strict=True):
        assert all_rows.weights.shape[:3] == (2, 1, 4)
        sums = all_rows.weights.sum(axis=-1)
        assert np.all((np.abs(sums - 1) < 1e-4) | (sums == 0)) and (sums > 0).mean() > 0.5
        maps = layers.attended(row, (40.0, 8.0))
        np.testing.assert_allclose(maps, layers.attended(all_rows, (40.0, 8.0)), rtol=1e-4)
        np.testing.assert_allclose(maps[:, 0].reshape(2, -1), row.weights[:, 0, 0, 0], rtol=1e-6)
    # With an epsilon that is felt, rows sum up to less, as they do in what the model computes.
    other = efficientvit.build(**kwargs, attention_epsilon=10.0)
    of_other = dataclasses.replace(
        loaded_model(other, params, ("a", "b", "c"), Preprocess(size), {"model": None}), variables=loaded.variables
    )
    first = linear.linear_layers(of_other, images)[0].weights.sum(axis=-1)
    assert 0.01 < first.max() < 0.999
    mixed = mixer_swin.build(mixer="linear", **KWARGS)
    fresh = init_shapes(mixed.init, jax.random.key(0), np.zeros((1, *SIZE, 3), np.float32))
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), fresh)
    of_mixer = loaded_model(mixed, zeros["params"], ("a", "b", "c"), Preprocess(SIZE), {"model": None})
    of_mixer = dataclasses.replace(of_mixer, variables={"params": zeros.pop("params"), "model_state": zeros})
    assert linear.has_linear_attention(of_mixer) and not layers.has_windows(of_mixer)
