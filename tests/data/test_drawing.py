"""What is drawn on images and beside them: every pixel's colour says what it means."""

import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.data import drawing
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.palettes import PALETTES, colors_for, palette
from vit_jax.data.preprocess import Preprocess

GREY = np.full((200, 240, 3), 100, np.uint8)


@pytest.mark.parametrize(("name", "count", "some"), [
    ("cityscapes", 19, {0: ("road", (128, 64, 128)), 13: ("car", (0, 0, 142)), 18: ("bicycle", (119, 11, 32))}),
    ("ade20k", 150, {0: ("wall", (120, 120, 120)), 2: ("sky", (6, 230, 230)), 149: ("flag", (92, 0, 255))}),
])  # fmt: skip
def test_published_palettes(name, count, some):
    names, colors = palette(name)
    assert len(names) == len(set(names)) == len(colors) == count == PALETTES[name]
    assert {k: (names[k], tuple(colors[k])) for k in some} == some
    np.testing.assert_array_equal(colors_for(names), colors)


def test_other_names_have_colours_of_their_own():
    names = [f"class {k}" for k in range(19)]
    assert len(np.unique(colors_for(names), axis=0)) == 19
    assert not np.array_equal(colors_for(names), palette("cityscapes").colors)
    with pytest.raises(UserError, match="cityscape.*cityscapes"):
        palette("cityscape")


def test_a_class_map_and_what_its_colours_mean():
    names, colors = palette("cityscapes")
    values = np.zeros((200, 240), np.uint8)
    values[:150] = 10
    values[-20:] = 255  # none
    plain = drawing.class_map(values, names, colors, known=values != 255)
    over = drawing.class_map(values, names, colors, known=values != 255, image=GREY)
    for picture, background in ((plain, None), (over, GREY)):
        for row, label in ((0, 10), (160, 0)):
            tint = colors[label] if background is None else 50 + colors[label] // 2
            np.testing.assert_array_equal(picture[row, 17], tint)
        np.testing.assert_array_equal(picture[190, 0], 0 if background is None else 100)
    strip = plain[200:]
    assert len(strip) == 16  # one line is enough for two names
    there = {tuple(pixel) for pixel in strip.reshape(-1, 3)}
    assert {tuple(colors[10]), tuple(colors[0])} <= there and tuple(colors[1]) not in there
    first = min(np.argwhere((strip == colors[10]).all(-1))[:, 1]), min(np.argwhere((strip == colors[0]).all(-1))[:, 1])
    assert first[0] < first[1]  # the sky has most pixels
    small = values[::10, ::10]
    small = drawing.class_map(small, names, colors, known=small != 255)
    assert small.shape[1] >= 160  # enlarged, for the names


def test_a_legend_of_many_names_has_lines():
    entries = {name: tuple(map(int, tint)) for name, tint in zip(*palette("ade20k"), strict=True)}
    strip = drawing.legend(entries, 300)
    assert strip.shape[1] == 300 and len(strip) % 16 == 0 and len(strip) > 30 * 16
    there = {tuple(pixel) for pixel in strip.reshape(-1, 3)}
    assert {tint for tint in entries.values()} <= there
    assert drawing.legend({}, 300).shape == (0, 300, 3)
    narrow = drawing.legend({"a name that does not fit into a strip like this": (1, 2, 3)}, 60)
    assert narrow.shape == (16, 60, 3) and (narrow[:, -2:] == 255).all()


def test_masks_lie_on_the_image_with_parts_on_top():
    whole, part = np.zeros((2, 50, 60), np.uint8)
    whole[10:40, 10:40] = 1
    part[20:30, 20:30] = 255
    for order in ((0, 1), (1, 0)):
        colors = np.array([(200, 0, 0), (0, 0, 200)])[list(order)]
        seen = drawing.masks(GREY, np.stack([whole, part])[list(order)], colors)
        np.testing.assert_array_equal(seen[0, 0], 100)
        np.testing.assert_array_equal(seen[60, 60], (150, 50, 50))  # mask (15, 15), four times as large
        np.testing.assert_array_equal(seen[100, 100], (75, 25, 125))  # both, the part's colour over the whole's
        np.testing.assert_array_equal(seen[40, 100], (200, 0, 0))  # the edge
    np.testing.assert_array_equal(drawing.masks(GREY, np.zeros((0, 5, 5))), GREY)
    np.testing.assert_array_equal(GREY, 100)


def test_clicks_say_what_they_are():
    xy = np.array([[50, 60], [150, 60], [100, 120], [30, 30]], np.float32)
    seen = drawing.points(GREY, xy, 1, np.array([1, 0, -1, 2]))
    on, beside, padding, corner = (seen[int(y), int(x)] for x, y in xy)
    assert on.argmax() == 1 and beside.argmax() == 0
    assert (padding == 100).all() and (corner == 100).all()


def test_titles_and_rows_of_pictures():
    row = drawing.beside([drawing.titled(GREY, "IoU 0.91"), GREY[:50]])
    assert row.shape == (216, 240 + 4 + 240, 3)
    assert (row[:16, :80] < 100).any()  # letters
    np.testing.assert_array_equal(row[16:, :240], GREY)
    np.testing.assert_array_equal(row[:50, 244:], GREY[:50])
    assert (row[50:, 244:] == 255).all()


def test_fields_say_what_their_colours_mean():
    context = Context(Preprocess((8, 8)), ("background", "cat", "dog"))
    section = {
        "image": {"name": "image"},
        "label": {"name": "dense", "count": 3},
        "unnamed": {"name": "dense", "count": 2},
        "boxes": {"name": "boxes", "count": 2, "classes": 3},
    }
    kinds = build_fields(section, context)
    label = np.full((8, 8), 255, np.uint8)
    label[:4] = 2
    row = {
        "label": label, "unnamed": label, "boxes": np.array([[0, 0, 4, 4], [0, 0, 0, 0]], np.float32),
        "boxes_valid": np.array([True, False]), "boxes_class": np.array([1, 0]),
    }  # fmt: skip
    colors = [tuple(map(int, tint)) for tint in colors_for(context.label_names)]
    assert kinds["label"].legend("label", row) == {"dog": colors[2]}
    assert kinds["boxes"].legend("boxes", row) == {"cat": colors[1]}
    assert kinds["unnamed"].legend("unnamed", row) == {}
    drawn = kinds["label"].draw(np.zeros((8, 8, 3), np.uint8), "label", row, 1)
    np.testing.assert_array_equal(drawn[0, 0], np.array(colors[2]) // 2)
    np.testing.assert_array_equal(drawn[7, 0], 0)
