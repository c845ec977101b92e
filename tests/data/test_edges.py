"""Canny's edges: where brightness changes, and nothing of what changes slowly; as a field of data, made or read."""

import cv2
import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.data.edges import edge_map, edges
from vit_jax.data.field import Context
from vit_jax.data.fields import control
from vit_jax.data.placement import Placement
from vit_jax.data.preprocess import Preprocess
from vit_jax.data.transforms import edges as transform


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


def photo(height=12, width=16):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_edges_are_made_of_the_view():
    """Whatever the view shows, the edges are its own, and reach the device in 0..1."""
    makes = transform.build((8, 8), view={"flip": True}, spread=1.5)
    assert makes.random and makes.places and makes.makes == ("control",)
    found = makes({"image": photo(), "label": 3}, np.random.default_rng(0))
    assert found["label"] == 3 and found["image"].shape == found["control"].shape == (8, 8, 3)
    still = transform.build((8, 8), view={"crop": "none", "flip": False})
    found = still({"image": photo()}, np.random.default_rng(0))
    np.testing.assert_array_equal(found["control"], edges(found["image"]))
    assert not still.random
    still, spread = (
        transform.build((32, 32), view={"crop": "none", "flip": False}, low=200, high=600, spread=by)
        for by in (0.0, 2.0)
    )
    rng = np.random.default_rng(1)
    still({"image": photo(64, 64)}, rng)  # which draws as much of a view
    seen = spread({"image": photo(64, 64)}, np.random.default_rng(1))
    factor = 2 ** rng.uniform(-1, 1)
    np.testing.assert_array_equal(seen["control"], edges(seen["image"], round(200 * factor), round(600 * factor)))
    for other in ((200, 600 * factor), (200 * factor, 600)):
        assert np.any(seen["control"] != edges(seen["image"], *other))
    field = control.build(data=Context(Preprocess((8, 8))))
    assert field.made and not field.in_plane and set(np.unique(field.on_device(found["control"]))) == {0, 1}
    assert field.on_device(found["control"]).dtype == np.float32
    for values, message in (
        ({"low": 9, "high": 3}, "begin at 3"),
        ({"spread": 0.5}, "at least 1"),
        ({"view": {"flop": 1}}, "flop"),
    ):
        with pytest.raises(UserError, match=message):
            transform.build((8, 8), **values)


def test_a_control_from_files_moves_with_its_image():
    size = Preprocess((6, 8))
    field = control.build(data=Context(size), made=False)
    assert field.in_plane and not field.made and field.to_json() == {"name": "control", "made": False}
    raw = cv2.imencode(".png", photo()[..., ::-1])[1].tobytes()
    pixels = field.read(raw, "here", (12, 16))
    np.testing.assert_array_equal(pixels, photo())
    np.testing.assert_array_equal(field.evaluated(pixels, size.placement((12, 16))), photo()[1::2, 1::2])
    assert field.move(pixels, Placement((0, 0, 12, 16), (6, 8))).shape == (6, 8, 3)
    assert field.spec("control")["control"].shape == (6, 8, 3)
    with pytest.raises(UserError, match="16x12 on an image of 8x8"):
        field.read(raw, "here", (8, 8))
