"""Figures hold what they were given, on few axes."""

import io

import cv2
import numpy as np
import pytest

from vit_jax.inspection import figures


def pixels(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return cv2.imdecode(np.frombuffer(buffer.getvalue(), np.uint8), cv2.IMREAD_COLOR_RGB)


RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 255, (24, 48, 3), dtype=np.uint8)
MAPS = RNG.random((4, 3, 2, 4)).astype(np.float32)


@pytest.mark.parametrize(
    ("figure", "axes"),
    [
        (figures.filters_figure(RNG.standard_normal((12, 4, 4, 3)).astype(np.float32)), 1),
        (figures.filters_figure(RNG.standard_normal((5, 4, 8, 1)).astype(np.float32)), 1),
        (figures.similarity_figure({"a $b": RNG.random((2, 4, 2, 4)), "c": RNG.random((3, 3, 3, 3))}), 3),
        (figures.distance_figure({"a": RNG.random((12, 12))}, (224, 224)), 1),
        (figures.distance_figure({"a": np.zeros((1, 2)), "b": np.zeros((2, 1))}, (8, 8)), 2),
        (figures.rollout_figure(IMAGE, MAPS[0, 0]), 1),
        (figures.heads_figure(IMAGE, MAPS[0]), 1),
        (figures.heads_figure(IMAGE, np.ones((16, 2, 4), np.float32)), 1),
        (figures.layers_figure(MAPS), 2),
        (figures.layers_figure(np.zeros((24, 16, 2, 4), np.float32)), 2),
    ],
)
def test_every_figure_is_drawn_on_few_axes(figure, axes):
    assert len(figure.axes) == axes
    assert pixels(figure).std() > 5


def test_tiles_stand_where_they_belong():
    # Head h attends to the one patch h: its tile is brightest in that corner.
    maps = np.zeros((1, 4, 2, 2), np.float32)
    for head in range(4):
        maps[0, head, head // 2, head % 2] = 1
    image = figures.layers_figure(maps).axes[0].images[0].get_array()
    side = 48
    for head in range(4):
        tile = image[:side, head * (side + 3) : head * (side + 3) + side]
        y, x = np.unravel_index(np.asarray(tile).argmax(), tile.shape)
        assert (y // 24, x // 24) == (head // 2, head % 2)
        assert tile.min() == 0 and tile.max() == 1


def test_heat_covers_the_patches_of_a_grid_that_is_not_square():
    values = np.zeros((2, 4), np.float32)
    values[1, 3] = 1
    blended = figures.overlay(np.zeros((24, 48, 3), np.uint8), values)
    bright = blended.sum(axis=-1) > 1
    height, width = bright.shape
    assert width == 2 * height >= 80
    assert bright[height // 2 :, 3 * width // 4 :].all() and bright.sum() == bright.size / 8


def test_large_images_are_made_small():
    assert figures.overlay(np.zeros((600, 1200, 3), np.uint8), MAPS[0, 0]).shape == (224, 448, 3)


@pytest.mark.parametrize("grid", [(3, 3), (14, 14), (12, 20), (37, 37)])
def test_every_position_keeps_its_bright_spot(grid):
    """Each tile is on the picture with the patch that it stands for, also where the grid is finer than the screen."""
    similarity = np.full((*grid, *grid), -1.0)
    for y, x in np.ndindex(grid):
        similarity[y, x, y, x] = 1
    figure = figures.similarity_figure({"a": similarity})
    step = int(figure.axes[0].get_title().rsplit(" ", 2)[1]) if "every" in figure.axes[0].get_title() else 1
    assert step == {3: 1, 14: 1, 20: 2, 37: 3}[grid[1]]
    image = pixels(figure).astype(int)
    image = image[:, : round(figure.axes[0].get_window_extent().x1)]  # without the colour bar
    # Yellow among purple and white: more red than blue.
    count, _ = cv2.connectedComponents((image[..., 0] - image[..., 2] > 20).astype(np.uint8))
    expected = len(range(step // 2, grid[0], step)) * len(range(step // 2, grid[1], step))
    assert count - 1 == expected


def test_the_image_shows_where_there_is_no_attention():
    values = np.zeros((2, 4), np.float32)
    values[1, 3] = 1
    blended = figures.overlay(np.full((24, 48, 3), 200, np.uint8), values)
    assert (blended[:40, :40] > 0.35).all()


def test_images_side_by_side():
    figure = figures.images_figure(
        {"a $b": np.zeros((8, 12, 3)), "c": np.ones((8, 12, 3)), "d": np.zeros((8, 12, 3))}, 2
    )
    assert [text.get_text() for text in figure.axes[0].texts] == ["a $b", "c", "d"] and len(figure.axes) == 1
    assert pixels(figure).std() > 5
