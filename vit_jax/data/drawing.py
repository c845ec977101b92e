"""What lies on an image, drawn into its pixels; and what stands beside it, a legend or a title, as pixels too."""

import colorsys
import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8

from vit_jax.data.geometry import Image

Color = tuple[int, int, int]

_SIDE = 160  # smaller images are enlarged before anything is drawn on them
_FONT, _SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.4
_LINE = 16  # pixels of a line of text
# The colours of clicks: of one that is not on the object, and of one that is.
_CLICKS = ((220, 40, 40), (40, 200, 60))


def enlarged(image: Image) -> tuple[UInt8[np.ndarray, "h w 3"], int]:
    """A copy with room for lines, and how many times as large it is."""
    times = max(1, -(-_SIDE // max(image.shape[:2])))
    return np.ascontiguousarray(image.repeat(times, axis=0).repeat(times, axis=1)), times


def color(number: int) -> Color:
    """One of each label; neighbouring numbers are far apart."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.9, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def labels(
    image: Image,
    values: Shaped[np.ndarray, "h w"],
    known: Bool[np.ndarray, "h w"],
    colors: UInt8[np.ndarray, "K 3"] | None = None,
) -> Image:
    """Each pixel half in the colour of its label, or of a measurement from dark to light; unchanged where none is.

    Args:
        values: [h, w] of which the image has a multiple of the rows.
        known: where there is one.
        colors: of the labels from 0 on, instead of `color`.
    """
    times = image.shape[0] // values.shape[0]
    if values.dtype.kind == "f":
        low, high = (values[known].min(), values[known].max()) if known.any() else (0, 1)
        levels = np.clip((values - low) / max(high - low, 1e-12) * 255, 0, 255).astype(np.uint8)
        tints = cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[..., ::-1]
    elif colors is not None:
        tints = colors[np.where(known, values, 0)]
    else:
        numbers, place = np.unique(values, return_inverse=True)
        tints = np.array([color(int(n)) for n in numbers], np.uint8)[place.reshape(values.shape)]
    tints, known = (x.repeat(times, axis=0).repeat(times, axis=1) for x in (tints, known))
    return np.where(known[..., None], image // 2 + tints // 2, image).astype(np.uint8)


def masks(
    image: Image, masks: Shaped[np.ndarray, "n h w"], colors: Sequence[Color] | UInt8[np.ndarray, "n 3"] | None = None
) -> Image:
    """The pixels of each half in a colour of its own, with an edge; the smaller on top, so that parts are seen.

    Args:
        masks: of any size; what is not zero is in it.
        colors: one for each, instead of `color`.
    """
    image = image.copy()
    height, width = image.shape[:2]
    sized = [cv2.resize((m != 0).astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) for m in masks]
    for k in sorted(range(len(sized)), key=lambda k: -int(sized[k].sum())):
        tint = np.array(color(k) if colors is None else colors[k], np.uint8)
        inside = sized[k] != 0
        image[inside] = image[inside] // 2 + tint // 2
        image[inside & (cv2.erode(sized[k], np.ones((3, 3), np.uint8), borderValue=0) == 0)] = tint
    return image


def points(image: Image, xy: Float[np.ndarray, "n 2"], times: int, kinds: Int[np.ndarray, " n"] | None = None) -> Image:
    """A dot at each, in a colour of its own.

    Args:
        times: how many times as large as the points' frame the image is.
        kinds: of clicks, as SAM counts them: 1 on the object is green, 0 beside it red, and others are no clicks.
    """
    image = image.copy()
    radius = 3 if kinds is None else max(3, max(image.shape[:2]) // 100)
    for k, (x, y) in enumerate(xy):
        if kinds is not None and kinds[k] not in (0, 1):
            continue
        place = round(float(x) * times), round(float(y) * times)
        cv2.circle(image, place, radius + 1, (0, 0, 0) if kinds is None else (255, 255, 255), -1)
        cv2.circle(image, place, radius, color(k) if kinds is None else _CLICKS[kinds[k]], -1)
    return image


def boxes(
    image: Image,
    xyxy: Float[np.ndarray, "n 4"],
    kinds: Int[np.ndarray, " n"],
    times: int,
    colors: UInt8[np.ndarray, "K 3"] | None = None,
) -> Image:
    """The frame of each, in the colour of its class: `color`, or that of `colors`."""
    image = image.copy()
    for box, kind in zip(xyxy, kinds, strict=True):
        left, top, right, bottom = (round(float(side) * times) for side in box)
        tint = color(int(kind)) if colors is None else tuple(map(int, colors[kind]))
        cv2.rectangle(image, (left, top), (right - 1, bottom - 1), tint, 2)
    return image


def class_map(
    values: Int[np.ndarray, "h w"],
    names: Sequence[str],
    colors: UInt8[np.ndarray, "K 3"],
    *,
    known: Bool[np.ndarray, "h w"] | None = None,
    image: Image | None = None,
) -> Image:
    """Each pixel in the colour of its class, and under the picture the classes that occur, most first.

    Args:
        values: labels from 0 on.
        names: of the classes; none for numbers.
        colors: of the classes, see `vit_jax.data.palettes.colors_for`.
        known: where there is a label; everywhere by default. Elsewhere it is black.
        image: of the same size, under it half in the classes' colours.
    """
    known = np.ones(values.shape, bool) if known is None else known
    if image is None:
        picture = np.where(known[..., None], colors[np.where(known, values, 0)], 0).astype(np.uint8)
    else:
        picture = labels(image, values, known, colors)
    return under(enlarged(picture)[0], occurring(values[known], names, colors))


def occurring(
    values: Int[np.ndarray, " n"], names: Sequence[str], colors: UInt8[np.ndarray, "K 3"]
) -> dict[str, Color]:
    """Name and colour of the labels in `values`, those of most pixels first."""
    counts = np.bincount(values, minlength=len(colors)) if values.size else np.zeros(0, int)
    found = [int(k) for k in np.argsort(-counts, kind="stable") if counts[k]]
    return {names[k] if names else str(k): tuple(map(int, colors[k])) for k in found}


def under(picture: Image, entries: Mapping[str, Color]) -> Image:
    """The picture with a legend under it, see `legend`."""
    return np.concatenate([picture, legend(entries, picture.shape[1])])


def legend(entries: Mapping[str, Color], width: int) -> Image:
    """A square of each colour and its name, as many to a line of this width as there is room for; a strip on white.

    A name is cut where a line is too short for it; of no entries the strip has no height.
    """
    lines, at = [], width
    for name, tint in entries.items():
        name = _fitting(name, width - _LINE - 4)
        wide = _LINE + _text_width(name) + 8
        if at + wide > width + 8:
            lines.append(np.full((_LINE, width, 3), 255, np.uint8))
            at = 0
        cv2.rectangle(lines[-1], (at + 3, 3), (at + _LINE - 4, _LINE - 4), tint, -1)
        _write(lines[-1], name, at + _LINE)
        at += wide
    return np.concatenate(lines) if lines else np.zeros((0, width, 3), np.uint8)


def titled(picture: Image, text: str) -> Image:
    """The picture with a line of text above it, cut where it is too long."""
    line = np.full((_LINE, picture.shape[1], 3), 255, np.uint8)
    _write(line, _fitting(text, picture.shape[1] - 4), 2)
    return np.concatenate([line, picture])


def beside(pictures: Sequence[Image], gap: int = 4) -> Image:
    """Pictures in one row on white, the lower ones filled up below."""
    height = max(len(picture) for picture in pictures)
    row = []
    for picture in pictures:
        padding = ((0, height - len(picture)), (0, gap), (0, 0))
        row.append(np.pad(picture, padding, constant_values=255))
    return np.concatenate(row, axis=1)[:, :-gap]


def image_png(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """A picture as a file's bytes."""
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def mosaic(images: UInt8[np.ndarray, "N h w 3"], columns: int | None = None, gap: int = 2, least: int = 64) -> Image:
    """Images row by row on white, small ones enlarged to at least so many pixels.

    Args:
        columns: by default as many as make about a square.
        least: of the longer side.
    """
    columns = columns or math.ceil(math.sqrt(len(images)))
    times = max(1, -(-least // max(images.shape[1:3])))
    images = images.repeat(times, axis=1).repeat(times, axis=2)
    height, width = images.shape[1] + gap, images.shape[2] + gap
    whole = np.full((gap + height * -(-len(images) // columns), gap + width * columns, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = gap + height * (i // columns), gap + width * (i % columns)
        whole[top : top + height - gap, left : left + width - gap] = image
    return whole


def _write(line: Image, text: str, left: int) -> None:
    cv2.putText(line, text, (left, _LINE - 5), _FONT, _SCALE, (0, 0, 0), 1, cv2.LINE_AA)


def _text_width(text: str) -> int:
    return cv2.getTextSize(text, _FONT, _SCALE, 1)[0][0]


def _fitting(text: str, width: int) -> str:
    """What is written of a text in so many pixels; OpenCV's letters are those of ASCII."""
    text = shown = text.encode("ascii", "replace").decode()
    while text and _text_width(shown) > width:
        text = text[:-1]
        shown = f"{text.rstrip()}.." if text else ""
    return shown
