"""CIFAR's pickles, by a reader that runs nothing."""

import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from vit_jax.data import plain_pickle
from vit_jax.data.plain_pickle import read_pickle
from vit_jax.data.sources import cifar
from vit_jax.errors import UserError

rng = np.random.default_rng(0)
DATA = rng.integers(0, 256, (60, 3072), np.uint8)


def write(path, value, protocol=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol))


def ten(root, protocol=2, label=lambda k: k % 10):
    for part in range(6):
        rows = slice(10 * part, 10 * part + 10)
        batch = {b"data": DATA[rows], b"labels": [label(k) for k in range(60)[rows]], b"filenames": [b"a.png"] * 10}
        write(root / "cifar-10-batches-py" / (f"data_batch_{part + 1}" if part < 5 else "test_batch"), batch, protocol)
    write(root / "cifar-10-batches-py/batches.meta", {b"label_names": [b"c%d" % k for k in range(10)]}, protocol)
    return root


@pytest.fixture
def hundred(tmp_path):
    for split, rows in (("train", slice(0, 50)), ("test", slice(50, 60))):
        n = len(DATA[rows])
        batch = {"data": DATA[rows], "fine_labels": list(range(n)), "coarse_labels": [k % 20 for k in range(n)]}
        write(tmp_path / "cifar-100-python" / split, batch)
    names = {"fine_label_names": [f"f{k}" for k in range(100)], "coarse_label_names": [f"g{k}" for k in range(20)]}
    write(tmp_path / "cifar-100-python/meta", names)
    return tmp_path


@pytest.mark.parametrize("protocol", [2, 4])
def test_ten(tmp_path, protocol):
    root = ten(tmp_path, protocol)
    train, test = cifar.build(str(root), "train"), cifar.build(str(root / "cifar-10-batches-py"), "test")
    assert (len(train), len(test)) == (50, 10) and train.label_names == tuple(f"c{k}" for k in range(10))
    np.testing.assert_array_equal(test[3]["image"], DATA[53].reshape(3, 32, 32).transpose(1, 2, 0))
    assert [train[k]["label"] for k in range(12)] == [k % 10 for k in range(12)]
    np.testing.assert_array_equal(train.images[49], DATA[49].reshape(3, 32, 32).transpose(1, 2, 0))


def test_as_python_2_wrote_it(tmp_path):
    """Its strings were bytes, and went into a pickle by opcodes that Python 3 does not write."""
    text = b"\x80\x02}q\x01(U\x05labelq\x02K\x07U\x01aq\x03T\x02\x00\x00\x00\xe9\xeaq\x04u."
    (tmp_path / "p").write_bytes(text)
    assert read_pickle(tmp_path / "p") == {"label": 7, "a": "éê"}
    array = pickle.dumps(np.arange(3, dtype=">i4"), 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "p").write_bytes(array)
    np.testing.assert_array_equal(read_pickle(tmp_path / "p"), np.arange(3))


@pytest.mark.parametrize("protocol", range(5))
def test_arrays_and_values_are_those_that_were_written(tmp_path, protocol):
    """Against the library's own reader. An array that is there twice is written once."""
    twice = np.arange(6, dtype=np.uint8)
    value = {
        "a": twice,
        "b": [twice, np.asfortranarray(np.arange(6.0).reshape(2, 3))],
        b"c": (1, -2.5, None, True, ("é",)),
    }
    write(tmp_path / "p", value, protocol)
    found = read_pickle(tmp_path / "p")
    assert list(found) == list(value) and found[b"c"] == value[b"c"] and found["a"] is found["b"][0]
    for ours, theirs in zip((found["a"], found["b"][1]), (twice, value["b"][1]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype


def test_hundred(hundred):
    fine, coarse = cifar.build(str(hundred), "train"), cifar.build(str(hundred), "test", labels="coarse")
    assert (len(fine.label_names), len(coarse.label_names)) == (100, 20)
    assert fine[42]["label"] == 42 and coarse[9]["label"] == 9 and len(coarse) == 10


class Harm:
    def __init__(self, name):
        self.name = name

    def __reduce__(self):
        return os.system, (f"touch {self.name}",)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_nothing_else_is_made_of_a_pickle(tmp_path, protocol):
    mark = tmp_path / "harmed"
    write(tmp_path / "p", {"labels": Harm(mark), "data": DATA}, protocol)
    with pytest.raises(UserError, match=r"p is not read: it holds .*system"):
        read_pickle(tmp_path / "p")
    assert not mark.exists()


def array(shape, content, kind=b"u1"):
    """An array as Python 2 wrote it."""
    begun = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    return begun + b"(K\x01" + shape + b"cnumpy\ndtype\n(U\x02" + kind + b"tR" + b"\x89" + content + b"tb"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pickle.dumps(np.array([Harm("x"), 1], object), 2), "system"),
        (pickle.dumps(np.array([1, "a"], object), 2), "an array of something else than numbers"),
        (pickle.dumps(np.zeros(2, "S3"), 2), "an array of 'S3'"),
        (pickle.dumps({1, 2}, 4), "the instruction EMPTY_SET"),
        (pickle.dumps({1, 2}, 2), "builtins.set|__builtin__.set"),
        (pickle.dumps(Path("x"), 2), "pathlib"),
        (b"cnumpy\ndtype\n}b.", "a change of what a name stands for"),
        (b"cnumpy\ndtype\n.", "a type in the place of a value"),
        (b"cnumpy\ndtype\n\x85\x85.", "a type in the place of a value"),
        (b"cnumpy\ndtype\n(U\x02u1tR.", "a type in the place of a value"),
        (b"cnumpy.core.multiarray\n_reconstruct\n)R.", "an array without content"),
        (array(b"(K\x01t", b"U\x08" + b"x" * 8, b"O8") + b".", "an array of something else than numbers"),
        (b"\x80\x02}r\xff\xff\xff\xff.", "damaged"),
        (b"\x80\x02}q\x01.rest", "4 bytes after its end"),
        (b"\x80\x02}q\x01(U\x05lab", "damaged"),
        (b"no pickle", "damaged"),
        (b"", "damaged"),
        (b"(" * 10 + b"]" + b"a" * 9 + b".", "damaged"),
        # The hash of such a tuple ends the process; numbers of one hash, as keys, take for ever.
        (b"})" + b"\x85" * 200_000 + b"K\x00s.", "a dictionary whose keys are no texts"),
        (
            b"}(" + b"".join(pickle.dumps(k * (2**61 - 1), 2)[2:-1] + b"N" for k in range(9)) + b"u.",
            "keys are no texts",
        ),
        (b"cnumpy\ndtype\n(U\x04S2\n4tR.", "an array of 'S2"),
        (b"c__builtin__\neval\n.", "it holds __builtin__.eval"),
        (b"cnumpy\ndtype\n" + b"))" + b"\x85" * 9 + b"\x93.", "damaged"),
        (b"Pid\n.", "the instruction PERSID"),
        (b"U\x02idQ.", "the instruction BINPERSID"),
        (b"\x82\x01.", "the instruction EXT1"),
        (b")\x81.", "the instruction NEWOBJ"),
        (b"\x80\x05\x97.", "the instruction NEXT_BUFFER"),
    ],
)
def test_other_pickles(tmp_path, data, message):
    (tmp_path / "p").write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_pickle(tmp_path / "p")


