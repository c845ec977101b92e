"""All masks of a photo: a grid of clicks, of whose answers the sure and stable ones are kept, each once.

Kirillov et al., "Segment anything" (arXiv:2304.02643), appendix B; the defaults and the order are those of the authors'
code. With crops the same is done again on parts of the photo, where small things are larger.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float64, Int, UInt8

from vit_jax.checkpoints.prompted import Prompted, stability
from vit_jax.data import rle
from vit_jax.errors import UserError
from vit_jax.nn.prompts import NOT_A_POINT, ON
from vit_jax.ranges import Count, Natural, NonNegative, Share

_NEAR_EDGE = 20  # pixels: what ends so near the edge of a crop is probably cut by it

Box = tuple[int, int, int, int]  # left, top, right, bottom


@dataclasses.dataclass(frozen=True)
class Found:
    """One mask of a photo.

    Args:
        rle: the mask, see `vit_jax.data.rle`.
        area: its pixels.
        box: left, top, right and bottom edge, of what it covers.
        predicted_iou: how much of it the model thinks it has right.
        stability: see `vit_jax.checkpoints.prompted.stability`.
        point: the click (x, y) in pixels of the photo to which it is an answer.
        crop: the part of the photo that the model saw.
    """

    rle: dict[str, Any]
    area: int
    box: tuple[int, int, int, int]
    predicted_iou: float
    stability: float
    point: tuple[float, float]
    crop: Box

    def record(self) -> dict[str, Any]:
        """Plain values, by the names of COCO's annotations and the authors'."""
        return {
            "segmentation": self.rle,
            "area": self.area,
            "bbox": coco_box(self.box),
            "predicted_iou": round(self.predicted_iou, 4),
            "stability_score": round(self.stability, 4),
            "point_coords": [list(self.point)],
            "crop_box": coco_box(self.crop),
        }

    @property
    def mask(self) -> Bool[np.ndarray, "H W"]:
        return rle.decode(self.rle)


@dataclasses.dataclass(frozen=True)
class MaskGenerator:
    """What is asked and what is kept.

    Args:
        points_per_side: clicks in a row, and rows of clicks.
        points_per_batch: clicks that are answered at a time.
        least_iou: an answer must be thought better than this.
        least_stability: and be at least so stable.
        stability_offset: logits by which the threshold is moved for that, both ways.
        most_overlap: of the boxes of two answers, as intersection over union; the one that is thought better is kept.
        crop_layers: times that the photo is cut, into 2x2, 4x4, ... parts.
        crop_most_overlap: as `most_overlap`, of answers of different parts; that of the smaller part is kept.
        crop_overlap: of parts beside each other, as a share of the photo's shorter side; half of it for 4x4.
        crop_points_divisor: by which clicks in a row become fewer with each layer.
        least_area: pixels of an island or a hole that is left; 0 leaves all.
    """

    points_per_side: Count = 32
    points_per_batch: Count = 64
    least_iou: Share = 0.88
    least_stability: Share = 0.95
    stability_offset: NonNegative = 1.0
    most_overlap: Share = 0.7
    crop_layers: Natural = 0
    crop_most_overlap: Share = 0.7
    crop_overlap: Share = 512 / 1500
    crop_points_divisor: Count = 1
    least_area: Natural = 0

    def __post_init__(self):
        if self.points_per_side // self.crop_points_divisor**self.crop_layers < 1:
            raise UserError(
                f"Of {self.points_per_side} clicks in a row none is left in layer {self.crop_layers}",
                "Give more, or fewer layers",
            )

    def __call__(
        self, prompted: Callable[[UInt8[np.ndarray, "h w 3"]], Prompted], photo: UInt8[np.ndarray, "H W 3"]
    ) -> list[Found]:
        """The masks of a photo, without crops the ones that are thought best first.

        Args:
            prompted: embeds a photo, or a part of it.
        """
        found: list[Found] = []
        for crop, layer in crops(photo.shape[:2], self.crop_layers, self.crop_overlap):
            found += self._of_crop(prompted, photo, crop, layer)
        if self.crop_layers and found:
            smaller = [-(f.crop[2] - f.crop[0]) * (f.crop[3] - f.crop[1]) for f in found]
            kept = distinct(np.array([_last_pixels(f.box) for f in found]), smaller, self.crop_most_overlap)
            found = [found[i] for i in kept]
        return self._tidied(found) if self.least_area and found else found

    def _of_crop(
        self, prompted: Callable[..., Prompted], photo: UInt8[np.ndarray, "H W 3"], crop: Box, layer: int
    ) -> list[Found]:
        left, top, right, bottom = crop
        part = prompted(np.ascontiguousarray(photo[top:bottom, left:right]))
        grid = point_grid(self.points_per_side // self.crop_points_divisor**layer)
        points = grid * np.array([right - left, bottom - top])
        found: list[Found] = []
        for start in range(0, len(points), self.points_per_batch):
            found += self._answers(part, points[start : start + self.points_per_batch], crop, photo.shape[:2])
        if not found:
            return []
        boxes = np.array([_last_pixels(f.box) for f in found])
        return [found[i] for i in distinct(boxes, [f.predicted_iou for f in found], self.most_overlap)]

    def _answers(
        self, part: Prompted, points: Float64[np.ndarray, "n 2"], crop: Box, shape: tuple[int, int]
    ) -> Iterator[Found]:
        """What is sure, stable and not cut by the crop among the three answers to each click."""
        # The last batch is filled up, so that all are one program.
        asked = part.in_frame(np.resize(points, (self.points_per_batch, 2)))
        prompts = np.stack([asked, np.zeros_like(asked)], axis=1)
        labels = np.tile(np.int32([ON, NOT_A_POINT]), (len(asked), 1))
        logits, iou, _ = part.predict(prompts, labels)
        sure = np.argwhere(iou[: len(points), 1:] > self.least_iou)
        for click, answer in sure:
            full = part.at_photo(logits[click, 1 + answer][None])
            steady = float(stability(full, self.stability_offset)[0])
            mask = full[0] > 0
            if steady < self.least_stability or not mask.any():
                continue
            box = mask_box(mask)
            if _is_cut(_last_pixels(box), crop, shape):
                continue
            left, top = crop[:2]
            whole = np.zeros(shape, bool)
            whole[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
            x, y = points[click]
            yield Found(
                rle.encode(whole),
                int(mask.sum()),
                (box[0] + left, box[1] + top, box[2] + left, box[3] + top),
                float(iou[click, 1 + answer]),
                steady,
                (float(x) + left, float(y) + top),
                crop,
            )

    def _tidied(self, found: Sequence[Found]) -> list[Found]:
        """Without small holes and islands, and each once again, those first of which nothing was changed."""
        tidied, unchanged = [], []
        for each in found:
            mask, filled = without_small(each.mask, self.least_area, holes=True)
            mask, cleared = without_small(mask, self.least_area, holes=False)
            changed = filled or cleared
            unchanged.append(float(not changed))
            if changed:
                each = dataclasses.replace(each, rle=rle.encode(mask), area=int(mask.sum()), box=mask_box(mask))
            tidied.append(each)
        boxes = np.array([_last_pixels(f.box) for f in tidied])
        return [tidied[i] for i in distinct(boxes, unchanged, max(self.most_overlap, self.crop_most_overlap))]


def point_grid(side: int) -> Float64[np.ndarray, "n 2"]:
    """Points (x, y) in the middles of side x side cells of the unit square, row by row."""
    middles = np.linspace(1 / (2 * side), 1 - 1 / (2 * side), side)
    return np.stack(np.meshgrid(middles, middles), axis=-1).reshape(-1, 2)


def crops(shape: tuple[int, int], layers: int, overlap: float) -> Iterator[tuple[Box, int]]:
    """The whole photo of (height, width), then in each layer its 2^l x 2^l parts, column by column, and the layer."""
    height, width = shape
    yield (0, 0, width, height), 0
    for layer in range(1, layers + 1):
        count = 2**layer
        shared = int(overlap * min(shape) * 2 / count)
        wide, high = (math.ceil((shared * (count - 1) + side) / count) for side in (width, height))
        for i, j in itertools.product(range(count), repeat=2):
            left, top = i * (wide - shared), j * (high - shared)
            yield (left, top, min(left + wide, width), min(top + high, height)), layer


def distinct(boxes: Float[np.ndarray, "n 4"], scores: Sequence[float], most: float) -> Int[np.ndarray, " k"]:
    """Which boxes are left, the best first, when of two that overlap by more than `most` the worse one goes."""
    order = np.argsort(-np.asarray(scores, np.float32), kind="stable")
    x = boxes[order].astype(np.float32)
    area = (x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1])
    alive, kept = np.ones(len(x), bool), []
    for i in range(len(x)):
        if not alive[i]:
            continue
        kept.append(order[i])
        sides = np.maximum(np.minimum(x[i, 2:], x[i:, 2:]) - np.maximum(x[i, :2], x[i:, :2]), 0)
        both = sides[:, 0] * sides[:, 1]
        with np.errstate(invalid="ignore"):  # boxes without area overlap with nothing
            alive[i:] &= ~(both / (area[i] + area[i:] - both) > most)
    return np.array(kept, int)


def mask_box(mask: Bool[np.ndarray, "h w"]) -> Box:
    """Left, top, right and bottom edge of what a mask covers; zeros for an empty one."""
    if not mask.any():
        return 0, 0, 0, 0
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def coco_box(box: Box) -> list[int]:
    """Left, top, width and height, as COCO has them."""
    left, top, right, bottom = box
    return [left, top, right - left, bottom - top]


def without_small(mask: Bool[np.ndarray, "h w"], least: int, holes: bool) -> tuple[Bool[np.ndarray, "h w"], bool]:
    """The mask without holes, or islands, of fewer than `least` pixels, and whether there were any.

    Pixels that touch at a corner hang together. If all islands are small the largest one stays.
    """
    count, regions, stats, _ = cv2.connectedComponentsWithStats((mask ^ holes).astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    small = 1 + np.flatnonzero(areas < least)
    if not len(small):
        return mask, False
    if holes:
        return mask | np.isin(regions, small), True
    large = np.setdiff1d(np.arange(1, count), small)
    return np.isin(regions, large if len(large) else 1 + areas.argmax()), True


def _last_pixels(box: Box) -> tuple[int, int, int, int]:
    """A box as the authors have it: from the first to the last pixel, so that it is a pixel smaller; by these boxes
    it is decided which answers are the same."""
    left, top, right, bottom = box
    return left, top, max(right - 1, left), max(bottom - 1, top)


def _is_cut(box: tuple[int, int, int, int], crop: Box, shape: tuple[int, int]) -> bool:
    """Whether a box in a crop ends at the crop's edge where that is not the photo's."""
    ends = np.array(box) + np.tile(crop[:2], 2)
    at_crop = np.abs(ends - np.array(crop)) <= _NEAR_EDGE
    at_photo = np.abs(ends - np.array([0, 0, shape[1], shape[0]])) <= _NEAR_EDGE
    return bool((at_crop & ~at_photo).any())
