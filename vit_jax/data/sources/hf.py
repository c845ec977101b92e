"""Data sets of the library datasets (Hugging Face): by name from the hub, or as it saved them in a folder."""

import os
from collections.abc import Sequence
from typing import Any

from vit_jax.data.columns import chosen, image_bytes, numbered
from vit_jax.data.decode import UnreadableImage, read_file
from vit_jax.data.files import from_here
from vit_jax.errors import UserError, shortened
from vit_jax.naming import nearest

_HOW = "pip install 'vit_jax[datasets]'"


class DatasetsSource:
    """Encoded images out of a data set's Arrow tables, which lie on disk and are mapped into memory.

    Args:
        rows: a `datasets.Dataset` whose column of images is not decoded.
        image_key: that column.
        labels: class index of each row.
        label_names: of the classes.
        name: of the data set, for errors.
    """

    field_names = frozenset({"image", "label"})

    def __init__(self, rows: Any, image_key: str, labels: Any, label_names: Sequence[str], name: str):
        self._rows, self._image_key, self._name = rows, image_key, name
        self.labels, self.label_names = labels, tuple(label_names)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        cell, where = self._rows[index][self._image_key], f"{self._name}, row {index + 1}"
        image = image_bytes(cell)
        if image is None and isinstance(cell, dict) and cell.get("path"):
            image = read_file(cell["path"])
        if image is None:
            raise UnreadableImage(f"{where} has no image in {self._image_key!r}", "Leave it out")
        return {"image": image, "label": int(self.labels[index]), "path": where}


def build(
    dataset: str,
    split: str,
    config: str | None = None,
    image_key: str | None = None,
    label_key: str | None = None,
    label_names: Sequence[str] | str | None = None,
    cache: str | None = None,
) -> DatasetsSource:
    """Opens one split with `datasets.load_from_disk` where `dataset` is a folder that it saved, and else with
    `load_dataset`, which fetches what the hub has under the name once. Columns are found by their features: Image, and
    ClassLabel or else whole numbers or texts. Needs the extra 'datasets'.

    Args:
        dataset: a folder, or a name such as "ylecun/mnist".
        split: "train", "test", ... or a part such as "train[:90%]" of a name. A folder of one set has the split that
            it was saved as, where it says one.
        config: of a data set that has several.
        image_key, label_key: the columns, where several would do.
        label_names: the classes in order, or "imagenet1k" for ImageNet's; by default those of the feature, the
            texts, or the numbers.
        cache: where datasets keeps what it fetches.

    Raises:
        UserError: without the library, for a name or a split that is not there, and for a data set without images or
            labels.
    """
    try:
        import datasets
    except ImportError:
        raise UserError("The source 'hf' needs the library datasets, which is not installed", _HOW) from None
    rows = _opened(datasets, dataset, split, config, cache)
    features, where = rows.features, f"The split {split!r} of {dataset}"
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    plain = [
        name for name, kind in features.items() if getattr(kind, "dtype", "").startswith(("int", "uint", "string"))
    ]
    image_key = chosen(where, "image", image_key, images, list(features))
    label_key = chosen(where, "label", label_key, labels or plain, list(features))
    if image_key not in images:
        raise UserError(f"{where} has no images in {image_key!r}", nearest(image_key, images))
    names = label_names if label_names is not None else getattr(features[label_key], "names", None)
    numbers, names = numbered(where, list(rows[label_key]), names)
    plain_rows = rows.select_columns([image_key]).cast_column(image_key, datasets.Image(decode=False))
    return DatasetsSource(plain_rows, image_key, numbers, names, dataset)


def _opened(datasets: Any, dataset: str, split: str, config: str | None, cache: str | None) -> Any:
    """The rows of a split."""
    folder = os.path.expanduser(dataset)
    try:
        if not any(os.path.exists(os.path.join(folder, name)) for name in ("dataset_dict.json", "state.json")):
            return datasets.load_dataset(
                folder if os.path.isdir(folder) else dataset, config, split=split, cache_dir=cache
            )
        found = datasets.load_from_disk(folder)
    except (ValueError, OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        # What the hub and files raise: a name, a config or a split that is not there, no connection, damage.
        raise UserError(f"datasets cannot open {dataset!r}: {shortened(str(error), 300)}", "Check the name") from error
    if not isinstance(found, dict):
        own = None if found.split is None else str(found.split)
        if own not in (None, split):
            raise UserError(f"{from_here(folder)} holds the split {own!r} alone, and not {split!r}", f"Give {own!r}")
        return found
    if split not in found:
        raise UserError(f"{from_here(folder)} has no split {split!r}", nearest(split, list(found)))
    return found[split]
