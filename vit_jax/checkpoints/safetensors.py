"""The safetensors format, read without trusting the file and without copying it: eight bytes, a JSON header, tensors.

Written here because the library's NumPy reader refuses bfloat16 (https://github.com/huggingface/safetensors describes
the format).
"""

import json
import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Shaped

from vit_jax.checkpoints.json_file import JsonObject, parse_json, read_json, shown
from vit_jax.errors import UserError

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
SHARDS = ".safetensors.index.json"  # ends the name of what lists the files of one model
_HEADER_LIMIT = 1 << 24  # bytes; the format allows six times as many, of which no model makes use
_RANK = 32


class SafetensorsFile:
    """One file, mapped into memory; `shapes` is known at once, a tensor is read when it is asked for.

    Raises:
        UserError: the file is cut short, or its header is not what the format says: lengths out of bounds, tensors
            that overlap or leave gaps, a dtype that is unknown, a shape that does not fill its bytes.
    """

    def __init__(self, path: Path):
        self.path = path
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size < 8:
                raise self._error(f"is {size} bytes long, too short for a header")
            self._data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        (length,) = struct.unpack("<Q", self._data[:8].tobytes())
        if not 2 <= length <= min(size - 8, _HEADER_LIMIT):
            raise self._error(f"claims a header of {length} bytes in {size}: it is cut short or no safetensors file")
        header = parse_json(self._data[8 : 8 + length].tobytes(), f"The header of {path}")
        self.metadata: dict[str, str] = header.names("__metadata__")
        self._tensors = {name: self._tensor(header.object(name), name) for name in header if name != "__metadata__"}
        self._check_bounds(8 + length, size)
        self._start = 8 + length
        self.shapes = {name: shape for name, (_, shape, _, _) in self._tensors.items()}

    def __getitem__(self, name: str) -> Shaped[np.ndarray, "..."]:
        """A tensor in its own dtype, on the file's pages: nothing is copied."""
        dtype, shape, begin, end = self._tensors[name]
        return self._data[self._start + begin : self._start + end].view(dtype).reshape(shape)

    def _tensor(self, said: JsonObject, name: str) -> tuple[np.dtype, tuple[int, ...], int, int]:
        kind, shape = said.text("dtype"), said.integers("shape", at_most=2**63)
        offsets = said.integers("data_offsets", 2, at_most=2**63)
        if None in (kind, shape, offsets):
            raise self._error(f"describes the tensor {shown(name)} without dtype, shape and data_offsets")
        if kind not in _DTYPES:
            raise self._error(f"has the tensor {shown(name)} of dtype {shown(kind)}; known are {', '.join(_DTYPES)}")
        dtype, (begin, end) = np.dtype(_DTYPES[kind]), offsets
        if len(shape) > _RANK or end - begin != math.prod(shape) * dtype.itemsize:
            raise self._error(f"has the tensor {shown(name)} {shown(shape)} {dtype} in {end - begin} bytes")
        return dtype, tuple(shape), begin, end

    def _check_bounds(self, start: int, size: int) -> None:
        position = 0
        for name, (_, _, begin, end) in sorted(self._tensors.items(), key=lambda item: item[1][2:]):
            if begin != position:
                raise self._error(
                    f"has the tensor {shown(name)} at byte {begin} where {position} was due: overlap or gap"
                )
            position = end
        if start + position != size:
            raise self._error(f"is {size} bytes long and its header describes {start + position}: it is cut short")

    def _error(self, what: str) -> UserError:
        return UserError(f"{self.path} {what}", "Fetch the file again")


class ShardedSafetensors:
    """The files that a `*.safetensors.index.json` lists, as one.

    Raises:
        UserError: the index is damaged, a file of it is missing, or a tensor is not where the index says.
    """

    def __init__(self, index: Path):
        self.path, self.metadata = index, {}
        places = read_json(index).names("weight_map")
        names = parts_of(index)
        for name in names:
            if not (index.parent / name).is_file():
                raise UserError(f"{index} lists {shown(name)}, which is not beside it", "Fetch all of its files")
        files = {name: SafetensorsFile(index.parent / name) for name in names}
        self._files = {tensor: files[place] for tensor, place in places.items()}
        for tensor, place in places.items():
            if tensor not in files[place].shapes:
                raise UserError(f"{index} says that {place} holds {shown(tensor)}, which it does not", "Fetch it again")
        surplus = [t for name, file in files.items() for t in file.shapes if places.get(t) != name]
        if surplus:
            raise UserError(f"{index} does not list {shown(surplus[0])}, which its files hold", "Fetch it again")
        self.shapes = {tensor: self._files[tensor].shapes[tensor] for tensor in places}

    def __getitem__(self, name: str) -> Shaped[np.ndarray, "..."]:
        return self._files[name][name]


def parts_of(index: Path) -> list[str]:
    """The names of the files that an index lists, all of them in its own folder.

    Raises:
        UserError: it lists none, or one that is elsewhere or of another kind.
    """
    names = sorted(set(read_json(index).names("weight_map").values()))
    if not names:
        raise UserError(f"{index} is not an index of safetensors files: it has no weight_map", "Fetch it again")
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors") or "\0" in name or len(name) > 200:
            raise UserError(f"{index} names a file that is none of its own: {shown(name)}", "Use another source")
    return names


def write_safetensors(
    path: Path, tensors: Mapping[str, Shaped[np.ndarray, "..."]], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes one file in the format's canonical form: tensors by falling alignment, then name; header padded to 8."""
    names = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name in order:
        tensor = tensors[name]
        span = [position, position + tensor.nbytes]
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": span}
        position = span[1]
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            file.write(np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data)
