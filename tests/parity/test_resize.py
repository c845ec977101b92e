"""Resizing of position embeddings against torch."""

import numpy as np
import pytest
import torch

from vit_jax.nn.posemb import interpolate_posemb

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
    np.testing.assert_allclose(interpolate_posemb(grid, new, method), expected[0].numpy().transpose(1, 2, 0), atol=1e-5)
