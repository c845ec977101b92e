"""Tables in MATLAB's files, as scipy writes and reads them."""

import io

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from vit_jax.data.matlab import read_table

KIND = [("ID", "O"), ("WNID", "O"), ("gloss", "O"), ("children", "O"), ("height", "O")]
ROWS = [
    (1, "n01440764", "a fish, large", np.array([3, 400, 7], np.int32), 0.5),
    (np.uint8(2), "n01443537", "é", np.zeros(0), -1),
    (np.int16(300), "n1", "", np.array([[1.5, 2.5]]), 2**40),
]


def written(rows=ROWS, name="synsets", **options):
    file = io.BytesIO()
    savemat(file, {"other": np.arange(5), name: np.array(rows, KIND)[:, None]}, **options)
    return file.getvalue()


@pytest.mark.parametrize("packed", [False, True])
def test_against_scipy(packed):
    data = written(do_compression=packed)
    theirs = loadmat(io.BytesIO(data), squeeze_me=True)["synsets"]
    ours = read_table(data, "synsets")
    assert len(ours) == 3 and list(ours[0]) == [name for name, _ in KIND]
    for row, other in zip(ours, theirs, strict=True):
        assert (row["ID"], row["WNID"]) == (int(other["ID"]), str(other["WNID"]))
        assert row["gloss"] == str(np.squeeze(other["gloss"]) if np.size(other["gloss"]) else "")
        np.testing.assert_array_equal(row["children"], other["children"])
        assert row["height"] == float(other["height"])
    assert len(read_table(written(ROWS[:1]), "synsets")) == 1


def test_other_files():
    data = written()
    bare = data[:128] + b"\x0e\0\0\0\0\0\0\0"  # a matrix with nothing in it
    for wrong in (bare, b"", data[:100], b"x" * 4000, data[:-300], data[:136] + b"\xff" * 8 + data[144:]):
        with pytest.raises(ValueError, match="it "):
            read_table(wrong, "synsets")
    with pytest.raises(ValueError, match="no table 'synset'"):
        read_table(data, "synset")
