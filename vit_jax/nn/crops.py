"""Squares out of images at places that are known on the device alone, as pure functions of one image."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def square_around(box: Float[Array, "4"], factor: Float[Array, ""]) -> Float[Array, "4"]:
    """The square with a box's middle, whose side is so many times the box's longer one, at least a pixel.

    Args:
        box: left, top, right and bottom in pixels, as the result is.
    """
    middle = (box[:2] + box[2:]) / 2
    half = jnp.maximum((box[2:] - box[:2]).max(), 1.0) * factor / 2
    return jnp.concatenate([middle - half, middle + half])


def square_crop(image: Float[Array, "h w c"], square: Float[Array, "4"], size: int) -> Float[Array, "size size c"]:
    """What a square shows of an image, resized by Pillow's bicubic filter (antialiased); 0 where it reaches beyond.

    Args:
        square: left, top, right and bottom in pixels, where pixel i spans [i, i + 1); they need not be whole.
        size: pixels of the result's sides.
    """
    scale = size / jnp.stack([square[3] - square[1], square[2] - square[0]])
    shift = -scale * jnp.stack([square[1], square[0]])
    shape = (size, size, image.shape[-1])
    return jax.image.scale_and_translate(image, shape, (0, 1), scale, shift, "cubic", antialias=True)
