"""Bilinear resizing against SciPy and jax.image, and position embeddings."""

import functools

import jax
import numpy as np
import pytest
import scipy.ndimage

from vit_jax.errors import UserError
from vit_jax.models.vit import Positions, Tokens, ViTEncoder
from vit_jax.nn.posemb import RESIZES, SINCOS2D, interpolate_posemb, sincos2d
from vit_jax.nn.resize import (
    area_weights,
    cubic_weights,
    linear_weights,
    nearest_weights,
    resample_kernel,
    resize_bilinear,
    resize_maps,
)
from vit_jax.nn.style import BlockStyle

GRIDS = [((14, 14), (24, 24)), ((24, 24), (14, 14)), ((7, 9), (12, 5)), ((3, 4), (1, 8)), ((1, 2), (3, 3))]


def grid_of(hw, width=3):
    return np.random.default_rng(0).normal(size=(*hw, width)).astype(np.float32)


@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_align_corners_is_scipy_zoom(old, new):
    grid = grid_of(old)
    expected = scipy.ndimage.zoom(grid, (new[0] / old[0], new[1] / old[1], 1), order=1)
    assert expected.shape == (*new, 3)
    np.testing.assert_allclose(interpolate_posemb(grid, new), expected, atol=1e-5)


@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_half_pixel_is_jax_image_resize(old, new):
    grid = grid_of(old)
    expected = jax.image.resize(grid, (*new, 3), "linear", antialias=False)
    np.testing.assert_allclose(interpolate_posemb(grid, new, "half_pixel"), expected, atol=1e-5)


def test_the_two_conventions_differ():
    grid = grid_of((14, 14))
    assert np.abs(interpolate_posemb(grid, (24, 24)) - interpolate_posemb(grid, (24, 24), "half_pixel")).max() > 0.3


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("old", "new"), [(14, 24), (24, 14), (5, 5), (4, 1), (1, 4)])
def test_weights_sum_to_one(old, new, align_corners):
    weights = linear_weights(old, new, align_corners)
    assert weights.shape == (new, old)
    np.testing.assert_allclose(weights.sum(1), 1.0, rtol=1e-12)
    if old == new:
        np.testing.assert_array_equal(weights, np.eye(old))


def test_area_averages_and_nearest_repeats():
    np.testing.assert_array_equal(area_weights(4, 2), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])
    third = 1 / 3
    np.testing.assert_allclose(area_weights(4, 3), [[0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0.5, 0.5]])
    np.testing.assert_allclose(area_weights(5, 2), [[third, third, third, 0, 0], [0, 0, third, third, third]])
    np.testing.assert_array_equal(area_weights(2, 4), nearest_weights(2, 4))
    np.testing.assert_array_equal(nearest_weights(2, 4) @ [5, 7], [5, 5, 7, 7])
    np.testing.assert_array_equal(nearest_weights(5, 2) @ np.arange(5), [0, 2])
    for weights in (area_weights(16, 13), nearest_weights(16, 13)):
        assert weights.shape == (13, 16)
        np.testing.assert_allclose(weights.sum(1), 1.0, rtol=1e-12)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(("old", "new"), [(14, 24), (24, 14), (5, 5), (4, 1), (1, 4), (37, 16)])
