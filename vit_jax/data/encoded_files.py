"""Images as a tokenizer made tokens or latents of them, in files: what `vit_jax encode` writes, and how it is read.

A directory holds `header.json`, and in shards of so many examples `rows_00000.npy` [N, V, ...], V views of each, and
`labels_00000.npy` [N] where the data has classes. A shard is there whole or not at all.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Shaped

from vit_jax.data.files import write_whole
from vit_jax.errors import UserError

Kind = Literal["indices", "moments", "latents"]
KINDS: tuple[Kind, ...] = ("indices", "moments", "latents")
MOST_INDICES = 2**16  # what a uint16 tells apart

_HEADER = "header.json"
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Header:
    """What a directory of encoded images says about itself.

    Args:
        kind: "indices" uint16, "moments" float16 (means, and behind them log variances, on the last axis), or "latents"
            float16.
        shape: of one view of an example.
        views: what they are: "plain", "mirrored".
        examples: how many there are.
        shard: examples of a shard; the last one may have fewer.
        vocab_size: how many different indices there are; None for latents.
        grids: rows and columns of the maps of tokens.
        image_size: (height, width) of what was encoded.
        label_names: of the classes.
        labels: whether each example has a class.
        tokenizer: digest of the parameters that the rows were computed with.
        model: name and arguments of the tokenizer.
        source: what was encoded, as text.
    """

    kind: Kind
    shape: tuple[int, ...]
    views: tuple[str, ...]
    examples: int
    shard: int
    vocab_size: int | None
    grids: tuple[tuple[int, int], ...]
    image_size: tuple[int, int]
    label_names: tuple[str, ...]
    labels: bool
    tokenizer: str
    model: Mapping[str, Any]
    source: str

    @property
    def dtype(self) -> str:
        return "uint16" if self.kind == "indices" else "float16"

    @property
    def shards(self) -> int:
        return -(-self.examples // self.shard)

    def part(self, shard: int) -> range:
        """The examples of a shard."""
        return range(shard * self.shard, min((shard + 1) * self.shard, self.examples))

    def write(self, directory: Path) -> None:
        """Makes the directory and puts the header into it.

        Raises:
            UserError: for a directory that cannot be written, or that holds something else.
        """
        text = json.dumps({"format": _FORMAT, **dataclasses.asdict(self)}, indent=2)
        if (directory / _HEADER).exists():
            found = Header.read(directory)
            if (differing := found.differing(json.loads(text))) is not None:
                raise UserError(
                    f"{directory} holds images encoded otherwise: its {differing} is"
                    f" {getattr(found, differing)!r}, here it is {getattr(self, differing)!r}",
                    "Name another directory",
                )
            return
        if directory.exists() and any(directory.iterdir()):
            raise UserError(f"{directory} holds other files", "Name a new directory")
        _write(directory / _HEADER, text.encode())

    def differing(self, values: Mapping[str, Any]) -> str | None:
        """The first key in which a header's plain values differ from these."""
        own = json.loads(json.dumps(dataclasses.asdict(self)))
        return next((key for key in own if own[key] != values.get(key)), None)

    @classmethod
    def read(cls, directory: str | os.PathLike) -> Self:
        """The header of a directory.

        Raises:
            UserError: where there is none, or one that this version does not read.
        """
        path = Path(directory) / _HEADER
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(
                f"{directory} holds no encoded images: there is no {_HEADER}", "Make them with 'vit_jax encode'"
            ) from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path} could not be read: {error}", "Encode the images anew") from None
        if not isinstance(values, dict) or values.pop("format", None) != _FORMAT:
            raise UserError(f"{path} is of another version of vit_jax", "Encode the images anew")
        try:
            header = cls(**values)
            return dataclasses.replace(
                header,
                shape=tuple(map(int, header.shape)),
                views=tuple(map(str, header.views)),
                grids=tuple((int(rows), int(columns)) for rows, columns in header.grids),
                image_size=tuple(map(int, header.image_size)),
                label_names=tuple(map(str, header.label_names)),
            )
        except (TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged: {error}", "Encode the images anew") from None


def shard_path(directory: str | os.PathLike, name: str, shard: int) -> Path:
    """The file of a shard of "rows" or "labels"."""
    return Path(directory) / f"{name}_{shard:05d}.npy"


def write_shard(directory: Path, shard: int, arrays: Mapping[str, Shaped[np.ndarray, "N ..."]]) -> None:
    """Writes the files of a shard, "rows" last: where these are, the others are."""
    for name in sorted(arrays, key=lambda name: name == "rows"):
        path = shard_path(directory, name, shard)
        partial = path.with_name(path.name + ".partial")
        try:
            with partial.open("wb") as file:
                np.save(file, arrays[name], allow_pickle=False)
            partial.replace(path)
        except OSError as error:
            raise UserError(
                f"{path} cannot be written: {error.strerror or error}", "Make room, and run it again"
            ) from None


def has_shard(directory: Path, shard: int) -> bool:
    """Whether a shard was written."""
    return shard_path(directory, "rows", shard).exists()


@functools.lru_cache(maxsize=1024)
def read_array(path: Path) -> Shaped[np.ndarray, "N ..."]:
    """The array of a file, mapped into memory and read where it is used.

    Raises:
        UserError: for a file that is missing or damaged.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} could not be read: {error}", "Encode the images anew") from None


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}", "Name another directory") from None
