"""Data sets that TFDS has prepared as ArrayRecord, read by index without TensorFlow."""

import difflib
import os
from types import ModuleType
from typing import Any

from vit_jax.errors import UserError
from vit_jax.naming import nearest


class TfdsSource:
    """Encoded images of one split, read when they are asked for; see `build` for the arguments."""

    def __init__(self, dataset: str, split: str, data_dir: str | None, image_key: str, label_key: str):
        self._arguments = (dataset, split, data_dir, image_key, label_key)
        import tensorflow_datasets as tfds  # half a second

        builder = open_builder(dataset, data_dir)
        if not builder.is_prepared():
            raise UserError(f"The data set {dataset!r} is not prepared in {_folder(data_dir)}", _how(dataset, data_dir))
        if builder.info.file_format.value != "array_record":
            raise UserError(
                f"{builder.data_path} holds {builder.info.file_format.value} files, which cannot be read by index",
                f"Convert it, which needs the extra 'prepare': python -m tensorflow_datasets.scripts.convert_format"
                f" --dataset_dir={builder.data_path} --out_file_format=array_record --out_path=NEW",
            )
        features = builder.info.features
        labels = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
        images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
        for name, key, known in (("image_key", image_key, images), ("label_key", label_key, labels)):
            if key not in known:
                raise UserError(f"{dataset!r} has no {name} {key!r}", nearest(key, known))
        try:
            size = builder.info.splits[split].num_examples
        except (ValueError, KeyError) as error:
            raise UserError(
                f"{dataset!r} has no split {split!r}",
                f"Its splits are {', '.join(builder.info.splits)}, of which TFDS takes parts and sums: 'train[:90%]',"
                " 'train[100:200]', 'train+test'",
            ) from error
        if size == 0:
            raise UserError(f"The split {split!r} of {dataset!r} is empty", "Take a larger part")
        # The bytes as they are: our own decoder takes images that TFDS decodes wrongly or not at all, and segmentation
        # masks need no decoding here.
        skipped = {key: tfds.decode.SkipDecoding() for key in images}
        self._records = builder.as_data_source(split, decoders=skipped)
        self._image_key, self._label_key, self._name = image_key, label_key, f"{dataset} {split}"
        self.label_names = tuple(features[label_key].names)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self._records[index]
        image, label = record[self._image_key], int(record[self._label_key])
        return {"image": image, "label": label, "path": f"{self._name}, record {index}"}

    def __reduce__(self) -> tuple:
        # Open files and TFDS's metadata stay here: a worker opens its own.
        return TfdsSource, self._arguments


def build(
    dataset: str, split: str, data_dir: str | None = None, image_key: str = "image", label_key: str = "label"
) -> TfdsSource:
    """Opens one split of a prepared data set.

    Args:
        dataset: as TFDS names it, such as "cifar10" or, with config and version, "name/config:1.0.0"; or a data set
            of your own that `vit_jax prepare` wrote.
        split: "train", a part such as "train[:90%]" or "train[100:200]", or a sum such as "train+test".
        data_dir: where TFDS keeps prepared data sets, by default $TFDS_DATA_DIR or ~/tensorflow_datasets.
        image_key, label_key: the features to take.

    Raises:
        UserError: for a data set that TFDS does not know, one that is not prepared (with the command that prepares
            it) or not as ArrayRecord, an unknown or empty split, or features that are no image and no class label.
    """
    return TfdsSource(dataset, split, os.path.expanduser(data_dir) if data_dir else None, image_key, label_key)


def open_builder(dataset: str, data_dir: str | None, file_format: str | None = None) -> Any:
    """The TFDS builder of a data set, prepared or not.

    Args:
        file_format: of files that are yet to be written.

    Raises:
        UserError: when TFDS does not know it, or it is prepared in another format.
    """
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(dataset, data_dir=data_dir, file_format=file_format)
    except tfds.core.DatasetNotFoundError as error:
        raise UserError(
            f"TFDS knows no data set {dataset!r}, and {_folder(data_dir)} holds none of that name",
            f"{_close(dataset, tfds)}Or write images of your own there: vit_jax prepare NAME --folder PHOTOS",
        ) from error
    except (ValueError, AssertionError, ImportError) as error:
        reason = next(line for line in str(error).splitlines() if line.strip())
        raise UserError(f"TFDS cannot open {dataset!r}: {reason}", "Check its name, config and version") from error


def _close(dataset: str, tfds: ModuleType) -> str:
    close = difflib.get_close_matches(dataset, tfds.list_builders(with_community_datasets=False), n=1)
    return f"Did you mean {close[0]!r}? " if close else ""


def _folder(data_dir: str | None) -> str:
    return data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")


def _how(dataset: str, data_dir: str | None) -> str:
    where = f" --data-dir {data_dir}" if data_dir else ""
    return f"Prepare it: vit_jax prepare {dataset}{where}"