def test_cubic_weights_sum_to_one(old, new, antialias):
    weights = cubic_weights(old, new, antialias)
    assert weights.shape == (new, old)
    np.testing.assert_allclose(weights.sum(1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(weights, weights[::-1, ::-1], atol=1e-12)  # no direction is preferred
    if old == new:
        np.testing.assert_allclose(weights, np.eye(old), atol=1e-12)


def test_cubic_weights_by_hand():
    """Doubling puts an output a quarter between two inputs; the kernels of -0.75 and -0.5 there, from their formulas."""
    inner = cubic_weights(8, 16, antialias=False)[8, 2:6]  # centre at 3.75
    np.testing.assert_allclose(inner, [-0.03515625, 0.26171875, 0.87890625, -0.10546875], atol=1e-12)
    inner = cubic_weights(8, 16, antialias=True)[8, 2:6]
    np.testing.assert_allclose(inner, [-0.0234375, 0.2265625, 0.8671875, -0.0703125], atol=1e-12)
    edge = cubic_weights(4, 8, antialias=False)[0]  # centre at -0.25: what lies outside repeats the edge
    np.testing.assert_allclose(edge, [0.87890625 + 0.26171875 - 0.03515625, -0.10546875, 0, 0], atol=1e-12)


def test_antialiasing_matters_when_shrinking():
    assert (np.abs(cubic_weights(24, 6, antialias=True)) > 1e-9).sum(1).min() > 8
    assert (np.abs(cubic_weights(24, 6, antialias=False)) > 1e-9).sum(1).max() <= 4


@pytest.mark.parametrize("antialias", [True, False])
def test_bicubic_positions_on_a_ramp(antialias):
    """Cubic convolution reproduces a linear function away from the edges."""
    rows = np.arange(16.0)[:, None] * 2 + np.arange(12.0)
    method = "bicubic_antialias" if antialias else "bicubic"
    resized = interpolate_posemb(rows[..., None].astype(np.float32), (32, 24), method)[..., 0]
    centre = (np.arange(32) + 0.5) / 2 - 0.5
    expected = centre[:, None] * 2 + ((np.arange(24) + 0.5) / 2 - 0.5)
    # a = -0.75 is not exact even there
    np.testing.assert_allclose(resized[6:-6, 6:-6], expected[6:-6, 6:-6], atol=1e-5 if antialias else 0.2)


def test_resizing_keeps_the_dtype_and_the_same_grid_is_untouched():
    grid = grid_of((3, 5))
    assert resize_bilinear(grid, (4, 4), align_corners=True).dtype == np.float32
    np.testing.assert_array_equal(interpolate_posemb(grid, (3, 5)), grid)


@pytest.mark.parametrize("method", RESIZES)
def test_on_the_device_maps_are_resized_as_on_the_host(method):
    maps = np.random.default_rng(0).normal(size=(2, 6, 9, 3)).astype(np.float32)

    @functools.partial(jax.jit, static_argnums=1)
    def resized(maps, new_hw):
        return resize_maps(maps, new_hw, method)

    for new in ((4, 13), (11, 5)):  # either axis first
        expected = np.stack([interpolate_posemb(grid, new, method) for grid in maps])
        np.testing.assert_allclose(resized(maps, new), expected, atol=2e-6)
    # The gradient is the transpose of the same matrices, so that <resize(x), y> = <x, gradient>.
    y = np.random.default_rng(1).normal(size=(2, 4, 13, 3)).astype(np.float32)
    gradient = jax.grad(lambda maps: (resized(maps, (4, 13)) * y).sum())(maps)
    np.testing.assert_allclose((gradient * maps).sum(), (resized(maps, (4, 13)) * y).sum(), rtol=1e-4)


def test_maps_keep_dtype_and_size_and_are_computed_in_float32():
    maps = np.random.default_rng(0).normal(size=(1, 4, 4, 2)).astype(np.float32)
    half = maps.astype(jax.numpy.bfloat16)
    resized = resize_maps(half, (7, 7), "bicubic")
    assert resized.dtype == half.dtype
    exact = resize_maps(half.astype(np.float32), (7, 7), "bicubic")
    np.testing.assert_array_equal(resized, exact.astype(half.dtype))
    assert resize_maps(maps, (4, 4), "bicubic") is maps


def test_an_unknown_convention_is_a_user_error():
    with pytest.raises(UserError, match="half_pixel"):
        interpolate_posemb(grid_of((2, 2)), (3, 3), "halfpixel")


def test_sincos2d_golden_values():
    table = sincos2d((2, 3), 8)
    assert table.shape == (2, 3, 8)
    assert table.dtype == np.float32
    # Two frequencies, 1 and 1e-4; the column comes first.
    np.testing.assert_allclose(table[1, 1], [0.84147, 1e-4, 0.54030, 1, 0.84147, 1e-4, 0.54030, 1], atol=1e-5)
    np.testing.assert_allclose(table[0, 2], [0.90930, 2e-4, -0.41615, 1, 0, 0, 1, 1], atol=1e-5)
    np.testing.assert_allclose(table[1, 0], [0, 0, 1, 1, 0.84147, 1e-4, 0.54030, 1], atol=1e-5)
    # Four frequencies: the denominator of the exponent is 4 - 1.
    np.testing.assert_allclose(
        sincos2d((1, 2), 16)[0, 1, :4], np.sin([1, 10 ** (-4 / 3), 10 ** (-8 / 3), 1e-4]), atol=1e-6
    )


def test_sincos2d_dialects():
    """MAE and MoCo v3 stop one frequency before the last of big_vision, and MoCo v3 has the row first."""
    column, row = 2, 1
    w = 10_000.0 ** (-np.arange(4) / 4)  # width 16
    mae = [np.sin(column * w), np.cos(column * w), np.sin(row * w), np.cos(row * w)]
    moco = [np.sin(row * w), np.cos(row * w), np.sin(column * w), np.cos(column * w)]
    tables = {name: sincos2d((2, 3), 16, **kwargs)[row, column] for name, kwargs in SINCOS2D.items()}
    np.testing.assert_allclose(tables["sincos2d_mae"], np.concatenate(mae), atol=1e-6)
    np.testing.assert_allclose(tables["sincos2d_moco"], np.concatenate(moco), atol=1e-6)
    np.testing.assert_array_equal(tables["sincos2d"], sincos2d((2, 3), 16)[row, column])
    assert np.abs(tables["sincos2d"] - tables["sincos2d_mae"]).max() > 0.03
    positions = {}
    for name in SINCOS2D:
        # Tokens without blocks and with patches of nothing are the norm of the positions.
        tokens, at = Tokens(class_token=False), Positions(posemb=name, class_token_posemb=False)
        encoder = ViTEncoder((2, 2), width=16, depth=0, style=BlockStyle(2, 16), tokens=tokens, positions=at)
        variables = encoder.init(jax.random.key(0), np.zeros((1, 4, 6, 3)))
        positions[name] = encoder.apply(variables, np.zeros((1, 4, 6, 3)))[0, 5]
        centred = tables[name] - tables[name].mean()
        np.testing.assert_allclose(positions[name], centred / np.sqrt(tables[name].var() + 1e-6), atol=1e-5)


@pytest.mark.parametrize("width", [4, 30])
def test_sincos2d_refuses_widths_that_it_cannot_split(width):
    with pytest.raises(UserError, match=str(width)):
        sincos2d((2, 2), width)


@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_half_pixel_with_antialiasing_is_the_linear_of_jax_image(old, new):
    """With which FlexiViT resizes its positions; that of torch too, see `tests/parity/test_resize.py`."""
    grid = grid_of(old)
    expected = jax.jit(lambda x: jax.image.resize(x, (*new, 3), "linear"))(grid)
    np.testing.assert_allclose(interpolate_posemb(grid, new, "half_pixel_antialias"), expected, atol=1e-5)


@pytest.mark.parametrize("method", ["half_pixel", "bicubic_antialias"])
@pytest.mark.parametrize(("old", "new"), [((4, 4), (8, 8)), ((3, 4), (5, 9)), ((8, 8), (6, 5))])
def test_tokens_of_enlarged_patches_are_what_they_were(old, new, method):
    """FlexiViT, section 3.4: exactly where patches grow; where they shrink, closer than those of a resized kernel."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(*old, 3, 2)).astype(np.float32)
    patches = rng.normal(size=(50, *old, 3)).astype(np.float32)

    @jax.jit
    def both(kernel, patches):
        return resample_kernel(kernel, new, method), resize_maps(patches, new, method)

    found, resized = both(kernel, patches)
    assert found.shape == (*new, 3, 2) and resample_kernel(kernel, old) is kernel
    np.testing.assert_allclose(found, resample_kernel(kernel, new, method), atol=1e-5)
    tokens, before = (np.einsum("bhwc,hwcd->bd", x, k) for x, k in ((resized, found), (patches, kernel)))
    if new > old:
        np.testing.assert_allclose(tokens, before, atol=1e-4)
    else:
        plain = np.einsum("bhwc,hwcd->bd", resized, resize_maps(kernel.transpose(3, 0, 1, 2), new, method).transpose(1, 2, 3, 0))  # fmt: skip
        assert np.square(tokens - before).mean() < np.square(plain - before).mean()
