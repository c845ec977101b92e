"""Images and labels in Parquet files, as the Hugging Face hub keeps them and data tools write them."""

import json
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from vit_jax.data.columns import chosen, image_bytes, numbered
from vit_jax.data.decode import MAX_FILE_BYTES, UnreadableImage
from vit_jax.data.text_files import text_paths
from vit_jax.errors import UserError, shortened
from vit_jax.naming import listed

_KEPT = 4  # row groups of images in memory at once, in each process
_OPEN = 64  # files, in each process
_MOST_IN_MEMORY = 2**30  # bytes of images that are read at once and kept


class ParquetSource:
    """Encoded images out of row groups, each of which is read when an image of it is asked for.

    Args:
        files: the Parquet files.
        groups: of each row group its file, its number there, and how many rows come before it.
        image_key: the column of images.
        labels: class index of each row.
        label_names: of the classes.
        kept: row groups that are kept in memory; the one that was used longest ago goes first.
    """

    field_names = frozenset({"image", "label"})

    def __init__(
        self,
        files: Sequence[str],
        groups: Sequence[tuple[int, int, int]],
        image_key: str,
        labels: np.ndarray,
        label_names: Sequence[str],
        kept: int,
    ):
        self._files, self._groups, self._image_key = list(files), list(groups), image_key
        self.labels, self.label_names, self._most = labels, tuple(label_names), kept
        self._starts = np.array([start for _, _, start in groups])
        self._before = {file: start for file, _, start in reversed(self._groups)}  # rows before each file
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[int, Any] = {}
        self._open: dict[int, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("_lock", "_kept", "_open")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        file = self._groups[group][0]
        where = f"{self._files[file]}, row {index - self._before[file] + 1}"
        column, row = self._column(group, where), index - int(self._starts[group])
        # Damaged, a file may have fewer images than labels.
        image = image_bytes(column[row].as_py()) if row < len(column) else None
        if image is None or len(image) > MAX_FILE_BYTES:
            raise UnreadableImage(
                f"{where} has no bytes of an image in {self._image_key!r}", "Put the file's bytes there"
            )
        return {"image": image, "label": int(self.labels[index]), "path": where}

    def _column(self, group: int, where: str) -> Any:
        """The images of a row group."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        with self._lock:  # a file is not to be read by two threads at once
            column = self._kept.pop(group, None)
            if column is None:
                file, number, _ = self._groups[group]
                try:
                    if file not in self._open:
                        while len(self._open) >= _OPEN:  # a process may have a thousand
                            self._open.pop(next(iter(self._open))).close()
                        self._open[file] = pq.ParquetFile(self._files[file])
                    column = self._open[file].read_row_group(number, columns=[self._image_key]).column(0)
                except (OSError, ValueError, pa.ArrowException) as error:
                    reason = shortened(str(error), 300)
                    raise UnreadableImage(f"{where} could not be read: {reason}", "Fetch the file again") from error
            self._kept[group] = column
            while len(self._kept) > self._most:
                del self._kept[next(iter(self._kept))]
        return column


def build(
    paths: str | Sequence[str],
    image_key: str | None = None,
    label_key: str | None = None,
    label_names: Sequence[str] | str | None = None,
) -> ParquetSource:
    """Reads Parquet files with a column of encoded images (bytes, or a struct with `bytes` as the library datasets
    writes it) and one of labels (whole numbers or texts). The columns are found by their types.

    Labels are read when the source is built. Images are read a row group at a time; up to 1 GB of them stay in memory.
    In the random order of training a larger set reads a row group for nearly every image: write it with small ones (100
    rows, as the hub does).

    Args:
        paths: a file, or several, or patterns such as "data/train-*.parquet".
        image_key, label_key: the columns, where several would do.
        label_names: the classes in order, or "imagenet1k" for ImageNet's; by default those that datasets wrote into the
            file, the texts in alphabetical order, or the numbers.

    Raises:
        UserError: when files are missing, are no Parquet, or cut short; when there is no column of images or of labels;
            for labels that are missing or outside the classes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = text_paths(paths, "images", "data/train-*.parquet")
    where = listed(files, 1)
    groups: list[tuple[int, int, int]] = []
    values: list[Any] = []
    schema, size = None, 0
    for k, path in enumerate(files):
        try:
            with pq.ParquetFile(path) as file:
                if schema is None:
                    schema = file.schema_arrow
                    image_key, label_key = _keys(path, schema, image_key, label_key)
                elif not {image_key, label_key} <= set(file.schema_arrow.names):
                    raise UserError(f"{path} has other columns than {files[0]}", "Give files of one table")
                for number in range(file.num_row_groups):
                    rows = file.metadata.row_group(number)
                    groups.append((k, number, len(values)))
                    values += file.read_row_group(number, columns=[label_key]).column(0).to_pylist()
                    size += _bytes(rows, image_key)
        except (OSError, ValueError, pa.ArrowException) as error:  # ValueError: names that are not UTF-8
            reason = shortened(str(error), 300)
            raise UserError(f"{path} is no Parquet file, or is cut short: {reason}", "Fetch it again") from error
    known = label_names if label_names is not None else _class_names(schema, label_key)
    labels, names = numbered(where, values, known)
    return ParquetSource(files, groups, image_key, labels, names, len(groups) if size <= _MOST_IN_MEMORY else _KEPT)


def _keys(path: str, schema: Any, image_key: str | None, label_key: str | None) -> tuple[str, str]:
    """The columns of images and of labels."""
    import pyarrow as pa

    def is_image(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return any(field.name == "bytes" and is_image(field.type) for field in kind)
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    def is_label(kind: Any) -> bool:
        return pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)

    images = [field.name for field in schema if is_image(field.type)]
    labels = [field.name for field in schema if is_label(field.type)]
    classes = [name for name in labels if _class_names(schema, name) is not None]
    return (
        chosen(path, "image", image_key, images, schema.names),
        chosen(path, "label", label_key, classes or labels, schema.names),
    )


def _class_names(schema: Any, key: str) -> list[str] | None:
    """The names that the library datasets wrote beside a column of classes."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[key]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return names if isinstance(names, list) and names and all(isinstance(name, str) for name in names) else None


def _bytes(rows: Any, key: str) -> int:
    """Bytes of a column in a row group, of all its parts."""
    columns = (rows.column(k) for k in range(rows.num_columns))
    return sum(c.total_uncompressed_size for c in columns if c.path_in_schema.split(".")[0] == key)
