"""Resizing, cropping, rotating and flipping uint8 images with NumPy and OpenCV; nothing here draws its own randomness
except the crop boxes, which take the generator as an argument."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import UInt8

from vit_jax.errors import UserError

# The pipeline's own threads and workers are the parallelism; OpenCV's pool on top of them only gets in the way.
cv2.setNumThreads(1)

Image = UInt8[np.ndarray, "h w 3"]
MAX_RESIZED = 100_000_000
_BORDERS = {"replicate": cv2.BORDER_REPLICATE, "constant": cv2.BORDER_CONSTANT}


def size_pair(image_size: int | Sequence[int]) -> tuple[int, int]:
    """`image_size` as (height, width) in pixels; one number means a square.

    Raises:
        UserError: when it is neither a positive integer nor a pair of them.
    """
    pair = tuple(image_size) if isinstance(image_size, Sequence) else (image_size, image_size)
    if len(pair) != 2 or not all(isinstance(side, int) and 0 < side < 2**15 for side in pair):
        raise UserError(f"image_size={image_size!r} is not a size in pixels", "Give (height, width) or one number")
    return pair


def check_resized(image: Image, size: tuple[int, int]) -> tuple[int, int]:
    """`size`, (height, width) that an image is to have.

    Raises:
        UserError: when these are more than `MAX_RESIZED` pixels.
    """
    if size[0] * size[1] > MAX_RESIZED:
        raise UserError(
            f"An image of {image.shape[1]}x{image.shape[0]} pixels would be resized to {size[1]}x{size[0]}, more than"
            f" {MAX_RESIZED // 10**6} megapixels",
            "Crop it first, or choose a smaller image_size",
        )
    return size


def bounds(name: str, values: Sequence[float], most: float = math.inf) -> tuple[float, float]:
    """`values` as (low, high), such as those of a crop's area (a share of the image) and aspect (width / height).

    Raises:
        UserError: unless 0 < low <= high <= most; it names `name`.
    """
    if not isinstance(values, Sequence) or len(values) != 2 or not 0 < values[0] <= values[1] <= most:
        limit = "" if most == math.inf else f" <= {most:g}"
        raise UserError(f"{name}={values!r} is not a range", f"Give two numbers with 0 < low <= high{limit}")
    return tuple(values)


def resize(image: Image, size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Resizes to (height, width), averaging over areas along a side that shrinks and bilinearly along one that grows.

    Bilinear sampling alone would alias when shrinking.

    Raises:
        UserError: when the result would have more than `MAX_RESIZED` pixels.
    """
    height, width = check_resized(image, size)
    shrunk = min(height, image.shape[0]), min(width, image.shape[1])
    # Two passes, because INTER_AREA is an area average only where both sides shrink or stay.
    if shrunk != image.shape[:2]:
        image = cv2.resize(image, shrunk[::-1], interpolation=cv2.INTER_AREA)
    if (height, width) != image.shape[:2]:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return image


