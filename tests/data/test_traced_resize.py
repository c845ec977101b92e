"""Resizing within a program: the pixels of `Preprocess.to_uint8`, to a level, for sizes that it is not compiled for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.data import traced_resize
from vit_jax.data.preprocess import Preprocess
from vit_jax.errors import UserError

KINDS = {
    "squash": Preprocess((16, 24)),
    "short side, area": Preprocess((16, 24), "short_side", 28),
    "cover, area": Preprocess((16, 24), "short_side"),
    "short side, bicubic": Preprocess((17, 16), "short_side", 20, "bicubic"),
    "floor, bilinear": Preprocess((17, 16), "short_side", 20, "bilinear", crop="floor", trim=(1, 2)),
    "cover, lanczos": Preprocess((16, 24), "cover", (19, 27), "lanczos"),
    "pad, bicubic": Preprocess((16, 24), "pad", interpolation="bicubic", mean=(120.0, 110.0, 100.0)),
    "corner": Preprocess((24, 24), "pad", interpolation="bilinear", anchor="corner", mean=(120.0, 110.0, 100.0)),
}


def images(height, width):
    rng = np.random.default_rng(height * width)
    rows, columns = np.arange(height) * 5 // height, np.arange(width) * 5 // width
    coarse = rng.integers(0, 256, (2, 5, 5, 3))[:, rows[:, None], columns]
    return ((coarse + rng.integers(0, 256, coarse.shape)) // 2).astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_the_host_s(kind):
    preprocess = KINDS[kind]
    resized = jax.jit(lambda x: traced_resize.to_uint8(preprocess, x))
    # One size compiles one program: each kind has wide images or tall ones, and one of them is enlarged.
    given = images(*((11, 9) if kind == "squash" else (90, 31) if "cover" in kind else (53, 71)))
    found, expected = np.asarray(resized(given)), np.stack([preprocess.to_uint8(x) for x in given])
    off = np.abs(found.astype(int) - expected)
    assert found.dtype == np.uint8 and found.shape == expected.shape
    share = 0.2 if kind == "squash" else 0.01  # OpenCV enlarges in whole numbers of few bits
    assert off.max() <= 1 and (off > 0).mean() < share, (off.max(), (off > 0).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_and_places_are_the_host_s(kind):
    """The rounding of sizes and of the crop, for many shapes, without resizing anything."""
    preprocess = KINDS[kind]
    made = tuple(a + b for a, b in zip(preprocess.image_size, preprocess.trim, strict=True))
    rng = np.random.default_rng(0)
    shapes = rng.integers(30, 5000, (2000, 2))
    size = jax.jit(lambda h, w: traced_resize._size(preprocess, made, (h, w)))
    found = np.stack([np.broadcast_to(x, 2000) for x in size(*jnp.asarray(shapes.T, jnp.int32))], 1)
    expected = np.array([preprocess._size((int(h), int(w))) for h, w in shapes])
    assert (found != expected).any(1).mean() < 1e-3


def test_what_is_done_on_the_host_alone():
    with pytest.raises(UserError, match="resized by 'hamming', which is not done within a program"):
        traced_resize.to_uint8(Preprocess((8, 8), interpolation="hamming"), images(9, 9))