def test_a_small_pickle_with_one_list_in_very_many_places(tmp_path):
    lists = [1]
    for _ in range(15):  # each by itself, these would be 10**15
        lists = [lists] * 10
    write(tmp_path / "p", lists)
    found = read_pickle(tmp_path / "p")
    assert found[0] is found[9] and len(found) == 10


def test_small_pickles_that_would_be_large_or_take_for_ever(tmp_path, monkeypatch):
    text = b"T\xe8\x03\x00\x00" + b"x" * 1000
    once = array(b"(M\xe8\x03t", text + b"q\x00")
    (tmp_path / "p").write_bytes(once + b".")
    np.testing.assert_array_equal(read_pickle(tmp_path / "p"), np.full(1000, ord("x"), np.uint8))
    sides = b"(" + b"\x8a\xff" + b"\x7f" * 255 + b"q\x01" + b"h\x01" * 100 + b"t"
    for data, message in (
        (b"](" + once + array(b"(M\xe8\x03t", b"h\x00") * 9 + b"e.", "one text in many arrays"),
        (b"](" + text + b"q\x00" + b"c_codecs\nencode\nh\x00\x85R" * 99 + b"e.", "one text in many arrays"),
        (array(sides, b"U\x00"), "an array without a shape"),
    ):
        (tmp_path / "p").write_bytes(data)
        with pytest.raises(UserError, match=message):
            read_pickle(tmp_path / "p")
    monkeypatch.setattr(plain_pickle, "_MOST_INSTRUCTIONS", 100)
    (tmp_path / "p").write_bytes(b"](" + b"]" * 97 + b"e.")
    with pytest.raises(UserError, match="more than 100 instructions"):
        read_pickle(tmp_path / "p")


def test_arrays_that_lie_about_their_shape(tmp_path):
    whole = pickle.dumps(np.arange(6, dtype=np.uint8), 2)
    (tmp_path / "p").write_bytes(whole.replace(b"K\x06\x85", b"K\x07\x85"))
    with pytest.raises(UserError, match="6 bytes for the shape"):
        read_pickle(tmp_path / "p")


def test_mistakes(tmp_path, hundred):
    for wrong, message in (
        ((str(tmp_path / "gone"), "train"), "holds no cifar-10-batches-py"),
        ((str(hundred), "val"), "no split 'val'"),
    ):
        with pytest.raises(UserError, match=message):
            cifar.build(*wrong)
    root = ten(tmp_path / "ten", label=lambda k: 11 if k == 33 else -1 if k > 49 else k % 10)
    for split, message in (("train", "data_batch_4 has the label 11"), ("test", "test_batch has the label -1")):
        with pytest.raises(UserError, match=f"{message}, outside its 10 classes"):
            cifar.build(str(root), split)
    with pytest.raises(UserError, match="outside its 10 classes"):
        cifar.build(str(root), "train")
    with pytest.raises(UserError, match="no coarse labels"):
        cifar.build(str(root), "train", labels="coarse")
    batch = root / "cifar-10-batches-py/test_batch"
    for value, message in (
        ({"labels": [1]}, "test_batch holds no 'data'"),
        ({"data": DATA[:2, :9], "labels": [1, 2]}, "no images of 32x32"),
        ({"data": DATA[:2], "labels": [1]}, "no label for each of its 2 images"),
        ([1], "holds no 'data'"),
        ({"data": DATA[:2], "labels": [1, 2**80]}, r"test_batch has the label 1\.2\d*e\+24, outside its 10 classes"),
    ):
        write(batch, value)
        with pytest.raises(UserError, match=message):
            cifar.build(str(root), "test")
    batch.unlink()
    with pytest.raises(UserError, match=re.escape(f"{batch} could not be read")):
        cifar.build(str(root), "test")
