"""Images that `vit_jax encode` made tokens or latents of, once for all runs of generators."""

from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.data.encoded_files import Header, has_shard, read_array, shard_path
from vit_jax.errors import UserError


class EncodedSource:
    """Examples with `indices` uint16 [V, T], or `latents` float16 [V, ...] (of moments twice as many channels): all
    views of an image; the field `encoded` takes one of them. And `label`, where the data had classes.

    Args:
        directory: that `vit_jax encode` wrote.

    Attributes:
        header: what it says about itself; a run's tokenizer is compared with the one in it.

    Raises:
        UserError: for a directory that is not of this kind, or not finished.
    """

    in_memory = True  # nothing is decoded

    def __init__(self, directory: str):
        self._directory = Path(directory)
        self.header = header = Header.read(directory)
        there = sum(len(header.part(shard)) for shard in range(header.shards) if has_shard(self._directory, shard))
        if there < header.examples:
            raise UserError(
                f"{directory} has {there} of {header.examples} images",
                "Run the same 'vit_jax encode' again to finish it",
            )
        self._name = "indices" if header.kind == "indices" else "latents"
        self.label_names = header.label_names
        self.field_names = frozenset([self._name, *(["label"] if header.labels else [])])
        if header.labels:
            self.labels = np.concatenate(
                [read_array(shard_path(directory, "labels", shard)) for shard in range(header.shards)]
            )

    def __len__(self) -> int:
        return self.header.examples

    def __getitem__(self, index: int) -> dict[str, Any]:
        shard, row = divmod(int(index), self.header.shard)
        rows = read_array(shard_path(self._directory, "rows", shard))
        example = {self._name: np.asarray(rows[row]), "path": f"{self._directory} {index}"}
        return example | ({"label": int(self.labels[index])} if self.header.labels else {})


def build(directory: str) -> EncodedSource:
    """The images in a directory that `vit_jax encode` wrote."""
    return EncodedSource(directory)
