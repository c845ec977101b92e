"""What a model says of whole photos, from views of the size that it takes: windows, scales, mirror images."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from vit_jax.data.fields import Fields
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.data.placement import Placement
from vit_jax.data.preprocess import Preprocess


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which views a photo is seen by.

    Args:
        windows: parts of the photo, with its aspect ratio kept, at a stride of two thirds of a part; otherwise the
            whole photo is squashed to the model's size.
        short_side: pixels of the photo's shorter side at a scale of 1, where it is seen by windows.
        scales: of the photo, each with windows of its own.
        flip: each view also mirrored.
    """

    windows: bool
    short_side: int
    scales: tuple[float, ...]
    flip: bool

    def views(self, shape: tuple[int, int], preprocess: Preprocess) -> list[tuple[int, Placement]]:
        """The number of the scale, and mirror image, that a view belongs to, and the view, for a photo of this size."""
        found, groups, size = [], 0, preprocess.image_size
        fill = tuple(min(max(round(value), 0), 255) for value in preprocess.mean)
        for scale in self.scales:
            if self.windows:
                factor = self.short_side * scale / min(shape)
                sides = [max(1, round(side / factor)) for side in size]
                boxes = [
                    (top, left, *sides) for top in _starts(shape[0], sides[0]) for left in _starts(shape[1], sides[1])
                ]
            else:
                boxes = [(0, 0, *shape)]
            for flip in (False, True)[: 1 + self.flip]:
                for box in boxes:
                    place = Placement(box, size, flip, interpolation=preprocess.interpolation, fill=fill)
                    found.append((groups, place))
                groups += 1
        return found


def _starts(whole: int, side: int) -> list[int]:
    """Where windows of a side begin, so that they cover the whole: the last one ends with it."""
    stride = max(1, 2 * side // 3)
    count = max(0, -(-(whole - side) // stride)) + 1
    return [max(0, min(k * stride, whole - side)) for k in range(count)]


class Views:
    """The views of all photos of a pipeline, one after the other, as a source of images."""

    field_names = frozenset({"image"})
    label_names = ()

    def __init__(self, pipeline: EvalPipeline, plan: Plan):
        self._source, self._image = pipeline.source, pipeline.fields["image"]
        self.shapes: list[tuple[int, int]] = []
        self.rows: list[tuple[int, int, Placement]] = []
        for index in range(len(self._source)):
            shape = tuple(self._opened(index)[0].shape[:2])
            self.shapes.append(shape)
            self.rows += [(index, group, place) for group, place in plan.views(shape, self._image.preprocess)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        index, _, place = self.rows[int(row)]
        image, where = self._opened(index)
        return {"image": place.image(image), "path": where}

    def _opened(self, index: int) -> tuple[Any, str]:
        """A photo, of which no more need be decoded than is asked for."""
        raw = self._source[index]
        where = raw.get("path") or f"Example {index}"
        return self._image.open(raw["image"], where, None), where


def pipeline_of(pipeline: EvalPipeline, views: Views) -> EvalPipeline:
    """The views as batches: they have the model's size and only have to be normalised."""
    image = pipeline.fields["image"]
    plain = dataclasses.replace(image.preprocess, resize="squash", resize_to=None, trim=(0, 0))
    return pipeline.over(views, Fields({"image": dataclasses.replace(image, preprocess=plain)}), None)


def of_photos(
    views: Views, parts: Iterator[Mapping[str, np.ndarray]]
) -> Iterator[tuple[int, Float[np.ndarray, "H W K"]]]:
    """Each photo's index, and probabilities of its pixels: the mean over scales and mirror images of the softmax of
    logits, which are means over the windows that show a pixel.

    Args:
        parts: batches of "logits" [B, h, w, K] of the views, of which "index" are valid where "valid" says so.
    """
    rows = (row for part in parts for row in zip(part["logits"], part["index"], part["valid"], strict=True))
    logits: dict[int, Float32[np.ndarray, "H W K"]] = {}
    counts: dict[int, np.ndarray] = {}
    for found, number, valid in rows:
        if not valid:
            continue
        index, group, place = views.rows[int(number)]
        back = place.inverse(views.shapes[index])
        seen = back.smooth(np.ones(found.shape[:2], np.float32), 0.0)
        placed = back.smooth(found, 0.0)
        logits[group] = logits[group] + placed if group in logits else placed
        counts[group] = counts[group] + seen if group in counts else seen
        if int(number) + 1 == len(views.rows) or views.rows[int(number) + 1][0] != index:
            shares = [_softmax(logits[g] / np.maximum(counts[g], 1e-6)[..., None]) for g in logits]
            yield index, sum(shares) / len(shares)
            logits, counts = {}, {}


def _softmax(logits: Float[np.ndarray, "H W K"]) -> Float[np.ndarray, "H W K"]:
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)
