"""Objects of scenes, each by itself: the square around it, its name, and what is blank."""

from types import SimpleNamespace

import numpy as np
import pytest

from vit_jax.data.sources import objects, shapes
from vit_jax.errors import UserError

SCENES = {"name": "shapes", "length": 12, "kinds": ("disc", "square"), "colors": ("red", "black"), "seed": 1}


def test_an_object_is_what_its_name_says_in_the_middle_of_a_square():
    source = objects.build(SCENES, blanked=1.0, enlarged=(1.5, 1.5), blank=(0, 255, 0))
    again = objects.build(SCENES, blanked=1.0, enlarged=(1.5, 1.5), blank=(0, 255, 0))
    for k in range(len(source)):
        example = source[k]
        image, label = example["image"], example["label"]
        np.testing.assert_array_equal(image, again[k]["image"])
        assert image.shape[0] == image.shape[1] and image.dtype == np.uint8
        assert example["text"] == [source.label_names[label], f"a {source.label_names[label]}"]
        there = (image != (0, 255, 0)).any(2)
        rows, columns = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
        longer = max(rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0])
        assert abs(len(image) - 1.5 * longer) <= 1
        for ends in (rows, columns):
            assert abs(ends[0] - (len(image) - 1 - ends[-1])) <= 1
        red = np.median(image[there][:, 0]) > 128
        assert red == source.label_names[label].startswith("red")


def test_around_an_object_is_the_scene_unless_it_is_blanked_out():
    plain, scene = (
        objects.build(SCENES, blanked=0.0, enlarged=(1, 1)),
        shapes.build(**{k: v for k, v in SCENES.items() if k != "name"}),
    )
    image = plain[3]["image"]
    ways = np.lib.stride_tricks.sliding_window_view(scene[3]["image"], image.shape)[:, :, 0]
    places = np.argwhere((ways == image).all((2, 3, 4)))
    assert len(places) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"source": {"name": "digits", "split": "test"}}, "'digits' does not give objects with names"),
        (
            {"source": {"name": "mixture", "sources": {"a": SCENES, "b": {**SCENES, "kinds": ("square",)}}}},
            "Source 1 of the mixture calls the class 1 of 'masks' 'red square', and those before it 'red disc'",
        ),
        ({"templates": ["a thing"]}, "have no place for a name"),
        ({"enlarged": (2, 1)}, "is not a range of sides"),
        ({"blank": (1, 2)}, "is no colour"),
    ],
)
def test_what_gives_no_objects(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        objects.build(**{"source": SCENES, **arguments})


@pytest.mark.parametrize("kind", [0, 3])
def test_an_object_whose_class_has_no_name(monkeypatch, kind):
    """As in a folder of classes with masks beside its images: the names are those of the images."""
    mask = {"segmentation": np.ones((4, 4), np.uint8), "class": kind}
    example = {"image": np.zeros((4, 4, 3), np.uint8), "masks": [mask], "path": "a.png"}
    theirs = type("Theirs", (dict,), {"label_names": ("cat", "dog", "elk"), "field_names": {"masks"}})({0: example})
    monkeypatch.setattr(objects, "build_named", lambda *_: theirs)
    with pytest.raises(UserError, match=f"a.png has an object of the class {kind}, which has no name"):
        objects.build({"name": "theirs"})[0]


def test_a_source_that_does_not_say_its_fields_gives_none(monkeypatch):
    """As one of somebody else may not."""
    monkeypatch.setattr(objects, "build_named", lambda *_: SimpleNamespace(label_names=("a",)))
    with pytest.raises(UserError, match="'theirs' does not give objects with names"):
        objects.build({"name": "theirs"})
