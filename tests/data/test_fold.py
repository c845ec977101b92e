"""k-fold: each example is left out once, classes evenly as scikit-learn has it, and the same ones for every run."""

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold

from tests.tiny import tiny_config
from vit_jax import UserError
from vit_jax.data.fold import Fold
from vit_jax.data.order import Mixture, class_counts, order_of
from vit_jax.data.sources.arrays import ArraySource
from vit_jax.data.sources.manifest import ManifestSource
from vit_jax.training.inputs import build_inputs

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], [53, 31, 14, 3]))


def images(n, first=0):
    return np.broadcast_to(np.arange(first, first + n)[:, None, None, None], (n, 2, 2, 3)).astype(np.uint8)


def ids(source):
    return [int(source[i]["image"][0, 0, 0]) for i in range(len(source))]


def source(labels=LABELS, first=0):
    return ArraySource(images(len(labels), first), labels, list("abcd"))


pytestmark = pytest.mark.filterwarnings("ignore:The least populated class")


def test_each_example_is_left_out_once_and_classes_are_even():
    whole, held = source(), []
    for part, (_, test) in zip(range(1, 6), StratifiedKFold(5).split(LABELS, LABELS), strict=True):
        fold = Fold.parse(f"{part}/5")
        training, left_out = fold.training(whole), fold.left_out(whole)
        assert sorted(ids(training) + ids(left_out)) == list(range(101))
        assert [training[i]["label"] for i in range(len(training))] == training.labels.tolist()
        assert class_counts(left_out) == tuple(np.bincount(LABELS[test], minlength=4))
        assert left_out.in_memory and left_out.field_names == whole.field_names
        held += ids(left_out)
    assert sorted(held) == list(range(101)) != held
    assert left_out.remarks == (
        "1 class has fewer than 5 examples, so that not every part of config.data.fold has one",
    )
    # The same for ever: results are compared over months.
    assert ids(Fold(1, 5).left_out(source()))[:4] == FIRST


FIRST = [2, 3, 9, 12]


def test_counts_are_scikit_learns_for_any_labels_and_parts():
    rng = np.random.default_rng(1)
    for k in (2, 3, 10):
        labels = rng.choice(4, 60, p=(0.1, 0.5, 0.1, 0.3))
        for part, (_, test) in enumerate(StratifiedKFold(k).split(labels, labels), 1):
            assert class_counts(Fold(part, k).left_out(source(labels))) == tuple(np.bincount(labels[test], minlength=4))


def test_without_one_known_label_each_parts_are_as_even():
    several = ManifestSource([str(i) for i in range(11)], [[0], [], [0, 1]] + [[1]] * 8, ["a", "b"], multi_label=True)

    class Records:
        label_names = ()

        def __len__(self):
            return 11

    for each in (several, Records()):
        parts = [Fold(part, 3).left_out(each)._indices.tolist() for part in (1, 2, 3)]
        assert sorted(i for part in parts for i in part) == list(range(11)) and sorted(map(len, parts)) == [3, 4, 4]
    assert Fold(1, 3).left_out(several).labels == [several.labels[i] for i in parts[0]]


def test_of_a_mixture_each_part_is_dealt_out():
    whole = Mixture([source(LABELS[:50]), source(LABELS[50:], 50)], (0.9, 0.1))
    training = Fold(2, 5).training(whole)
    assert [len(part) for part in training.sources] == [40, 41] and training.shares == whole.shares
    order_of(training, 0, balance=True)


def test_the_option():
    section = tiny_config(data__fold="2/3", data__eval="none")["data"]
    inputs = build_inputs(section)
    held, training = inputs.eval_pipeline(4, "here").source, inputs.train_source()
    assert (len(training), len(held)) == (40, 20) and class_counts(held) == (2,) * 10
    other = build_inputs({**section, "fold": "3/3"})
    assert other.eval_pipeline(4, "here").description != inputs.eval_pipeline(4, "here").description
    own = inputs.eval_pipeline(4, "here", {"name": "digits", "split": "test", "per_class": 1})
    assert len(own.source) == 10, "an evaluator's own source stays"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(({"fold": fold}, "fold is .*such as 1/5") for fold in ("0/5", "6/5", "1/1", "1/1001", "a", "1 / 5", "١/٥")),
        ({"fold": "1/61"}, "asks for 61 parts of 60 examples"),
        ({"fold": "1/5", "eval": {"name": "digits", "split": "test"}}, "Set config.data.eval=none; or"),
        ({"fold": 5}, "config.data.fold is 5"),
    ],
)
def test_what_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        build_inputs({**tiny_config(data__eval="none")["data"], **change}).train_source()
