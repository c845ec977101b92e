"""Writing ArrayRecord data sets in TFDS's layout, without TensorFlow for images of one's own."""

import io
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8

from vit_jax.data import geometry, tfds_folder
from vit_jax.data.decode import UnreadableImage, decode
from vit_jax.data.source import Source
from vit_jax.errors import UserError

_JPEG_QUALITY = 95


def write(
    name: str,
    splits: Mapping[str, Source],
    data_dir: str | None = None,
    short_side: int | None = None,
    unreadable: list[UserError] | None = None,
) -> str:
    """Writes sources as the splits of a new data set; `vit_jax.data.sources.tfds` reads it by its name.

    Encoded images are copied byte for byte once they were seen to decode, arrays become PNG.

    Args:
        name: of lower-case letters, digits and underscores.
        splits: sources with class indices as labels, and the same classes.
        data_dir: where TFDS keeps data sets, by default $TFDS_DATA_DIR or ~/tensorflow_datasets.
        short_side: shrink images whose shorter side has more pixels to this, as JPEG of quality 95.
        unreadable: where the errors of images that were left out are collected.

    Returns:
        The folder that was written.

    Raises:
        UserError: for a name that cannot be used, one that is taken, classes that differ or have a line end in their
            names, or a split that has no readable image.
    """
    import tensorflow_datasets as tfds

    refuse_name(name)
    classes = shared_classes(splits)
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=list(classes)),
        }
    )

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Images written by vit_jax."""

        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = None

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {split: self._generate_examples(split, source) for split, source in splits.items()}

        def _generate_examples(self, split: str, source: Source) -> Iterator[tuple[int, dict[str, Any]]]:
            written = 0
            for index in range(len(source)):
                example = source[index]
                try:
                    image = encoded(example["image"], short_side, example.get("path"))
                except UnreadableImage as error:
                    if unreadable is None:
                        raise
                    unreadable.append(error)
                    continue
                written += 1
                yield index, {"image": io.BytesIO(image), "label": int(example["label"])}
            if not written:
                raise UserError(f"No image of the split {split!r} can be read", "Check the path")

    Builder.name = name
    # Looked at before TFDS reads what is there.
    path = os.path.join(tfds_folder.data_folder(data_dir), name, "1.0.0")
    if os.path.lexists(path):
        raise UserError(f"{path} exists already", "Remove it, or choose another name")
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with tempfile.TemporaryFile(dir=os.path.dirname(path)):
            pass
    except OSError as error:
        raise UserError(
            f"{os.path.dirname(path)} cannot be written: {error.strerror or error}", "Choose another --data-dir"
        ) from error
    builder = Builder(data_dir=os.path.expanduser(data_dir) if data_dir else None, file_format="array_record")
    builder.download_and_prepare()
    return os.fspath(builder.data_path)


def refuse_name(name: str) -> None:
    """Refuses a name of a data set that is none, or that TFDS's own builders would be found under first.

    Raises:
        UserError: naming it.
    """
    import tensorflow_datasets as tfds

    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"{name!r} cannot name a data set", "Use lower-case letters, digits and underscores")
    if name in tfds.list_builders(with_community_datasets=False):
        raise UserError(f"{name!r} is a data set of TFDS", "Choose another name")


def shared_classes(splits: Mapping[str, Source]) -> tuple[str, ...]:
    """The classes of all splits.

    Raises:
        UserError: where they differ, and for names that TFDS would not read as they are: it keeps them one a line, and
            strips the lines.
    """
    names = {source.label_names for source in splits.values()}
    if len(names) != 1:
        raise UserError("The splits have different classes", "Give all the same class names")
    (classes,) = names
    for label in classes:
        if label != label.strip() or len(label.splitlines()) != 1:
            raise UserError(
                f"The class {label!r} cannot be written: it is empty, or has blanks around it or a line end in it",
                "Rename it",
            )
    return classes


def encoded(image: bytes | UInt8[np.ndarray, "h w 3"], short_side: int | None, name: str | None) -> bytes:
    """An image as it is written: its own bytes once they were seen to decode, PNG of an array, JPEG of what is shrunk.

    Args:
        short_side: shrink it to this where its shorter side has more pixels.
        name: what to call it in errors.

    Raises:
        UnreadableImage: when it cannot be decoded.
    """
    pixels = image if not isinstance(image, bytes) else decode(image, name)
    if short_side is not None and min(pixels.shape[:2]) > short_side:
        return simplejpeg.encode_jpeg(geometry.resize_short_side(pixels, short_side), _JPEG_QUALITY, "RGB", "444")
    return image if isinstance(image, bytes) else cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
