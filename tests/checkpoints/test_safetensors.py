"""The safetensors format: what is read, and every way in which a stranger's file can be wrong."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from vit_jax.checkpoints.safetensors import SafetensorsFile, ShardedSafetensors, write_safetensors
from vit_jax.errors import UserError

DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16, np.float64, np.int64, np.int32, np.int8, np.uint8, np.bool_)
TENSORS = {
    f"t{i}": (np.arange(6).reshape(2, 3) % (2 if dtype is np.bool_ else 7)).astype(dtype)
    for i, dtype in enumerate(DTYPES)
} | {"scalar": np.array(3.5, np.float32), "empty": np.zeros((0, 4), np.float32)}


@pytest.fixture
def path(tmp_path):
    write_safetensors(tmp_path / "a.safetensors", TENSORS, {"format": "pt"})
    return tmp_path / "a.safetensors"


def write(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(shape=(2,), span=(0, 8), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(span)}


def test_there_and_back(path):
    file = SafetensorsFile(path)
    assert file.metadata == {"format": "pt"} and file.shapes == {n: t.shape for n, t in TENSORS.items()}
    for name, tensor in TENSORS.items():
        assert file[name].dtype == tensor.dtype and not file[name].flags.writeable
        np.testing.assert_array_equal(file[name], tensor)


def test_the_library_reads_what_we_write_and_we_what_it_writes(path, tmp_path):
    ours = {n: t for n, t in TENSORS.items() if t.dtype != ml_dtypes.bfloat16}
    write_safetensors(tmp_path / "ours.safetensors", ours)
    theirs = safetensors.numpy.load_file(tmp_path / "ours.safetensors")
    safetensors.numpy.save_file(ours, tmp_path / "theirs.safetensors")
    back = SafetensorsFile(tmp_path / "theirs.safetensors")
    for name, tensor in ours.items():
        np.testing.assert_array_equal(theirs[name], tensor)
        np.testing.assert_array_equal(back[name], tensor)
    assert set(back.shapes) == set(ours)


def test_cut_anywhere(path, tmp_path):
    """Whatever number of bytes is left of a file, it is refused by name."""
    data = path.read_bytes()
    for size in [*range(0, len(data), 7), len(data) - 1]:
        short = tmp_path / "short.safetensors"
        short.write_bytes(data[:size])
        with pytest.raises(UserError, match=r"short\.safetensors"):
            SafetensorsFile(short)


@pytest.mark.parametrize(
    ("header", "size", "message"),
    [
        (b"{not json", 0, "not JSON"),
        (b"[1, 2]", 0, "not a JSON object"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "a": {}}', 8, "has the key 'a' twice"),
        (b"[" * 100_000, 0, "not JSON"),
        ({"a": {"dtype": "F32"}}, 0, "'a' without dtype, shape and data_offsets"),
        ({"a": entry(dtype="F8_E4M3")}, 8, "of dtype 'F8_E4M3'"),
        ({"a": entry(shape=[-2])}, 8, "not a list of whole numbers"),
        ({"a": entry(shape=[2.0])}, 8, "not a list of whole numbers"),
        ({"a": entry(shape=[True, 2])}, 8, "not a list of whole numbers"),
        ({"a": entry(span=(-8, 0))}, 8, "not a list of 2 whole numbers"),
        ({"a": entry(dtype=["F32"])}, 8, r"'a.dtype' is \['F32'\], not a text"),
        ({"a": entry(shape=[10**30])}, 8, "not a list of whole numbers"),
        ({"a": entry(shape=[0] * 100, span=(0, 0))}, 0, "a list of 100 float32 in 0 bytes"),
        ({"a": [1]}, 0, r"'a' is \[1\], not an object"),
        ({"__metadata__": {"format": 1}, "a": entry()}, 8, "__metadata__' is an object, not an object of texts"),
        ({"a" * 5000: entry(shape=[3])}, 8, r"'aaa.*\.\.\. \[3\] float32 in 8 bytes"),
        ({"a": entry(shape=[3])}, 8, r"\[3\] float32 in 8 bytes"),
        ({"a": entry(shape=[2**62, 8])}, 8, "in 8 bytes"),
        ({"a": entry(), "b": entry(span=(4, 12))}, 12, "overlap or gap"),
        ({"a": entry(), "b": entry(span=(12, 20))}, 20, "overlap or gap"),
        ({"a": entry(span=(8, 16))}, 16, "overlap or gap"),
        ({"a": entry()}, 4, "cut short"),
        ({"a": entry()}, 12, "cut short"),
    ],
)
def test_headers_that_lie(tmp_path, header, size, message):
    with pytest.raises(UserError, match=message):
        SafetensorsFile(write(tmp_path / "x.safetensors", header, b"\0" * size))


def test_a_header_longer_than_the_file(tmp_path):
    with pytest.raises(UserError, match="claims a header of 9223372036854775807 bytes"):
        SafetensorsFile(write(tmp_path / "x.safetensors", {}, length=2**63 - 1))


def sharded(folder, weight_map):
    write_safetensors(folder / "one.safetensors", {"a": np.ones(2, np.float32)})
    write_safetensors(folder / "two.safetensors", {"b": np.zeros(3, np.float32), "c": np.ones(1, np.float32)})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def test_shards(tmp_path):
    file = ShardedSafetensors(
        sharded(tmp_path, {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"})
    )
    assert file.shapes == {"a": (2,), "b": (3,), "c": (1,)}
    np.testing.assert_array_equal(file["b"], np.zeros(3))


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "three.safetensors"}, "which is not beside it"),
        ({"a": "../one.safetensors"}, "is none of its own"),
        ({"a": "two.safetensors"}, "holds 'a', which it does not"),
        ({"a": "one.safetensors", "b": "two.safetensors"}, "does not list 'c'"),
        ({"a": "one.bin"}, "is none of its own"),
        ({"a": "b" * 300 + ".safetensors"}, "is none of its own"),
        ({"a": ["one.safetensors"]}, "'weight_map' is an object, not an object of texts"),
        (["one.safetensors"], "'weight_map' is .*, not an object"),
        (None, "not an index"),
    ],
)
def test_an_index_that_lies(tmp_path, weight_map, message):
    with pytest.raises(UserError, match=message):
        ShardedSafetensors(sharded(tmp_path, weight_map))
