"""Where brightness changes sharply: Canny's edges, as OpenCV finds them."""

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

LOW, HIGH = 100, 200  # of the gradient, as ControlNet's authors call it (arXiv:2302.05543)


def edge_map(image: UInt8[np.ndarray, "h w 3"], low: int = LOW, high: int = HIGH) -> Bool[np.ndarray, "h w"]:
    """Which pixels lie on an edge.

    Args:
        low: a gradient above it goes on with an edge,
        high: and above this begins one.
    """
    return cv2.Canny(np.ascontiguousarray(image), low, high) > 0


def edges(image: UInt8[np.ndarray, "h w 3"], low: int = LOW, high: int = HIGH) -> UInt8[np.ndarray, "h w 3"]:
    """The same as a picture, white on black."""
    return np.repeat(np.where(edge_map(image, low, high), np.uint8(255), np.uint8(0))[..., None], 3, axis=-1)
