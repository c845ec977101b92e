"""Resizing against torch, on the host and within what is compiled."""

import functools

import jax
import numpy as np
import pytest
import torch

from vit_jax.nn.posemb import fitted_positions, interpolate_posemb
from vit_jax.nn.resize import nearest_weights, resize_maps

GRIDS = [
    ((14, 14), (24, 24)),
    ((37, 37), (16, 16)),
    ((7, 9), (12, 5)),
    ((3, 4), (1, 8)),
    ((1, 2), (3, 3)),
    ((16, 16), (7, 40)),
]


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("align_corners", {"mode": "bilinear", "align_corners": True}),
        ("half_pixel", {"mode": "bilinear", "align_corners": False}),
        ("half_pixel_antialias", {"mode": "bilinear", "align_corners": False, "antialias": True}),
        ("bicubic", {"mode": "bicubic", "align_corners": False}),
        ("bicubic_antialias", {"mode": "bicubic", "align_corners": False, "antialias": True}),
    ],
)
@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_every_method_is_one_of_torch(old, new, method, arguments):
    grid = np.random.default_rng(0).normal(size=(*old, 5)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(grid.transpose(2, 0, 1)[None].copy()), size=new, **arguments
    )
    expected = expected[0].numpy().transpose(1, 2, 0)
    np.testing.assert_allclose(interpolate_posemb(grid, new, method), expected, atol=1e-5)
    resized = jax.jit(functools.partial(resize_maps, new_hw=new, method=method))(grid[None])
    np.testing.assert_allclose(resized[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [("area", {"mode": "area"}), ("nearest", {"mode": "nearest"}), ("bicubic", {"mode": "bicubic"})],
)
def test_maps_of_scales_resize_as_torch_has_it(method, arguments):
    """Between the side of a latent and those of its scales, down and up, by the matrices that VAR's quantiser needs."""
    rng = np.random.default_rng(0)
    for old, new in [(16, 13), (16, 10), (16, 3), (16, 1), (32, 24), (3, 16), (13, 16), (1, 16), (7, 9), (59, 18)]:
        maps = rng.normal(size=(2, old, old + 1, 4)).astype(np.float32)
        # In float64: in float32 its bicubic is 1e-5 from itself, as it rounds the places where it samples.
        doubles = torch.from_numpy(maps.transpose(0, 3, 1, 2).astype(np.float64))
        theirs = torch.nn.functional.interpolate(doubles, size=(new, new), **arguments)
        resized = jax.jit(functools.partial(resize_maps, new_hw=(new, new), method=method))(maps)
        np.testing.assert_allclose(resized, theirs.numpy().transpose(0, 2, 3, 1), atol=1e-6)


def test_nearest_picks_as_torch_does_at_every_ratio():
    for old in range(1, 66):
        for new in range(1, 66):
            axis = torch.arange(old, dtype=torch.float32)[None, None]
            theirs = torch.nn.functional.interpolate(axis, size=new, mode="nearest")[0, 0].numpy()
            np.testing.assert_array_equal(nearest_weights(old, new) @ np.arange(old), theirs)


@pytest.mark.parametrize(("old", "new"), [(7, 12), (12, 7), (8, 16)])
def test_tables_of_windows_as_their_authors_resize_them(old, new):
    """A table [(2M - 1)^2, heads] is a picture of each head (Swin's `load_pretrained`)."""
    (before, after), heads = (2 * old - 1, 2 * new - 1), 3
    table = np.random.default_rng(0).normal(size=(before**2, heads)).astype(np.float32)
    pictures = torch.from_numpy(table).permute(1, 0).view(1, heads, before, before)
    theirs = torch.nn.functional.interpolate(pictures, size=(after, after), mode="bicubic")
    name = "encoder/stage_0/block_00/attention/relative_position_bias_table"
    found = fitted_positions(name, table, (after**2, heads))
    np.testing.assert_allclose(found, theirs.view(heads, after**2).permute(1, 0).numpy(), atol=1e-5)
