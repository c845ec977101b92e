"""Tiles fade into each other without a seam, of a network that is a formula; a real one is in test_super_resolution."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.checkpoints.upscaling import upscale

TASK = SimpleNamespace(model=SimpleNamespace(scale=2, border=2), answered_by=("restored",))
PHOTO = np.random.default_rng(0).integers(0, 256, (37, 52, 3)).astype(np.uint8)


def outputs(batch, names):
    """What sees two pixels to each side, and next to the border of what it is given something wrong."""
    (image,) = batch["image"].astype(np.float32)
    seen = cv2.blur(image, (5, 5), borderType=cv2.BORDER_CONSTANT)
    return {"restored": seen.repeat(2, 0).repeat(2, 1)[None]}


def test_tiles_are_the_whole_photo():
    whole = upscale(TASK, outputs, PHOTO, None)
    assert whole.shape == (74, 104, 3)
    np.testing.assert_allclose(whole, outputs({"image": PHOTO[None]}, ())["restored"][0], atol=0.5)
    for tile in (21, 24, 40):  # the last of them is as high as the photo
        assert np.abs(upscale(TASK, outputs, PHOTO, tile).astype(int) - whole).max() <= 1, tile


def test_what_cannot_be_enlarged():
    with pytest.raises(UserError, match="A tile of 20 pixels has nothing within its borders of 2 and the 16"):
        upscale(TASK, outputs, PHOTO, 20)
    for task in (SimpleNamespace(**{**vars(TASK), "answered_by": ("logits",)}), SimpleNamespace(model=object())):
        with pytest.raises(UserError, match="does not enlarge images"):
            upscale(task, outputs, PHOTO)
