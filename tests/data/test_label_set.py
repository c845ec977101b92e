"""Classes in words: packaged templates and names, those of a person, and subclasses."""

import json

import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.data.label_names import label_names, synsets
from vit_jax.data.label_set import label_set, labels_for, subclasses
from vit_jax.data.prompts import has_classes, prompt_sets, set_classes, templates_of

CLIP_SETS = {
    "birdsnap": 500, "caltech101": 102, "cifar10": 10, "cifar100": 100, "clevr_counts": 8, "country211": 211, "dtd": 47,
    "eurosat": 10, "fer2013": 7, "fgvc_aircraft": 100, "flowers102": 102, "food101": 101, "gtsrb": 43,
    "hateful_memes": 2, "imagenet": 1000, "kinetics700": 700, "kitti": 4, "mnist": 10, "oxford_pets": 37,
    "pascal_voc2007": 20, "patch_camelyon": 2, "resisc45": 45, "sst2": 2, "stanford_cars": 196, "stl10": 10,
    "sun397": 397, "ucf101": 101,
}  # fmt: skip


def test_what_is_packaged():
    assert {name: len(set_classes(name)) for name in prompt_sets() if has_classes(name)} == CLIP_SETS
    assert set(prompt_sets()) - set(CLIP_SETS) == {"imagenet_simple", "photo", "plain"}
    counts = {name: len(templates_of(name)) for name in prompt_sets()}
    assert (counts["imagenet"], counts["imagenet_simple"], counts["photo"], counts["plain"]) == (80, 7, 1, 1)
    # The subset that forward selection chose from the 80, in CLIP's notebook.
    assert set(templates_of("imagenet_simple")) < set(templates_of("imagenet"))
    assert templates_of("imagenet_simple")[0] == "itap of a {}."
    assert all(template.count("{}") == 1 for name in prompt_sets() for template in templates_of(name))


def test_the_names_of_imagenet_are_in_the_order_of_its_classes():
    """CLIP's names were made from others, so that most still say the same of the same class."""
    ours, theirs = label_names("imagenet1k"), set_classes("imagenet")
    same = np.mean([a.partition(" (")[0].lower() == b.lower() for a, (b,) in zip(ours, theirs, strict=True)])
    assert same > 0.7
    assert [theirs[i] for i in (134, 517, 21)] == [("crane bird",), ("construction crane",), ("kite (bird of prey)",)]


def test_prompts_are_names_in_templates():
    made = label_set({"cat": "cat", "glad": ["happy", "smiling"]}, ["a {}.", "{}, a {}"])
    assert made.labels == ("cat", "glad")
    assert made.prompts == (
        ("a cat.", 0), ("cat, a cat", 0), ("a happy.", 1), ("happy, a happy", 1), ("a smiling.", 1),
        ("smiling, a smiling", 1),
    )  # fmt: skip
    assert label_set("a cat, a dog").prompts == (("a cat", 0), ("a dog", 1))
    assert label_set("fer2013").labels[3] == "happy"
    assert len(label_set("fer2013").prompts) == 12 * 6  # 12 names of 7 classes, 6 templates


def test_files_of_labels_and_templates(tmp_path):
    (tmp_path / "names.json").write_text(json.dumps({"crane": "construction crane", "bird": "crane bird"}))
    (tmp_path / "list.json").write_text(json.dumps(["a", "b"]))
    (tmp_path / "names.txt").write_text("a cat\n\na dog\n")
    (tmp_path / "templates.txt").write_text("one {}\ntwo {}\n")
    made = label_set(str(tmp_path / "names.json"), str(tmp_path / "templates.txt"))
    assert made.labels == ("crane", "bird")
    assert [text for text, _ in made.prompts][:2] == ["one construction crane", "two construction crane"]
    assert label_set(str(tmp_path / "list.json")).labels == ("a", "b")
    assert label_set(str(tmp_path / "names.txt"), "photo").prompts[1] == ("a photo of a a dog.", 1)


