"""What lies on an image, drawn into its pixels."""

import colorsys

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8

from vit_jax.data.geometry import Image

_SIDE = 160  # smaller images are enlarged before anything is drawn on them


def enlarged(image: Image) -> tuple[UInt8[np.ndarray, "h w 3"], int]:
    """A copy with room for lines, and how many times as large it is."""
    times = max(1, -(-_SIDE // max(image.shape[:2])))
    return np.ascontiguousarray(image.repeat(times, axis=0).repeat(times, axis=1)), times


def color(number: int) -> tuple[int, int, int]:
    """One of each label; neighbouring numbers are far apart."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.9, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def labels(image: Image, values: Shaped[np.ndarray, "h w"], known: Bool[np.ndarray, "h w"]) -> Image:
    """Each pixel half in the colour of its label, or of a measurement from dark to light; unchanged where none is."""
    times = image.shape[0] // values.shape[0]
    if values.dtype.kind == "f":
        low, high = (values[known].min(), values[known].max()) if known.any() else (0, 1)
        levels = np.clip((values - low) / max(high - low, 1e-12) * 255, 0, 255).astype(np.uint8)
        tints = cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[..., ::-1]
    else:
        numbers, place = np.unique(values, return_inverse=True)
        tints = np.array([color(int(n)) for n in numbers], np.uint8)[place.reshape(values.shape)]
    tints, known = (x.repeat(times, axis=0).repeat(times, axis=1) for x in (tints, known))
    return np.where(known[..., None], image // 2 + tints // 2, image).astype(np.uint8)


def points(image: Image, xy: Float[np.ndarray, "n 2"], times: int) -> Image:
    """A dot at each, in a colour of its own."""
    image = image.copy()
    for k, (x, y) in enumerate(xy):
        place = round(float(x) * times), round(float(y) * times)
        cv2.circle(image, place, 4, (0, 0, 0), -1)
        cv2.circle(image, place, 3, color(k), -1)
    return image


def boxes(image: Image, xyxy: Float[np.ndarray, "n 4"], kinds: Int[np.ndarray, " n"], times: int) -> Image:
    """The frame of each, in the colour of its class."""
    image = image.copy()
    for box, kind in zip(xyxy, kinds, strict=True):
        left, top, right, bottom = (round(float(side) * times) for side in box)
        cv2.rectangle(image, (left, top), (right - 1, bottom - 1), color(int(kind)), 2)
    return image
