"""Canny's edges: where brightness changes, and nothing of what changes slowly."""

import numpy as np

from vit_jax.data.edges import edge_map, edges


def test_edges_are_where_brightness_changes():
    image = np.zeros((16, 20, 3), np.uint8)
    image[:, 12:] = 200
    found = edge_map(image)
    assert found[:, 11:13].any(axis=1).all() and not found[:, :10].any() and not found[:, 14:].any()
    assert not edge_map(np.linspace(0, 60, 320, dtype=np.uint8).reshape(16, 20)[..., None].repeat(3, -1)).any()
    picture = edges(image)
    assert picture.dtype == np.uint8 and picture.shape == image.shape and set(np.unique(picture)) == {0, 255}
    np.testing.assert_array_equal(picture.all(axis=-1), found)
    # A higher threshold leaves weaker ones out.
    image[:, 12:] = 60
    assert edge_map(image, 50, 100).any() and not edge_map(image, 400, 900).any()