def test_classes_of_data_get_names():
    """Those of a set whatever their order, others by a list or by what differs."""
    mixed = labels_for(["automobile", "Airplane"], "cifar10", None)
    assert mixed.names == (("automobile",), ("airplane",))
    assert mixed.templates == templates_of("cifar10")
    folders = [synsets("imagenet1k")[517], synsets("imagenet1k")[0]]
    assert labels_for(folders, "imagenet", "photo").names == (("construction crane",), ("tench",))
    food = labels_for(["apple_pie", "sushi"], None, None)
    assert food.prompts == (("a photo of a apple pie.", 0), ("a photo of a sushi.", 1))
    assert labels_for(["crane", "dog"], {"crane": "construction crane"}, "plain").names == (
        ("construction crane",),
        ("dog",),
    )
    assert labels_for(["0", "1"], ["zero", "one"], "plain").names == (("zero",), ("one",))


def test_subclasses_have_one_parent():
    animals = label_set(["dog", "fish", "bird"], "a {}.")
    found = subclasses(animals, {"dog": ["poodle", "sheepdog"], "fish": ["Fish", "tuna"]})
    # Each class is its own subclass, unless it is listed; one without any is by itself.
    assert found.finer.labels == ("dog", "poodle", "sheepdog", "Fish", "tuna", "bird")
    assert found.parents == (0, 0, 0, 1, 1, 2)
    assert found.finer.templates == ("a {}.",)
    joined = subclasses(animals, {"dog": ["poodle", "sheepdog"], "fish": ["tuna"]}, joined=True)
    assert [name for (name,) in joined.finer.names] == ["dog", "poodle dog", "sheepdog", "fish", "tuna fish", "bird"]


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: label_set(["cat", " "]), "There is an empty label"),
        (lambda: label_set("cat,,dog"), "There is an empty label"),
        (lambda: label_set({"cat": "", "dog": "dog"}), "The class 'cat' has an empty name"),
        (lambda: label_set({"cat": 3, "dog": "dog"}), "The names of 'cat' are not a list of texts"),
        (lambda: label_set(["cat", "cat"]), "There are two classes named 'cat'"),
        (lambda: label_set(["cat"]), "There is one label to choose from"),
        (lambda: label_set("cifar1O"), "There is no label set named 'cifar1O'"),
        (lambda: label_set("missing.json"), "There is no file missing.json"),
        (lambda: label_set(["a", "b"], ["a photo"]), "The template 'a photo' has no place for a class"),
        (lambda: label_set(["a", "b"], "phot"), "There are no templates 'phot'"),
        (lambda: label_set(["a", "b"], []), "There are no templates"),
        (lambda: labels_for([], None, None), "The data does not say what its classes are"),
        (lambda: labels_for(["a", "b", "c"], ["x", "y"], None), "There are 3 classes and names for 2"),
        (lambda: labels_for(["a", "b"], {"c": "x"}, None), "The data has no class 'c' to be called otherwise"),
        (lambda: labels_for(["a", "dog"], "cifar10", None), "The set 'cifar10' has no class 'a'"),
        (lambda: labels_for(["a", "b"], "imagenet_simple", None), "There is no label set named 'imagenet_simple'"),
        (lambda: subclasses(label_set("a, b"), {"a": ["x"], "b": ["X"]}), "The subclass 'X' has two parents"),
        (lambda: subclasses(label_set("a, b"), {"a": ["b"]}), "The subclass 'b' has two parents, 'a' and 'b'"),
        (lambda: subclasses(label_set("a, b"), {"a": ["x", "x"]}), "The class 'a' has the subclass 'x' twice"),
        (lambda: subclasses(label_set("a, b"), {"a": [""]}), "The class 'a' has a subclass without a name"),
        (lambda: subclasses(label_set("a, b"), {"c": ["x"]}), "The hierarchy has a class 'c' that is not a label"),
        (lambda: subclasses(label_set("a, b"), {"a": "xy"}), "The subclasses of 'a' are not a list of texts"),
    ],
)
def test_what_is_refused(make, what):
    with pytest.raises(UserError) as error:
        make()
    assert str(error.value).startswith(what)


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "names.json"
    for text, what in (("{", "is not JSON"), ('"cat"', "has neither a list of labels nor an object")):
        path.write_text(text)
        with pytest.raises(UserError, match=what):
            label_set(str(path))
