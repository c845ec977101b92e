"""Classes of data as classes of a model: synsets, words and any order, with what cannot be told apart refused."""

import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.data.classes import ClassesOf, class_positions
from vit_jax.data.label_names import label_names, synsets
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.data.preprocess import Preprocess
from vit_jax.data.sources import manifest
from vit_jax.data.sources.arrays import ArraySource

WORDS, IDS = label_names("imagenet1k"), synsets("imagenet1k")
# As transformers writes them (several words), and torchvision (brackets left out): no names of their own for cranes.
HUGGING = [word.partition(" (")[0] + ", and more" for word in WORDS]
VISION = [word.replace(" (wading bird)", " bird").replace(" (lifting device)", "") for word in WORDS]


@pytest.mark.parametrize("known", [WORDS, IDS, HUGGING, VISION], ids=["words", "synsets", "several words", "others"])
@pytest.mark.parametrize("names", [WORDS, IDS, HUGGING, VISION], ids=["words", "synsets", "several words", "others"])
def test_all_of_imagenet_is_known_by_its_order(names, known):
    assert class_positions(names, known) == list(range(1000))


@pytest.mark.parametrize(
    ("name", "position"),
    [("n02088094", 160), ("Afghan hound", 160), ("afghan_hound", 160), ("Afghan hound, Afghan", 160),
     ("n02088094-Afghan_hound", 160), ("Cardigan", 264), ("cardigan", 474), ("crane (lifting device)", 517)],
)  # fmt: skip
@pytest.mark.parametrize("known", [WORDS, IDS, HUGGING])
def test_one_class_by_any_of_its_names(name, position, known):
    assert class_positions([name, "n01440764"], known) == [position, 0]


def test_the_large_label_space_too():
    places = class_positions(["tench", "n02088094"], label_names("imagenet21k"))
    assert [synsets("imagenet21k")[place] for place in places] == ["n01440764", "n02088094"]


def test_names_of_ones_own():
    assert class_positions(["b", "a"], ("a", "b", "c")) == [1, 0]
    assert class_positions(["cat", "Cat"], ("Cat", "dog", "cat")) == [2, 0]  # two classes, if somebody wants them


@pytest.mark.parametrize(
    ("names", "known", "message"),
    [
        (["crane"], WORDS, "no class 'crane' among its 1000. It may be n02012849 or n03126707: name it so"),
        (["tench", "n01440764"], WORDS, "'tench' and 'n01440764' are one class"),
        (["n04399382"], label_names("imagenet21k"), "no class 'n04399382' among its 21843"),
        (["n99999999"], WORDS, "no class 'n99999999' among its 1000"),
        (["dig"], ("cat", "dog"), "no class 'dig' among its 2. Did you mean 'dog'?"),
        (["cat"], ("cat", "cat"), "'cat' could be one of 2 classes"),
        (["cat"], (), "does not say what its classes are"),
    ],
)
def test_what_cannot_be_told(names, known, message):
    with pytest.raises(UserError) as error:
        class_positions(names, known)
    assert message in str(error.value)


def test_labels_count_the_other_classes(tmp_path):
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    source = ArraySource(images, np.array([0, 1, 2, 0, 1]), ["c", "a", "b"])
    pipeline = EvalPipeline(source, Preprocess((4, 4)), batch_size=2, num_threads=0).with_classes(("a", "b", "c", "d"))
    batches = list(pipeline.iterate())
    assert [label for batch in batches for label in batch["label"][batch["valid"] > 0]] == [2, 0, 1, 2, 0]
    assert [image[0, 0, 0] for batch in batches for image in batch["image"][batch["valid"] > 0]] == [0, 1, 2, 3, 4]
    assert pipeline.source.label_names == ("a", "b", "c", "d")
    assert pipeline.source.remarks == ("1 of 4 classes are not in it, such as 'd'",)
    several = manifest.ManifestSource([__file__], [[0, 2]], ["c", "a", "b"], multi_label=True)
    assert ClassesOf(several, ("a", "b", "c", "d"))[0]["label"].tolist() == [0, 1, 1, 0]