def resize_short_side(image: Image, short_side: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Resizes so that the shorter side has `short_side` pixels and the aspect ratio stays."""
    return resize(image, short_side_size(image.shape[:2], short_side))


def short_side_size(shape: tuple[int, int], short_side: int) -> tuple[int, int]:
    """(height, width) of an image of `shape` whose shorter side becomes `short_side` and whose aspect ratio stays."""
    height, width = shape
    scale = short_side / min(height, width)
    return max(short_side, round(height * scale)), max(short_side, round(width * scale))


def centre_crop(image: Image, size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The (height, width) pixels in the middle. The image must be at least that large."""
    height, width = size
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    if top < 0 or left < 0:
        raise ValueError(f"cannot crop {height}x{width} from {image.shape[0]}x{image.shape[1]}")
    return image[top : top + height, left : left + width]


def flip(image: Image) -> Image:
    """Mirrors left and right."""
    return cv2.flip(image, 1)


def inception_crop_box(
    height: int,
    width: int,
    rng: np.random.Generator,
    area: tuple[float, float] = (0.05, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
    attempts: int = 100,
) -> tuple[int, int, int, int]:
    """Draws a crop as `tf.image.sample_distorted_bounding_box` does with the whole image as its only box.

    The aspect ratio (width / height) is uniform in `aspect`, then the height is uniform among those whose area is
    within `area`, a fraction of the image's; so large crops are rarer than if the area were uniform. After `attempts`
    boxes that do not fit, the whole image is returned. Source: "Going deeper with convolutions" (Szegedy et al. 2015)
    section 6, in TensorFlow's reading of it, which the ViT papers trained with.

    Returns:
        top, left, height, width in pixels.
    """
    smallest, largest = area[0] * height * width, area[1] * height * width
    for _ in range(attempts):
        # Four draws per attempt whether used or not, so that what follows depends only on the number of attempts.
        u_aspect, u_height, u_top, u_left = rng.random(4).tolist()
        ratio = aspect[0] + u_aspect * (aspect[1] - aspect[0])
        low = round(math.sqrt(smallest / ratio))
        high = min(round(math.sqrt(largest / ratio)), height, math.floor((width + 0.5) / ratio))
        low = min(low, high)
        h = low + int(u_height * (high - low + 1))
        w = round(h * ratio)
        # Rounding may step over either bound by one row.
        if w * h < smallest:
            h += 1
            w = round(h * ratio)
        if w * h > largest:
            h -= 1
            w = round(h * ratio)
        if smallest <= w * h <= largest and 0 < w <= width and 0 < h <= height:
            # Like TensorFlow, a crop never touches the last row or column unless it spans them all.
            return int(u_top * (height - h)), int(u_left * (width - w)), h, w
    return 0, 0, height, width


def torchvision_crop_box(
    height: int,
    width: int,
    rng: np.random.Generator,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
    attempts: int = 10,
) -> tuple[int, int, int, int]:
    """Draws a crop as torchvision's `RandomResizedCrop` does, with which most PyTorch recipes were trained.

    The area is uniform within `area`, a fraction of the image's, and the aspect ratio (width / height) uniform in the
    logarithm. After `attempts` boxes that do not fit, it is the largest central one whose aspect ratio is allowed.

    Returns:
        top, left, height, width in pixels.
    """
    low, high = math.log(aspect[0]), math.log(aspect[1])
    for _ in range(attempts):
        u_area, u_aspect, u_top, u_left = rng.random(4).tolist()
        pixels = height * width * (area[0] + u_area * (area[1] - area[0]))
        ratio = math.exp(low + u_aspect * (high - low))
        h, w = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
        if 0 < h <= height and 0 < w <= width:
            return int(u_top * (height - h + 1)), int(u_left * (width - w + 1)), h, w
    ratio = min(max(width / height, aspect[0]), aspect[1])
    h, w = min(height, round(width / ratio)), min(width, round(height * ratio))
    h, w = max(h, 1), max(w, 1)
    return (height - h) // 2, (width - w) // 2, h, w


def byol_crop_box(
    height: int,
    width: int,
    rng: np.random.Generator,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
    """Draws a crop as BYOL's code does, and MAE's linear probe after it: as `torchvision_crop_box`, but once; what is
    longer than the image is cut off.

    Returns:
        top, left, height, width in pixels.
    """
    low, high = math.log(aspect[0]), math.log(aspect[1])
    u_area, u_aspect, u_top, u_left = rng.random(4).tolist()
    pixels = height * width * (area[0] + u_area * (area[1] - area[0]))
    ratio = math.exp(low + u_aspect * (high - low))
    h, w = (min(max(round(math.sqrt(x)), 1), most) for x, most in ((pixels / ratio, height), (pixels * ratio, width)))
    return int(u_top * (height - h + 1)), int(u_left * (width - w + 1)), h, w


def largest_crop_box(
    height: int,
    width: int,
    rng: np.random.Generator,
    area: tuple[float, float] = (1.0, 1.0),
    aspect: tuple[float, float] = (1.0, 1.0),
) -> tuple[int, int, int, int]:
    """Draws a crop as CLIP does (arXiv:2103.00020, section 2.4): of all that have an aspect ratio the largest, or of
    that a share of its pixels, at a random place.

    Args:
        area: bounds on the share.
        aspect: bounds on width / height, drawn uniformly in its logarithm; (1, 1) for squares.

    Returns:
        top, left, height, width in pixels.
    """
    low, high = math.log(aspect[0]), math.log(aspect[1])
    u_area, u_aspect, u_top, u_left = rng.random(4).tolist()
    ratio = math.exp(low + u_aspect * (high - low))
    tall = min(height, width / ratio) * math.sqrt(area[0] + u_area * (area[1] - area[0]))
    h, w = (min(max(round(x), 1), most) for x, most in ((tall, height), (tall * ratio, width)))
    return int(u_top * (height - h + 1)), int(u_left * (width - w + 1)), h, w


# How the box of a random crop is drawn, by the name that a config gives.
CROP_BOXES = {
    "inception": inception_crop_box,
    "torchvision": torchvision_crop_box,
    "byol": byol_crop_box,
    "largest": largest_crop_box,
}


def rotate_shift(
    image: Image,
    degrees: float,
    shift: tuple[float, float] = (0.0, 0.0),
    *,
    size: tuple[int, int] | None = None,
    mirror: bool = False,
    border: str = "replicate",
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Resizes to `size`, rotates about the centre, shifts, and then mirrors.

    Args:
        degrees: counter-clockwise, as seen in the resized image.
        shift: down and right, as fractions of the resized image's height and width.
        size: (height, width), the image's own by default.
        mirror: whether to flip left and right at the end.
        border: what comes in from outside: "replicate" the edge pixels or "constant" black.
    """
    height, width = size or image.shape[:2]
    if height < image.shape[0] or width < image.shape[1]:
        image = resize(image, (height, width))
    # All four steps are one affine map from an output pixel to a place in the input, so the pixels are interpolated
    # once. Only a resize that shrinks has to come before it, because a warp samples points and would alias.
    rows, columns = image.shape[:2]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    scale_x, scale_y, sign = columns / width, rows / height, -1.0 if mirror else 1.0
    # Coordinates are taken from the centre, with pixel centres at half integers.
    x0 = sign * (0.5 - width / 2) - shift[1] * width
    y0 = 0.5 - height / 2 - shift[0] * height
    to_input = np.array(
        [
            [scale_x * cos * sign, -scale_x * sin, scale_x * (cos * x0 - sin * y0) + columns / 2 - 0.5],
            [scale_y * sin * sign, scale_y * cos, scale_y * (sin * x0 + cos * y0) + rows / 2 - 0.5],
        ]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, to_input, (width, height), flags=flags, borderMode=_BORDERS[border])
