"""Archives of NumPy arrays from strangers."""

import struct
import warnings
import zipfile

import ml_dtypes
import numpy as np
import pytest

from vit_jax.checkpoints import npz
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


def member(descr="'<f4'", shape="(2, 3)", order="False", data=b"\0" * 24, version=1, header=None):
    text = (header or f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}").encode()
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + data


def archive(path, *members, compression=zipfile.ZIP_STORED):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as file:
        warnings.simplefilter("ignore")  # zipfile warns of a name that is there twice
        for name, data in members:
            file.writestr(name, data)
    return path


def test_other_writers(tmp_path):
    """Versions 2 and 3 of the header, Fortran's order, big-endian numbers, compression."""
    wanted = np.arange(6, dtype=np.float32).reshape(2, 3)
    path = archive(
        tmp_path / "x.npz",
        ("v1.npy", member(data=wanted.tobytes())),
        ("v2.npy", member(data=wanted.tobytes(), version=2)),
        ("v3.npy", member(data=wanted.tobytes(), version=3)),
        ("big.npy", member("'>f4'", data=wanted.astype(">f4").tobytes())),
        ("f.npy", member(order="True", data=wanted.tobytes(order="F"))),
        compression=zipfile.ZIP_DEFLATED,
    )
    for name in NpzFile(path).shapes:
        np.testing.assert_array_equal(NpzFile(path)[name], wanted, err_msg=name)
    np.savez_compressed(tmp_path / "y.npz", a=wanted, b=np.float64(3), c=np.zeros((0, 2)), d=wanted.T)
    file = NpzFile(tmp_path / "y.npz")
    assert file.shapes == {"a": (2, 3), "b": (), "c": (0, 2), "d": (3, 2)} and file["b"] == 3
    np.testing.assert_array_equal(file["d"], wanted.T)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (member("[('a', '<f4')]"), "holds Python objects in 'a'"),
        (member("'|O'"), "holds Python objects in 'a'"),
        (member(shape="(2, 4)"), r"damaged in 'a': an array of \[2, 4\] takes 32 bytes, it has 24"),
        (member(shape="(1099511627776,)"), "takes 4398046511104 bytes"),
        (member(shape="(" + "9" * 5000 + ",)"), "damaged in 'a': its header is"),
        (member(shape="(-2, 3)"), "its header is"),
        (member(shape="(" + "1," * 40 + ")"), "its header is"),
        (member(shape="__import__('os')"), "its header is"),
        (member(header="(" * 5000), "its header is"),
        (member(header="\xff"), "its header is"),
        (member(version=4), "it is not a NumPy array"),
        (member(version=2)[:12], "header is cut short"),
        (b"\x93NUMPY\x02\0\xff\xff\xff\xff", "claims a header of 4294967295 bytes"),
        (b"\x93NUMPY", "it is not a NumPy array"),
        (b"", "it is not a NumPy array"),
    ],
)
def test_members_that_lie(tmp_path, data, message):
    with pytest.raises(UserError, match=message) as caught:
        NpzFile(archive(tmp_path / "x.npz", ("a.npy", data)))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("descr", "size"), [("<c8", 8), ("<U4", 16), ("|S4", 4), ("<M8[ns]", 8), ("<m8[D]", 8), ("|V9", 9)]
)
def test_what_is_no_real_number_is_refused_when_it_is_read(tmp_path, descr, size):
    """A training state may keep such things beside the parameters."""
    path = archive(tmp_path / "x.npz", ("a.npy", member(f"'{descr}'", "(2,)", data=b"\0" * 2 * size)))
    assert NpzFile(path).shapes == {"a": (2,)}
    with pytest.raises(UserError, match="holds 'a' as .*, not as real numbers"):
        NpzFile(path)["a"]


def test_twice_encrypted_or_oddly_compressed(tmp_path):
    for names in (("a.npy", "a.npy"), ("a.npy", "a")):
        path = archive(tmp_path / "x.npz", *((name, member()) for name in names))
        with pytest.raises(UserError, match="holds 'a' twice"):
            NpzFile(path)
    with pytest.raises(UserError, match="is compressed by bzip2 in 'a'"):
        NpzFile(archive(tmp_path / "x.npz", ("a.npy", member()), compression=zipfile.ZIP_BZIP2))
    path = archive(tmp_path / "x.npz", ("a.npy", member()))
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="is encrypted in 'a'"):
        NpzFile(path)


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "_SLACK", 1 << 20)
    member_of_zeros = member(shape=f"({1 << 22},)", data=b"\0" * (1 << 24))
    with pytest.raises(UserError, match="says that it unpacks to 167772.* these are not trained weights"):
        NpzFile(archive(tmp_path / "x.npz", ("a.npy", member_of_zeros), compression=zipfile.ZIP_DEFLATED))
