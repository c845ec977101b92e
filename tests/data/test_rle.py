"""Runs of masks against COCO's own reader and writer, and by hand."""

import numpy as np
import pytest

from vit_jax.data.rle import decode, encode, run_lengths


def masks():
    rng = np.random.default_rng(0)
    yield from (rng.random(shape) < share for shape in ((7, 9), (40, 33), (1, 1)) for share in (0.02, 0.5, 0.97))
    yield np.zeros((5, 8), bool)
    yield np.ones((300, 200), bool)
    broad = np.zeros((300, 200), bool)
    broad[40:250, 20:170] = True  # lengths that repeat, of several letters
    yield broad


def test_runs_go_down_the_columns_and_begin_outside():
    assert run_lengths(np.array([[0, 1, 1], [0, 0, 1]], bool)) == [2, 1, 1, 2]
    assert run_lengths(np.array([[1, 1], [0, 1]], bool)) == [0, 1, 1, 2]


def test_what_is_written_is_read_again():
    for mask in masks():
        np.testing.assert_array_equal(decode(encode(mask)), mask)


def test_cocos_tools_write_and_read_the_same():
    coco = pytest.importorskip("pycocotools.mask")
    for mask in masks():
        theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        ours = encode(mask)
        assert ours == {"size": theirs["size"], "counts": theirs["counts"].decode()}
        np.testing.assert_array_equal(coco.decode({**ours, "counts": ours["counts"].encode()}), mask)
