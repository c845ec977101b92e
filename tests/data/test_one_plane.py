"""What lies in an image's plane agrees to half a pixel after every transform and every preprocessing, and finds its way
back to the image: shown on an image that says in each pixel where it is."""

import importlib
import pkgutil

import numpy as np
import pytest

from vit_jax.data import color, transforms
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.pipeline import EvalPipeline, TrainPipeline
from vit_jax.data.preprocess import Preprocess
from vit_jax.data.sources.arrays import ArraySource
from vit_jax.errors import UserError

SIZE = (24, 28)  # some views are enlarged, some shrunk
STEP = 4  # levels of red a column, and of green a row
OFF = 8
LINES = [(axis, at) for axis in (0, 1) for at in (9, 16, 23, 30)]  # left of a column or above a row, a mask each
HALF = 0.5 + 1 / STEP  # of a source pixel; levels are rounded, once in each direction
PLAIN = {"jitter": 0.0, "gray": 0.0, "blur": 0.0}
# Of every transform what it can do to geometry; colours would hide where a pixel is from.
TRANSFORMS = {
    "supervised": [
        {}, {"crop": "none", "area": (1, 1)}, {"sampling": "torchvision", "interpolation": "bilinear"},
        {"sampling": "largest", "interpolation": "bicubic"}, {"rotate": 40.0, "shift": 0.1, "border": "constant"},
    ],
    "dense": [
        {"labels": "seg", "ignore": -1, "distort": False, "scale": (1.0, 2.0)},
        {"most": 1.0, "distort": False, "interpolation": "bilinear", "scale": (0.4, 1.0)},  # over the image's edge
    ],
    "edges": [{}, {"view": {"sampling": "largest", "interpolation": "bicubic"}, "spread": 2.0}],
    "padded": [{"mean": (0, 0, 0)}, {"mean": (0, 0, 0), "anchor": "centre", "interpolation": "bicubic"}],
    "three_augment": [{"area": (0.3, 1.0), "jitter": 0.0}],
    "view": [{**PLAIN, "area": (0.3, 1.0)}, {**PLAIN, "area": (0.3, 1.0), "sampling": "byol", "flip": 1.0}],
}  # fmt: skip
# Those that move images alone, and say so.
ALONE = {"two_views": {}, "low_resolution": {"scale": 2}}
PREPROCESSES = [
    {}, {"resize": "short_side", "resize_to": 32}, {"resize": "cover"}, {"resize": "pad"},
    {"resize": "pad", "anchor": "corner"}, {"resize": "pad", "anchor": "corner", "interpolation": "bilinear"},
    {"resize": "pad", "interpolation": "bicubic"},
]  # fmt: skip
SHAPES = [(40, 60), (60, 31), (48, 56)]


def places(height, width):
    """An image of coordinates, the same as labels (row * 64 + column), and of every pixel the middle and the box."""
    rows, columns = np.mgrid[:height, :width]
    # Blue is less than 255 where something else was mixed in.
    image = np.stack([STEP * columns + OFF, STEP * rows + OFF, np.full_like(rows, 255)], axis=-1).astype(np.uint8)
    points = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1)
    boxes = np.concatenate([points - 0.5, points + 0.5, np.arange(len(points))[:, None]], axis=1)
    masks = np.stack([(columns, rows)[axis] < at for axis, at in LINES])
    own = {"seg": (rows * 64 + columns).astype(np.int32), "points": points, "boxes": boxes, "masks": masks}
    return ArraySource(image[None], np.zeros(1, int), ("a",), {name: value[None] for name, value in own.items()})


