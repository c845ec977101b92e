"""Archives of NumPy arrays from strangers."""

import ml_dtypes
import numpy as np
import pytest

from vit_jax.checkpoints.npz import NpzFile, write_npz
from vit_jax.errors import UserError


def test_there_and_back_with_bfloat16_as_numpy_saves_it(tmp_path):
    tensors = {"a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4).astype(ml_dtypes.bfloat16)}
    write_npz(tmp_path / "x.npz", tensors)
    file = NpzFile(tmp_path / "x.npz")
    assert file.shapes == {"a/kernel": (2, 3), "b": (4,)}
    for name, tensor in tensors.items():
        assert file[name].dtype == tensor.dtype
        np.testing.assert_array_equal(file[name], tensor)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("the file was unpickled",))


def test_objects_are_never_unpickled(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.ones(2), bomb=np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="holds Python objects in 'bomb', which could run code"):
        NpzFile(tmp_path / "x.npz")


def test_cut_short_or_damaged(tmp_path):
    write_npz(tmp_path / "x.npz", {"a": np.random.default_rng(0).normal(size=(64, 64))})
    data = (tmp_path / "x.npz").read_bytes()
    for size in (0, 1, 100, len(data) // 2, len(data) - 1):
        (tmp_path / "short.npz").write_bytes(data[:size])
        with pytest.raises(UserError, match=r"short\.npz is not an \.npz archive, or cut short"):
            NpzFile(tmp_path / "short.npz")
    middle = len(data) // 2
    (tmp_path / "flipped.npz").write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    with pytest.raises(UserError, match="is damaged in 'a'"):
        NpzFile(tmp_path / "flipped.npz")["a"]


def test_a_single_array_is_no_archive(tmp_path):
    with (tmp_path / "x.npz").open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(UserError, match="is not an .npz archive"):
        NpzFile(tmp_path / "x.npz")
