"""Label names are packaged, complete, and in the order of the logits."""

import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import vit_jax
from vit_jax import UserError
from vit_jax.data.label_names import LABEL_SPACES, label_names, label_names_for, synsets

ROOT = Path(vit_jax.__file__).parents[1]


@pytest.mark.parametrize(("name", "count"), [("imagenet1k", 1000), ("imagenet21k", 21843)])
def test_every_class_has_a_name_of_its_own(name, count):
    names = label_names(name)
    assert len(names) == len(set(names)) == count == LABEL_SPACES[name]
    assert all(names) and not any(word != word.strip() or "_" in word for word in names)
    assert list(synsets(name)) == sorted(set(synsets(name)))  # both orders are that of the synsets
    assert all(s[0] == "n" and len(s) == 9 and s[1:].isdigit() for s in synsets(name))
    assert label_names_for(count) == names


@pytest.mark.parametrize(
    ("index", "words"), [(0, "tench"), (207, "golden retriever"), (281, "tabby"), (999, "toilet tissue"),
                         (134, "crane (wading bird)"), (517, "crane (lifting device)")]
)  # fmt: skip
def test_well_known_classes(index, words):
    assert label_names("imagenet1k")[index] == words


def test_both_spaces_agree_where_they_overlap():
    large = dict(zip(synsets("imagenet21k"), label_names("imagenet21k"), strict=True))
    small = dict(zip(synsets("imagenet1k"), label_names("imagenet1k"), strict=True))
    assert set(small) - set(large) == {"n04399382"}  # the teddy bear is no class of ImageNet-21k
    assert all(small[s].partition(" (")[0] == large[s].partition(" (")[0] for s in set(small) & set(large))
    assert label_names("imagenet21k")[0] == "organism"


def test_the_order_is_that_of_tensorflow_datasets():
    import tensorflow_datasets

    path = Path(tensorflow_datasets.__file__).parent / "datasets" / "imagenet2012" / "labels.txt"
    assert tuple(path.read_text().split()) == synsets("imagenet1k")


def test_an_unknown_label_space():
    with pytest.raises(UserError, match="Unknown label names 'imagenet1'. Did you mean 'imagenet1k'?"):
        label_names("imagenet1")
    assert label_names_for(10) == ()


def test_a_wheel_holds_the_files(tmp_path):
    # `build_py` is what fills a wheel; it leaves the source tree alone.
    command = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(tmp_path), "build_py"]
    subprocess.run([*command, "--build-lib", str(tmp_path / "lib")], cwd=ROOT, check=True, capture_output=True)
    for name in LABEL_SPACES:
        built = tmp_path / "lib" / "vit_jax" / "data" / "label_names" / f"{name}.txt"
        assert built.read_bytes() == resources.files("vit_jax.data.label_names").joinpath(f"{name}.txt").read_bytes()