def fields_of(height, width, **preprocess):
    count = height * width
    section = {
        "image": {"name": "image"}, "seg": {"name": "dense", "dtype": "int32", "ignore": -1},
        "points": {"name": "points", "count": count},
        "boxes": {"name": "boxes", "count": count, "classes": count, "min_area": 1e-3},
        "masks": {"name": "masks", "max_objects": 7, "mask_size": (SIZE[0] // 2, SIZE[1] // 2)},
    }  # fmt: skip
    return build_fields(section, Context(Preprocess(SIZE, mean=(0, 0, 0), **preprocess), ("a",)))


def told(image):
    """(x, y) in source pixels that a view's colours say, and where they do."""
    return (image[..., :2].astype(float) - OFF) / STEP + 0.5, image[..., 2] >= 254.5


def between(values, xy):
    """Values of pixels' middles, interpolated at points of a view."""
    height, width = values.shape[:2]
    x, y = np.clip(xy[:, 0] - 0.5, 0, width - 1), np.clip(xy[:, 1] - 0.5, 0, height - 1)
    left, top = np.minimum(x.astype(int), width - 2), np.minimum(y.astype(int), height - 2)
    right, below = (x - left)[:, None], (y - top)[:, None]
    upper = values[top, left] * (1 - right) + values[top, left + 1] * right
    return upper * (1 - below) + (values[top + 1, left] * (1 - right) + values[top + 1, left + 1] * right) * below


def check(row, shape):
    """All of one example of a batch says the same places of the source, to half a pixel of it."""
    shown, plain = told(row["image"])
    seen = plain & (row["seg"] >= 0)
    assert seen.mean() > 0.2
    labels = np.stack([row["seg"] % 64 + 0.5, row["seg"] // 64 + 0.5], axis=-1)
    assert np.abs(shown - labels)[seen].max() <= HALF

    # A pixel of a mask lies in the middle of four of the image.
    four = lambda x: x.reshape(SIZE[0] // 2, 2, SIZE[1] // 2, 2, -1).swapaxes(1, 2)  # noqa: E731
    place, known = four(shown).mean((2, 3)), four(seen).all((2, 3))[..., 0]
    assert row["masks_valid"].any()
    for mask in row["masks"][row["masks_valid"]]:
        wrong = [(mask != (place[..., axis] < at)) & (np.abs(place[..., axis] - at) > HALF) for axis, at in LINES]
        assert min((of & known).sum() for of in wrong) == 0

    middles = np.stack(np.unravel_index(np.arange(shape[0] * shape[1]), shape)[::-1], axis=1) + 0.5
    valid = row["points_valid"] & (between(plain[..., None].astype(float), row["points"])[:, 0] > 0.999)
    assert valid.mean() > 0.02
    # Beyond the middles of the outermost pixels nothing is between: up to half a pixel of the view more.
    outermost = (row["points"] < 0.5).any(axis=1) | (row["points"] > np.array(SIZE[::-1]) - 0.5).any(axis=1)
    allowed = HALF + outermost[:, None] * 0.5 * max(np.divide(shape, SIZE))
    assert (np.abs(between(shown, row["points"]) - middles) <= allowed)[valid].all()

    boxes, of = row["boxes"][row["boxes_valid"]], row["boxes_class"][row["boxes_valid"]]
    points, valid = row["points"][of], row["points_valid"][of]
    assert valid.mean() > 0.5 and set(np.flatnonzero(row["points_valid"])) <= set(of)
    assert ((boxes[:, :2] <= points + 1e-3) & (points <= boxes[:, 2:] + 1e-3))[valid].all()
    # Around its middle, where no edge cuts it.
    whole = valid & (boxes[:, :2] > 0).all(axis=1) & (boxes[:, 2:] < np.array(SIZE[::-1])).all(axis=1)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert (np.abs(middle - points) <= (boxes[:, 2:] - boxes[:, :2]) / 4 + 1e-3)[whole].all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", sorted(m.name for m in pkgutil.iter_modules(transforms.__path__)))
def test_after_every_transform(name, shape, monkeypatch):
    for change in ("grayscale", "solarize", "gaussian_blur"):  # colours are coordinates here
        monkeypatch.setattr(color, change, lambda image, *_: image)
    fields, build = fields_of(*shape), importlib.import_module(f"vit_jax.data.transforms.{name}").build
    if name in ALONE:
        with pytest.raises(UserError, match="does not move 'seg' with the image"):
            fields.check_placed(build(SIZE, **ALONE[name]), "config.data")
        return
    for options in TRANSFORMS[name]:
        fields.check_placed(transform := build(SIZE, **options), "config.data")
        batch = TrainPipeline(places(*shape), transform, 4, 0, num_threads=0, fields=fields).batch(0)
        for k in range(4):
            check({name: value[k] for name, value in batch.items()}, shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", PREPROCESSES, ids=str)
def test_after_every_preprocessing_and_back(options, shape):
    pipeline = EvalPipeline(places(*shape), None, 1, num_threads=0, fields=fields_of(*shape, **options))
    [batch] = pipeline.iterate()
    row = {name: value[0] for name, value in batch.items()}
    check(row, shape)

    original, placement = pipeline.original(row["index"])
    assert original["image"].shape == (*shape, 3) and original["seg"].shape == shape
    back = placement.inverse(shape)
    valid = row["points_valid"]
    middles = original["points"][0]
    np.testing.assert_allclose(back.points(row["points"])[valid], middles[valid], atol=1e-4)
    here = row["boxes_class"][row["boxes_valid"]]
    here = np.flatnonzero(valid[here])[:50]
    found = back.boxes(row["boxes"][here])
    assert (np.abs(found - original["boxes"][row["boxes_class"][here], :4]) <= 0.5 + 1e-3).all()

    # A pixel of the image is as far from the middle of the view's as half of that is large, in source pixels.
    far = 0.5 * max(placement.box[2] / SIZE[0], placement.box[3] / SIZE[1], 1)
    labels = back.dense(row["seg"], -1)
    known = labels >= 0
    assert labels.shape == shape and known.mean() > 0.3
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    assert np.abs(labels // 64 - rows)[known].max() <= far + 0.5
    assert np.abs(labels % 64 - columns)[known].max() <= far + 0.5
    np.testing.assert_array_equal(valid.reshape(shape)[known], True)

    smooth = back.smooth((row["image"][..., :2].astype(float) - OFF) / STEP, -9)
    assert smooth.shape == (*shape, 2)
    np.testing.assert_array_equal((smooth == -9).all(-1), ~known)
    # At edges the view's first pixel is repeated, whose middle lies half of it further in.
    assert np.abs(smooth[..., 1] - rows)[known].max() <= far + 0.25
    assert np.abs(smooth[..., 0] - columns)[known].max() <= far + 0.25
