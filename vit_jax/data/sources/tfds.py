"""Data sets that TFDS has prepared as ArrayRecord, read by index without TFDS or TensorFlow."""

import bisect
import dataclasses
import difflib
import itertools
import os
import stat
from typing import Any

from array_record.python.array_record_data_source import ArrayRecordDataSource

from vit_jax.data import slices, tfds_folder
from vit_jax.data.decode import UnreadableImage
from vit_jax.data.files import from_here, is_remote
from vit_jax.data.tf_example import read_example
from vit_jax.errors import UserError
from vit_jax.naming import nearest


@dataclasses.dataclass(frozen=True)
class _Part:
    """Records of one file, in the form that ArrayRecordDataSource takes."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


class TfdsSource:
    """Encoded images of one split, read when they are asked for; see `build` for the arguments."""

    def __init__(self, dataset: str, split: str, data_dir: str | None, image_key: str, label_key: str):
        self._arguments = (dataset, split, data_dir, image_key, label_key)
        path = tfds_folder.find(dataset, data_dir)
        if path is None:
            raise _not_prepared(dataset, data_dir)
        prepared = tfds_folder.read(path)
        if prepared.file_format != "array_record":
            raise other_format(prepared)
        for name, key, known in (("image_key", image_key, prepared.images), ("label_key", label_key, prepared.labels)):
            if key not in known:
                raise UserError(f"{dataset!r} has no {name} {key!r}", nearest(key, known))
        sizes = {name: split.size for name, split in prepared.splits.items()}
        chosen = slices.parse(split, sizes, repr(dataset))
        self._parts = [part for name, of in chosen for part in _parts(prepared.splits[name], of)]
        self._ends = list(itertools.accumulate(part.take for part in self._parts))
        _check_files(self._parts)
        self._records = ArrayRecordDataSource(self._parts)
        self._image_key, self._label_key = image_key, label_key
        self.label_names = prepared.labels[label_key]

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        name = self._name(index)
        try:
            values = read_example(self._records[index])
        except (RuntimeError, ValueError) as error:  # what ArrayRecord raises for damage and for what it cannot read
            raise UnreadableImage(
                f"{name} could not be read: {str(error)[:200]}", "Fetch or prepare it again"
            ) from error
        image, label = (values.get(key, []) for key in (self._image_key, self._label_key))
        if len(image) != 1 or not isinstance(image[0], bytes) or len(label) != 1 or not isinstance(label[0], int):
            raise UnreadableImage(f"{name} has no image or no label", "Fetch or prepare it again")
        return {"image": image[0], "label": label[0], "path": name}

    def _name(self, index: int) -> str:
        k = bisect.bisect_right(self._ends, index)
        part = self._parts[k]
        return f"{part.filename}, record {index - self._ends[k] + part.take + part.skip}"

    def __reduce__(self) -> tuple:
        # Open files stay here: a worker opens its own.
        return TfdsSource, self._arguments


def build(
    dataset: str, split: str, data_dir: str | None = None, image_key: str = "image", label_key: str = "label"
) -> TfdsSource:
    """Opens one split of a prepared data set. Nothing that its files name is imported.

    Args:
        dataset: as TFDS names it, such as "cifar10" or, with config and version, "name/config:1.0.0"; or a data set
            of your own that `vit_jax prepare` wrote.
        split: "train", a part such as "train[:90%]" or "train[100:200]", or a sum such as "train+test".
        data_dir: where TFDS keeps prepared data sets, by default $TFDS_DATA_DIR or ~/tensorflow_datasets.
        image_key, label_key: the features to take.

    Raises:
        UserError: for a data set that TFDS does not know, one that is not prepared (with the command that prepares
            it) or not as ArrayRecord, damaged metadata, a class in it that is not TFDS's own, an unknown or empty
            split, or features that are neither an image nor a class label. While reading: `UnreadableImage` for a
            damaged record.
    """
    return TfdsSource(dataset, split, os.path.expanduser(data_dir) if data_dir else None, image_key, label_key)


def other_format(prepared: tfds_folder.Prepared) -> UserError:
    """That a data set cannot be read by index, and the command that makes one that can."""
    return UserError(
        f"{prepared.path} holds {prepared.file_format} files, which cannot be read by index",
        f"Convert it, which needs the extra 'prepare': python -m tensorflow_datasets.scripts.convert_format"
        f" --dataset_dir={prepared.path} --out_file_format=array_record --out_path=NEW",
    )


def _parts(split: tfds_folder.Split, wanted: range) -> list[_Part]:
    """Which records of which files are the examples `wanted` of a split."""
    parts, first = [], 0
    for file, length in zip(split.files, split.lengths, strict=True):
        start, stop = max(wanted.start, first), min(wanted.stop, first + length)
        if start < stop:
            parts.append(_Part(file, start - first, stop - start, length))
        first += length
    return parts


def _check_files(parts: list[_Part]) -> None:
    """Each file is there, is a file, and may hold what is said of it: a record takes a byte at least."""
    for part in parts:
        if is_remote(part.filename):
            continue
        try:
            status = os.stat(part.filename)
        except OSError as error:
            raise UserError(f"{part.filename} could not be read: {error.strerror}", "Fetch it again") from error
        if not stat.S_ISREG(status.st_mode) or status.st_size < part.examples_in_shard:
            raise UserError(f"{part.filename} cannot hold {part.examples_in_shard} records", "Fetch it again")
        if not os.access(part.filename, os.R_OK):
            raise UserError(f"{part.filename} may not be read", "Change its permissions")


def _not_prepared(dataset: str, data_dir: str | None) -> UserError:
    import tensorflow_datasets as tfds  # half a second; only its list of names is asked for

    name, _, _ = tfds_folder.split_name(dataset)
    folder, known = from_here(tfds_folder.data_folder(data_dir)), tfds.list_builders(with_community_datasets=False)
    where = f" --data-dir {data_dir}" if data_dir else ""
    if name in known:
        return UserError(
            f"The data set {dataset!r} is not prepared in {folder}", f"Prepare it: vit_jax prepare {dataset}{where}"
        )
    own = os.path.join(tfds_folder.data_folder(data_dir), name)
    if os.path.isdir(own):
        return UserError(
            f"{own} holds no {dataset!r} that TFDS has prepared",
            "Write its config and version too, as in name/config:1.0.0, if it has several",
        )
    close = difflib.get_close_matches(name, known, n=1)
    return UserError(
        f"TFDS knows no data set {dataset!r}, and {folder} holds none of that name",
        (f"Did you mean {close[0]!r}? " if close else "")
        + "Or write images of your own there: vit_jax prepare NAME --folder PHOTOS",
    )
