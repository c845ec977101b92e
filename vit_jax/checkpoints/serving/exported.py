"""Reading an exported model back: a folder in, a function of images out, without the code of the model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from vit_jax.checkpoints.json_file import JsonObject, read_json, shown
from vit_jax.checkpoints.serving import onnx, savedmodel, stablehlo
from vit_jax.checkpoints.serving.exported_texts import TEXT_VERSION, ExportedTexts, inputs_of
from vit_jax.data.decode import decode
from vit_jax.data.pixels import as_rgb
from vit_jax.data.preprocess import Preprocess
from vit_jax.errors import UserError
from vit_jax.spelling import nearest

ABOUT = "export.json"
VERSION = 1  # of what ABOUT says of a model of images
FORMATS = {"stablehlo": stablehlo, "onnx": onnx, "savedmodel": savedmodel}


@dataclass(frozen=True)
class Exported:
    """An exported model, ready to use.

    Args:
        path: the folder.
        about: what its export.json says: inputs, outputs, labels, preprocessing, where it is from, how it was checked.
        run: images to outputs.
    """

    path: Path
    about: JsonObject
    run: Callable[[Shaped[np.ndarray, "B H W C"]], Mapping[str, Any]]

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the logits; empty where it has none."""
        return tuple(self.about.texts("labels") or ())

    @cached_property
    def preprocess(self) -> Preprocess:
        """How images become what the model was trained on, whoever does it."""
        return Preprocess.from_json(self.about.object("preprocess"))

    def prepare(self, images: Sequence[Any]) -> Shaped[np.ndarray, "B H W C"]:
        """Images as the program takes them, see `self.about["preprocessing"]`.

        Args:
            images: paths, encoded bytes, Pillow images or uint8 [H, W, 3]; of one size where the program resizes.

        Raises:
            UserError: an image that cannot be read, sizes that differ, or a program for other channels than three.
        """
        if (channels := self.about.object("input")["shape"][3]) != 3:
            raise UserError(
                f"{self.path} takes images of {channels} channels, and only those of 3 are prepared",
                "Call it with images that are prepared as those that the model was trained on",
            )
        kind = self.about.text("preprocessing")
        if kind != "resize":
            return np.stack([self.preprocess(x) if kind == "none" else self.preprocess.to_uint8(x) for x in images])
        rows = [decode(x) if isinstance(x, (bytes, str, os.PathLike)) else as_rgb(x) for x in images]
        if len({row.shape for row in rows}) > 1:
            raise UserError("The images of a batch have different sizes", "Give images of one size at a time")
        return np.stack(rows)

    def __call__(self, images: Shaped[np.ndarray, "B H W C"]) -> dict[str, Shaped[np.ndarray, "B ..."]]:
        """Outputs by name of images as the program takes them, see `prepare`.

        Raises:
            UserError: images of another shape or type.
        """
        images = np.asarray(images)
        shape, dtype = self.about.object("input")["shape"], self.about.object("input").text("dtype")
        fits = len(shape) == images.ndim and all(
            isinstance(a, str) or a == b for a, b in zip(shape, images.shape, strict=True)
        )
        if not fits or images.dtype.name != dtype or not len(images):
            raise UserError(
                f"This program takes images {dtype} [{', '.join(map(str, shape))}], not {images.dtype}"
                f" {list(images.shape)}",
                "Use what prepare([path, ...]) gives" if shape[3] == 3 else "Prepare them so",
            )
        return {name: np.asarray(value) for name, value in self.run(images).items()}

    def probabilities(self, images: Shaped[np.ndarray, "B H W C"]) -> Float[np.ndarray, "B K"]:
        """Of the classes: softmax or sigmoid of the logits, as the model was trained.

        Raises:
            UserError: a program without logits.
        """
        found = self(images)
        if "logits" not in found:
            raise UserError(f"{self.path} gives no logits", f"It gives {', '.join(found)}")
        logits = found["logits"].astype(np.float64)
        if self.about.text("objective") == "sigmoid":
            return 0.5 + 0.5 * np.tanh(logits / 2)
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        return shares / shares.sum(-1, keepdims=True)

    def top(self, image: Any, most: int = 5) -> list[tuple[str, float]]:
        """The most probable classes of one image, as `prepare` takes it, with their probabilities."""
        images = self.prepare([image])
        size = self.about.object("input")["shape"][0]
        row = self.probabilities(np.repeat(images, size, axis=0) if isinstance(size, int) else images)[0]
        names = self.labels or tuple(map(str, range(len(row))))
        return [(names[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:most]]


def load_exported(path: str | os.PathLike[str]) -> Exported | ExportedTexts:
    """A model of images, or of texts, that `vit_jax export` wrote, whichever the format.

    Args:
        path: the folder.

    Raises:
        UserError: no exported model there, one that is damaged or newer than this version, or of a format whose library
            is not installed.
    """
    folder = Path(path)
    if not (folder / ABOUT).is_file():
        raise UserError(f"{folder} holds no {ABOUT}", "Name a folder that 'vit_jax export' wrote")
    about = read_json(folder / ABOUT)
    if (version := about.integer("version", 0)) > TEXT_VERSION:
        raise UserError(
            f"{folder} has version {version}, newer than the {TEXT_VERSION} that is known here", "Update vit_jax"
        )
    kind = about.text("format", "")
    if kind not in FORMATS:
        raise UserError(f"{folder / ABOUT} names no format: {shown(kind)}", nearest(kind, FORMATS))
    if version == TEXT_VERSION:
        return ExportedTexts(folder, about, inputs_of(about), FORMATS[kind].read(folder))
    _check_input(about)
    return Exported(folder, about, FORMATS[kind].read(folder))


def _check_input(about: JsonObject) -> None:
    given = about.object("input")
    shape = given.get("shape")
    whole = isinstance(shape, list) and len(shape) == 4
    if not whole or not all(isinstance(side, str) or (type(side) is int and side > 0) for side in shape):
        raise given.error("shape", "is not that of a batch of images")
    if given.text("dtype") not in ("uint8", "float32"):
        raise given.error("dtype", "is neither uint8 nor float32")
