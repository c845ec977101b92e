"""Each kind of field: from a source's value to a batch's, and what it refuses."""

import json
import pickle
import zlib

import cv2
import numpy as np
import pytest

from vit_jax.data.decode import UnreadableImage
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.order import Mixture
from vit_jax.data.pipeline import EvalPipeline, TrainPipeline
from vit_jax.data.placement import Placement
from vit_jax.data.preprocess import Preprocess
from vit_jax.data.sources import arrays, manifest, shapes
from vit_jax.data.sources.arrays import ArraySource
from vit_jax.data.transforms import supervised
from vit_jax.errors import UserError

DATA = Context(Preprocess((8, 12)), ("cat", "dog", "eel"))


def field(**section):
    """One field beside an image."""
    return build_fields({"image": {"name": "image"}, "x": section}, DATA)["x"]


def png(pixels, depth=8, kind=0, palette=b""):
    """A PNG of a bit depth and colour type, written by hand: OpenCV writes no palettes."""

    def chunk(name, body):
        return len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")

    height, width = pixels.shape
    if depth == 16:
        rows = pixels.astype(">u2").view(np.uint8).reshape(height, -1)
    else:
        bits = np.unpackbits(pixels.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :].reshape(height, -1)
        rows = np.packbits(bits, axis=1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([depth, kind, 0, 0, 0])
    parts = [chunk(b"IHDR", header), chunk(b"PLTE", palette) if palette else b"", chunk(b"IDAT", zlib.compress(data))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", [0, 3])
def test_labels_of_palette_and_grey_pngs_are_the_stored_numbers(depth, kind):
    stored = np.random.default_rng(depth).integers(0, 2**depth, (9, 13))
    palette = np.random.default_rng(0).bytes(3 * 2**depth) if kind == 3 else b""
    read = field(name="dense").read(png(stored, depth, kind, palette), "x.png", (9, 13))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, stored)


def test_depth_of_16_bits_becomes_metres():
    stored = np.array([[0, 1, 1000], [40000, 65535, 256]])
    depth = field(name="dense", dtype="float32", scale=0.001, ignore=0)
    np.testing.assert_allclose(depth.read(png(stored, 16), "x.png", (2, 3)), stored * 0.001, rtol=1e-6)
    labels = field(name="dense", dtype="int32", ignore=-1)
    np.testing.assert_array_equal(labels.read(png(stored, 16), "x.png", (2, 3)), stored)


@pytest.mark.parametrize(
    "section, raw, sentence",
    [
        ({"name": "dense"}, np.zeros((4, 6), np.uint8), "is 6x4 on an image of 10x10. Make it as large"),
        ({"name": "dense"}, np.full((10, 10), 300), "values from 300 to 300. They do not fit uint8: set dtype"),
        ({"name": "dense", "count": 2}, np.full((10, 10), 7), "the label 7, but there are 2 classes and 255 for none"),
        ({"name": "dense"}, np.zeros((10, 10, 3), np.uint8), "Give one number for each pixel"),
        ({"name": "tokens", "length": 6}, "seven!!", "has 7 tokens, more than the 4 that the field holds"),
        ({"name": "tokens", "length": 6}, b"\xff\xfe", "bytes that are not UTF-8"),
        ({"name": "tokens", "length": 6}, [1, 900], "tokens from 1 to 900, of 259 that exist"),
        ({"name": "tokens", "length": 6}, 3.5, "neither a text nor a list of tokens"),
        ({"name": "boxes", "count": 2}, [[5, 5, 1, 1]], "a box that ends before it begins"),
        ({"name": "boxes", "count": 2, "classes": 3}, [[0, 0, 1, 1, 3]], "a class outside the 3 of the field"),
        ({"name": "boxes", "count": 2}, [[1, 2, 3]], r"is \[1, 3\]. Give \[n, 4\]"),
        ({"name": "points", "count": 2}, [[1, float("nan")]], "numbers that are not finite"),
        ({"name": "points", "count": 2}, [[1, 10**400]], "is not a table of numbers"),
        ({"name": "points", "count": 2}, "[[1, 2]", "is no JSON list of numbers"),
        ({"name": "classes", "multi": True}, [0, 3], "has label 3, but there are 3 classes"),
        ({"name": "image"}, np.zeros((4, 6, 3), np.uint8), "is 6x4 on an image of 10x10. Give both the same size"),
    ],
)
def test_what_a_kind_cannot_read_is_one_sentence(section, raw, sentence):
    with pytest.raises(UserError, match=sentence):
        field(**section).read(raw, "p.png, field 'x',", (10, 10))


@pytest.mark.parametrize("spoil", [lambda d: d[:40], lambda d: d[:60] + b"\0" + d[61:], lambda d: b"no"])
def test_damaged_labels_are_replaced_as_images_are(spoil):
    with pytest.raises(UnreadableImage, match=r"^x\.png .* Give labels as a palette or grey PNG"):
        field(name="dense").read(spoil(png(np.arange(64).reshape(8, 8))), "x.png", None)
    colours = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    with pytest.raises(UnreadableImage, match="is in colours"):
        field(name="dense").read(colours, "x.png", None)


@pytest.mark.parametrize(
    "section, sentence",
    [
        ({"name": "dense", "ignore": 300}, "ignore=300 does not fit uint8"),
        ({"name": "dense", "dtype": "int64"}, "dtype"),
        ({"name": "tokens", "length": 2}, "leaves no room for a text"),
        ({"name": "tokens", "length": 5, "tokenizer": "clips"}, "no tokenizer named 'clips'"),
        ({"name": "boxes"}, "config.data.fields.x.count' is missing"),
        (
            {"name": "boxes", "count": 2, "clases": 3},
            "Unknown key 'config.data.fields.x.clases'. Did you mean 'classes'",
        ),
        ({"name": "valid"}, "no field named 'valid'"),
    ],
)
def test_wrong_sections_are_one_sentence(section, sentence):
    with pytest.raises(UserError, match=sentence):
        field(**section)


def test_more_boxes_than_the_field_holds_are_counted_and_the_largest_kept():
    boxes = field(name="boxes", count=2, classes=9, format="xywh")
    raw = [[0, 0, 2, 2, 1], [1, 1, 5, 5, 2], [3, 3, 0.5, 0.5, 3], [0, 0, 3, 4, 4], [0, 0, 1, 2, 5]]
    found = boxes.batched("b", boxes.read(json.dumps(raw), "x", (10, 10)))
    np.testing.assert_array_equal(found["b"], np.float32([[1, 1, 6, 6], [0, 0, 3, 4]]))
    np.testing.assert_array_equal(found["b_class"], [2, 4])
    # The one of a quarter pixel is none, two of the others are left out.
    assert found["b_dropped"] == 2 and found["b_valid"].all()
    assert {key: (spec.shape, spec.dtype) for key, spec in boxes.spec("b").items()} == {
        key: (np.shape(value), str(np.asarray(value, np.int32 if isinstance(value, int) else None).dtype))
        for key, value in found.items()
    }
    fraction = field(name="boxes", count=1, format="yxyx", unit="fraction")
    np.testing.assert_allclose(fraction.read([[0.1, 0.2, 0.5, 1.0]], "x", (50, 100)), [[20, 5, 100, 25]])
    empty = fraction.batched("b", fraction.read("", "x", (5, 5)))
    assert not empty["b_valid"].any() and not empty["b"].any()


def test_points_keep_their_places():
    points = field(name="points", count=3)
    half = Placement((0, 0, 10, 5), (10, 10))
    xy = [[1, 1], [8, 2], [4, 9], [2, 2]]
    found = points.batched("p", points.move(points.read(xy, "x", (10, 10)), half))
    np.testing.assert_allclose(found["p"], [[2, 1], [0, 0], [8, 9]])
    assert found["p_valid"].tolist() == [True, False, True] and found["p_dropped"] == 1


@pytest.mark.parametrize(
    "options",
    [
        {}, {"resize": "short_side", "resize_to": 14}, {"resize": "pad"}, {"resize": "cover", "trim": (1, 2)},
        {"resize": "short_side", "resize_to": 15, "interpolation": "bicubic", "crop": "floor"},
        {"resize": "pad", "resize_to": (7, 30), "interpolation": "bilinear"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(31, 33), (20, 57), (64, 19)])
def test_evaluation_puts_labels_where_it_puts_the_image(options, shape):
    """A picture that says in each pixel where it is, against its own colours as labels."""
    preprocess = Preprocess((11, 13), mean=(255, 255, 255), **options)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    image = np.stack([2 * columns + 5, 2 * rows + 5, 0 * rows], axis=-1).astype(np.uint8)
    made, placement = preprocess.to_uint8(image).astype(int), preprocess.placement(shape)
    labels = np.stack([placement.dense(image[..., k], 255) for k in (0, 1)], axis=-1).astype(int)
    white = (made == 255).all(-1)
    np.testing.assert_array_equal((labels == 255).all(-1), white)
    # A label is that of a pixel at most half an output pixel away, and two levels a pixel.
    scale = max(placement.box[2] / 11, placement.box[3] / 13, 1)
    assert np.abs(made[..., :2] - labels)[~white].max() <= 2 * scale + 3


def test_fields_are_stored_and_rebuilt():
    section = {
        "image": {"name": "image"}, "other": {"name": "image", "mean": [1, 2, 3]}, "label": {"name": "classes"},
        "many": {"name": "classes", "multi": True, "count": 4}, "text": {"name": "tokens", "length": 7},
        "seg": {"name": "dense", "count": 3}, "p": {"name": "points", "count": 2}, "b": {"name": "boxes", "count": 2},
    }  # fmt: skip
    fields = build_fields(section, DATA)
    again = build_fields(json.loads(json.dumps(fields.to_json())), DATA)
    assert again == fields == pickle.loads(pickle.dumps(fields))
    assert build_fields(None, DATA).to_json() is None


def test_a_source_without_images_needs_fields():
    texts = ArraySource(None, None, (), {"text": np.array(["a", "b", "c"])})
    with pytest.raises(UserError, match=r"gives no image but text. Say in config\.data\.fields"):
        EvalPipeline(texts, None, 2, num_threads=0).iterate().__next__()
    fields = build_fields({"text": {"name": "tokens", "length": 5}, "y": {"name": "classes"}}, Context())
    batches = list(EvalPipeline(texts, None, 2, num_threads=0, fields=fields).iterate())
    assert [sorted(batch) for batch in batches] == [["index", "text", "text_mask", "valid"]] * 2
    with pytest.raises(UserError, match="gives no field 'y' but text"):
        TrainPipeline(texts, None, 2, 0, num_threads=0, fields=fields).batch(0)
    wrong = build_fields({"y": {"name": "classes"}}, Context())
    with pytest.raises(UserError, match="gives no field 'y' but text"):
        next(EvalPipeline(texts, None, 2, num_threads=0, fields=wrong).iterate())


def test_parts_of_a_mixture_agree_on_their_fields():
    images = np.zeros((2, 4, 4, 3), np.uint8)
    plain = ArraySource(images, np.zeros(2, int), ("a",))
    more = ArraySource(images, np.zeros(2, int), ("a",), {"text": np.array(["x", "y"])})
    for parts, who in (((plain, more), "Source 1"), ((more, plain), "Source 0")):
        mixed = Mixture(parts, (1, 1))
        for fields in (
            build_fields(None, DATA),
            build_fields({"image": {"name": "image"}, "text": {"name": "tokens", "length": 4}}, DATA),
        ):
            for whole in (mixed, Mixture((more, mixed), (1, 1))):
                with pytest.raises(UserError, match=f"{who} of the mixture gives 'text', which source"):
                    fields.check_parts(whole)
            fields.check_parts(Mixture((more, more), (1, 1)))
            fields.check_parts(mixed.sources[0])
        # A field that nobody reads may be in a part alone.
        build_fields({"image": {"name": "image"}}, DATA).check_parts(mixed)
        assert mixed.field_names == set(mixed[0]) == set(mixed[2]) == {"image", "label"}
    assert Mixture((more, more), (1, 1)).field_names == {"image", "label", "text"}


@pytest.mark.parametrize(
    "name, section",
    [("masks", {"name": "masks", "max_objects": 2, "classes": 4}), ("segmentation", {"name": "dense", "count": 4}),
     ("boxes", {"name": "boxes", "count": 2, "classes": 4})],
)  # fmt: skip
def test_parts_of_a_mixture_number_their_objects_alike(name, section):
    """The names of labels are joined; what is on objects and in pixels stays as each part has it."""
    parts = {kinds: shapes.build(2, 16, kinds) for kinds in (("disc", "square"), ("square",), ("disc",))}
    both, square, disc = parts.values()
    fields = build_fields({"image": {"name": "image"}, name: section}, DATA)
    sentence = f"Source 1 of the mixture calls the class 1 of '{name}' 'square', and those before it 'disc'"
    with pytest.raises(UserError, match=sentence):
        fields.check_parts(Mixture((both, square), (1, 1)))
    for alike in ((both, disc), (disc, both)):
        fields.check_parts(Mixture(alike, (1, 1)))
    # Without classes there is nothing to be mistaken.
    build_fields({"image": {"name": "image"}}, DATA).check_parts(Mixture((both, square), (1, 1)))


def test_fields_beyond_the_configs_are_left_out_and_workers_agree():
    images = np.random.default_rng(0).integers(0, 256, (6, 20, 30, 3), np.uint8)
    own = {"seg": images[..., 0] // 64, "junk": np.zeros((6, 3)), "text": np.array(["t"] * 6)}
    source = ArraySource(images, np.arange(6), "abcdef", own)
    section = {"image": {"name": "image"}, "seg": {"name": "dense"}, "text": {"name": "tokens", "length": 4}}
    fields = build_fields(section, DATA)
    made = [
        TrainPipeline(source, supervised.build((8, 12), rotate=10), 4, 3, num_threads=n, fields=fields) for n in (0, 2)
    ]
    batches = [pipeline.batch(5) for pipeline in made]
    assert set(batches[0]) == {"image", "seg", "text", "text_mask", "corrupt"}
    assert {k: (v.shape[1:], str(v.dtype)) for k, v in batches[0].items() if k != "corrupt"} == {
        k: (s.shape, s.dtype) for k, s in fields.specs.items()
    }
    for name, value in batches[0].items():
        np.testing.assert_array_equal(value, batches[1][name])


def test_manifests_and_arrays_refuse_what_is_not_there(tmp_path):
    np.savez(tmp_path / "x.npz", text=np.array(["a"]), odd=np.zeros((2, 2)))
    path = str(tmp_path / "x.npz")
    assert arrays.build(path, fields=["text"])[0] == {"text": "a"}
    with pytest.raises(UserError, match="holds no array 'texts'"):
        arrays.build(path, fields=["texts"])
    with pytest.raises(UserError, match="'odd' is float64 .* beside 1 examples"):
        arrays.build(path, fields=["text", "odd"])
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "m.csv").write_text("path,label,mask,words\na.png,cat,../out.png,hello\n")
    build = lambda **more: manifest.build(str(tmp_path / "m.csv"), **more)  # noqa: E731
    assert build(columns={"text": "words"})[0]["text"] == "hello"
    with pytest.raises(UserError, match="1 of 1 lines of .* has no 'wrds'"):
        build(columns={"text": "wrds"})
    with pytest.raises(UserError, match="lead out of"):
        build(files={"seg": "mask"})
    (tmp_path / "m.csv").write_text("path,label,mask\na.png,cat,gone.png\n")
    with pytest.raises(UserError, match=r"missing or no files: first .*gone\.png"):
        build(files={"seg": "mask"})


def test_a_prompt_is_asked_of_no_source_and_read_where_somebody_typed_it():
    """What a checkpoint keeps of it makes the same tokens as the kind `tokens`."""
    section = {"name": "prompt", "tokenizer": "bytes", "length": 9, "long": "cut"}
    fields = build_fields({"image": {"name": "image"}, "text": section}, DATA)
    assert list(fields.specs) == ["image"]
    fields.check_read({"image"})
    row = {"image": np.zeros((8, 12, 3), np.uint8)}
    assert list(fields.read(row, "x.png", training=True)) == ["image"]
    assert fields["text"].caption("text", row) == ""
    again = build_fields(fields.to_json(), DATA)["text"]
    assert again == fields["text"] and again.to_json()["name"] == "prompt"
    plain = field(**{**section, "name": "tokens"})
    for text in ("a wheel", "a wheel of a cart"):
        one, other = (kind.batched("text", kind.read(text, "text", None)) for kind in (again, plain))
        assert one.keys() == other.keys() == {"text", "text_mask", "text_cut"}
        for name, value in one.items():
            np.testing.assert_array_equal(value, other[name])
    with pytest.raises(UserError, match="tokenizer"):
        build_fields({"image": {"name": "image"}, "text": {**section, "tokenizr": "bytes"}}, DATA)
