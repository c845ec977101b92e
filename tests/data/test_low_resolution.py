"""Photos in two resolutions: the transform, and the field that it makes."""

import cv2
import numpy as np
import pytest
from PIL import Image

from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.pipeline import EvalPipeline, TrainPipeline
from vit_jax.data.preprocess import Preprocess
from vit_jax.data.sources import folder
from vit_jax.data.sources.arrays import ArraySource
from vit_jax.data.transforms import low_resolution, supervised
from vit_jax.errors import UserError

SECTION = {"image": {"name": "image"}, "high": {"name": "high_resolution", "scale": 3}}
# Red and green say where a pixel is.
PHOTO = np.random.default_rng(0).integers(0, 256, (61, 53, 3), np.uint8)
PHOTO[..., 0], PHOTO[..., 1] = 4 * np.arange(61)[:, None], 4 * np.arange(53)


def place(high):
    """Where a part is in the photo, which it must be without being mirrored or turned."""
    y, x = high[0, 0, :2] // 4
    np.testing.assert_array_equal(high, PHOTO[y : y + high.shape[0], x : x + high.shape[1]])
    return y, x


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("crop", ["random", "centre"])
def test_the_low_resolution_is_pillows_of_the_whole_photo(scale, crop):
    transform = low_resolution.build((5, 4), scale, crop=crop, flip=False)
    for seed in range(8):
        found = transform({"image": PHOTO, "text": "x"}, np.random.default_rng(seed))
        assert found["image"].shape == (5, 4, 3) and found["high"].shape == (5 * scale, 4 * scale, 3)
        assert found["text"] == "x"
        y, x = place(found["high"])
        # The photo without the rows and columns by which the part is not at a whole pixel of the low resolution.
        whole = PHOTO[y % scale :, x % scale :]
        height, width = (side // scale for side in whole.shape[:2])
        low = Image.fromarray(whole[: height * scale, : width * scale]).resize((width, height), Image.BICUBIC)
        rows, columns = y // scale, x // scale
        np.testing.assert_array_equal(found["image"], np.asarray(low)[rows : rows + 5, columns : columns + 4])
        assert crop == "random" or (y, x) == ((61 - 5 * scale) // 2, (53 - 4 * scale) // 2)


def test_parts_are_drawn_mirrored_and_turned():
    transform = low_resolution.build(5, 2, turn=True)
    found = [transform({"image": PHOTO}, np.random.default_rng(seed)) for seed in range(60)]
    assert len({one["high"].tobytes() for one in found}) > 50
    # Whether rows and columns grow from the first corner to the last, and whether rows are rows.
    ends = [(one["high"][0, 0, :2].astype(int), one["high"][-1, -1, :2], one["high"][0, -1, 0]) for one in found]
    ways = {(*(first < last).tolist(), bool(first[0] == right)) for first, last, right in ends}
    assert len(ways) == 8
    assert transform.random and not low_resolution.build(5, 2, crop="centre", flip=False).random


def test_parts_of_encoded_photos_are_those_of_the_pixels(tmp_path):
    fields = build_fields(SECTION, Context(Preprocess((5, 4))))
    transform = low_resolution.build((5, 4), 3)
    (tmp_path / "train/photos").mkdir(parents=True)
    (tmp_path / "train/photos/one.png").write_bytes(cv2.imencode(".png", PHOTO[..., ::-1])[1].tobytes())
    sources = [ArraySource(PHOTO[None], np.zeros(1, int), ("a",)), folder.build(str(tmp_path), "train")]
    one, other = (TrainPipeline(s, transform, 4, 0, num_threads=0, fields=fields).batch(0) for s in sources)
    for name, spec in fields.specs.items():
        assert one[name].shape == (4, *spec.shape) and one[name].dtype == spec.dtype
        np.testing.assert_array_equal(one[name], other[name])
    on_device = fields.on_device(one)
    np.testing.assert_allclose(on_device["high"], one["high"] / 127.5 - 1, atol=1e-6)


def test_a_field_that_is_made_is_asked_of_the_transform_and_not_of_the_source():
    fields = build_fields(SECTION, Context(Preprocess((5, 4))))
    source = ArraySource(PHOTO[None], np.zeros(1, int), ("a",))
    fields.check_placed(low_resolution.build((5, 4), 3), "config.data.transform")
    with pytest.raises(UserError, match=r"config\.data\.transform does not make the field 'high'\. Use one that does"):
        fields.check_placed(supervised.build((5, 4)), "config.data.transform")
    # Evaluation without the transform has the image alone.
    assert set(next(EvalPipeline(source, None, 1, num_threads=0, fields=fields).iterate())) == {
        "image", "valid", "index",
    }  # fmt: skip
    empty = ArraySource(None, None, (), {"text": np.array(["x"])})
    with pytest.raises(UserError, match="The source gives no field 'image' but text"):
        next(EvalPipeline(empty, None, 1, num_threads=0, fields=fields).iterate())


def test_what_does_not_fit():
    with pytest.raises(UserError, match=r"A photo of 53x61 pixels has no part of 60x45\. Leave it out"):
        low_resolution.build((15, 20), 3)({"image": PHOTO}, np.random.default_rng(0))
    with pytest.raises(UserError, match="Parts of 4x5 are not squares"):
        low_resolution.build((5, 4), 3, turn=True)
