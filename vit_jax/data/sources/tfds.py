"""Data sets that TFDS has prepared as ArrayRecord, read by index without TFDS or TensorFlow."""

import bisect
import dataclasses
import difflib
import itertools
import os
import stat
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource

from vit_jax.data import slices, tfds_folder
from vit_jax.data.decode import UnreadableImage
from vit_jax.data.files import allow_open, from_here, is_remote
from vit_jax.data.tf_example import Values, read_example
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

    def __init__(
        self,
        dataset: str,
        split: str,
        data_dir: str | None,
        image_key: str | None,
        label_key: str | None,
        fields: Mapping[str, tuple[str, ...]],
    ):
        self._arguments = (dataset, split, data_dir, image_key, label_key, fields)
        path = tfds_folder.find(dataset, data_dir)
        if path is None:
            raise _not_prepared(dataset, data_dir)
        prepared = tfds_folder.read(path)
        if prepared.file_format != "array_record":
            raise other_format(prepared)
        for name, key, known in (("image_key", image_key, prepared.images), ("label_key", label_key, prepared.labels)):
            if key is not None and key not in known:
                raise UserError(f"{dataset!r} has no {name} {key!r}", nearest(key, known))
        for name, key in (("image", image_key), ("label", label_key)):
            if key is not None and name in fields:
                raise UserError(
                    f"{dataset!r} gives {name!r} twice", f"Set {name}_key to None, or leave it out of fields"
                )
        for key in itertools.chain(*fields.values()):
            if key not in prepared.kinds:
                raise UserError(f"{dataset!r} has no feature {key!r}", nearest(key, sorted(prepared.kinds)))
        self.field_names = frozenset(fields) | {n for n, k in (("image", image_key), ("label", label_key)) if k}
        if not self.field_names:
            raise UserError(f"Nothing is taken of {dataset!r}", "Name features in `fields`")
        sizes = {name: split.size for name, split in prepared.splits.items()}
        chosen = slices.parse(split, sizes, repr(dataset))
        self._parts = [part for name, of in chosen for part in _parts(prepared.splits[name], of)]
        self._ends = list(itertools.accumulate(part.take for part in self._parts))
        _check_files(self._parts)
        # Each is opened when a record of it is first read, and stays open. Shuffled, that is soon all of them.
        allow_open(len([part for part in self._parts if not is_remote(part.filename)]), f"{dataset!r}")
        self._records = ArrayRecordDataSource(self._parts)
        self._image_key, self._label_key = image_key, label_key
        self._fields = {name: [(key, prepared.kinds[key]) for key in keys] for name, keys in fields.items()}
        self.label_names = prepared.labels[label_key] if label_key is not None else ()

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
        found: dict[str, Any] = {"path": name}
        for field, key, kind in (("image", self._image_key, bytes), ("label", self._label_key, int)):
            if key is not None:
                value = values.get(key, [])
                if len(value) != 1 or not isinstance(value[0], kind):
                    raise UnreadableImage(f"{name} has no {field}", "Fetch or prepare it again")
                found[field] = value[0]
        for field, keys in self._fields.items():
            try:
                found[field] = _value([(values.get(key, []), kind) for key, kind in keys])
            except ValueError as error:
                raise UnreadableImage(f"{name}, field {field!r}, {error}", "Fetch or prepare it again") from error
        return found

    def _name(self, index: int) -> str:
        k = bisect.bisect_right(self._ends, index)
        part = self._parts[k]
        return f"{part.filename}, record {index - self._ends[k] + part.take + part.skip}"

    def __reduce__(self) -> tuple:
        # Open files stay here: a worker opens its own.
        return TfdsSource, self._arguments


def _value(features: Sequence[tuple[Values, str]]) -> Any:
    """What a field is read from: bytes, a number, numbers in a row, or rows of what the features have for each object;
    of texts a list where there are several, as one feature of several captions or several features of one text each.

    Raises:
        ValueError: with a reason that completes "the field ...".
    """
    if all(kind == "Text" for _, kind in features):
        return _texts([values for values, _ in features])
    columns = []
    for values, kind in features:
        if any(isinstance(value, bytes) for value in values):
            if len(values) != 1 or len(features) != 1:
                raise ValueError(f"has {len(values)} texts or images where one is taken")
            return values[0]
        numbers = np.array(values, np.float64 if any(isinstance(v, float) for v in values) else np.int64)
        if kind == "BBoxFeature" and len(numbers) % 4:
            raise ValueError("has boxes of other than four numbers")
        columns.append(numbers.reshape(-1, 4) if kind == "BBoxFeature" else numbers)
    if len(columns) > 1:
        if len({len(column) for column in columns}) > 1:
            raise ValueError(f"has features of {', '.join(str(len(c)) for c in columns)} objects")
        return np.column_stack(columns)
    (numbers,), (_, kind) = columns, features[0]
    return numbers[0] if kind in ("Scalar", "ClassLabel") and numbers.shape == (1,) else numbers


def _texts(features: Sequence[Values]) -> bytes | list[bytes]:
    for values in features:
        if not values or not all(isinstance(value, bytes) for value in values):
            raise ValueError("has no text")
        if len(values) != 1 and len(features) != 1:
            raise ValueError(f"has {len(values)} texts where one is taken")
    texts = [value for values in features for value in values]
    return texts[0] if len(texts) == 1 else texts


def build(
    dataset: str,
    split: str,
    data_dir: str | None = None,
    image_key: str | None = "image",
    label_key: str | None = "label",
    fields: Mapping[str, str | Sequence[str]] | None = None,
) -> TfdsSource:
    """Opens one split of a prepared data set. Nothing that its files name is imported.

    Args:
        dataset: as TFDS names it, such as "cifar10" or, with config and version, "name/config:1.0.0"; or a data set
            of your own that `vit_jax prepare` wrote.
        split: "train", a part such as "train[:90%]" or "train[100:200]", or a sum such as "train+test".
        data_dir: where TFDS keeps prepared data sets, by default $TFDS_DATA_DIR or ~/tensorflow_datasets.
        image_key, label_key: the features to take as "image" and "label"; None takes none.
        fields: further fields of an example, each with the feature that it is: {"segmentation": "segmentation_mask"}.
            Members of a dictionary are named with a slash; several features give a row for each object, as
            {"boxes": ["objects/bbox", "objects/label"]}, and several texts a list, as
            {"text": ["premise", "hypothesis"]} for the field `token_pair`.

    Raises:
        UserError: for a data set that TFDS does not know, one that is not prepared (with the command that prepares
            it) or not as ArrayRecord, damaged metadata, a class in it that is not TFDS's own, an unknown or empty
            split, or features that are not there or neither an image nor a class label. While reading:
            `UnreadableImage` for a damaged record.
    """
    named = {name: (keys,) if isinstance(keys, str) else tuple(keys) for name, keys in (fields or {}).items()}
    folder = os.path.expanduser(data_dir) if data_dir else None
    return TfdsSource(dataset, split, folder, image_key, label_key, named)


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
