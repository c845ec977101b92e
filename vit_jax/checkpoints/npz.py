"""NumPy's .npz archives of parameters, the format of google-research's published weights."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
from jaxtyping import Shaped

from vit_jax.errors import UserError


class NpzFile:
    """One archive; `shapes` comes from the headers, an array is read when it is asked for.

    Raises:
        UserError: not an archive, cut short, or with arrays of objects, which only pickle could read.
    """

    def __init__(self, path: Path):
        self.path, self.metadata = path, {}
        if not zipfile.is_zipfile(path):
            raise UserError(f"{path} is not an .npz archive, or cut short", "Fetch it again")
        try:
            self._file = np.load(path, allow_pickle=False)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} could not be read: {error}", "Fetch it again") from error
        self.shapes: dict[str, tuple[int, ...]] = {}
        for name in self._file.files:
            shape, dtype = self._header(name)
            if dtype.hasobject:
                raise UserError(f"{path} holds Python objects in {name!r}, which could run code", "Do not open it")
            self.shapes[name] = shape

    def __getitem__(self, name: str) -> Shaped[np.ndarray, "..."]:
        try:
            array = self._file[name]
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zipfile.error) as error:
            raise UserError(f"{self.path} is damaged in {name!r}: {error}", "Fetch it again") from error
        # NumPy has no bfloat16 and saves it as two anonymous bytes.
        return array.view(ml_dtypes.bfloat16) if array.dtype == np.dtype("V2") else array

    def _header(self, name: str) -> tuple[tuple[int, ...], np.dtype]:
        try:
            with self._file.zip.open(name + ".npy" if name + ".npy" in self._file.zip.namelist() else name) as stream:
                version = np.lib.format.read_magic(stream)
                read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                shape, _, dtype = read.get(version, np.lib.format.read_array_header_2_0)(stream)
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{self.path} is damaged in {name!r}: {error}", "Fetch it again") from error
        return shape, dtype


def write_npz(path: Path, tensors: Mapping[str, Shaped[np.ndarray, "..."]]) -> None:
    """Writes an archive without compression, as the published ones are."""
    with path.open("wb") as file:  # given a name, NumPy would append .npz
        np.savez(file, **tensors)
