"""Images of any number of channels in their own numbers: what a file holds arrives on the device, and nothing else."""

from types import SimpleNamespace

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import tiny_config
from vit_jax import UserError
from vit_jax.checkpoints.channels import fitted_kernel
from vit_jax.checkpoints.tokenized import image_rows
from vit_jax.commands.image_files import in_batches
from vit_jax.commands.main import main
from vit_jax.data import geometry
from vit_jax.data.band_files import read_bands
from vit_jax.data.decode import UnreadableImage
from vit_jax.data.field import Context
from vit_jax.data.fields import build_fields
from vit_jax.data.pipeline import EvalPipeline, TrainPipeline
from vit_jax.data.preprocess import Preprocess
from vit_jax.data.sources import arrays, folder
from vit_jax.data.transforms import supervised, two_views, view
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

SIZE = (6, 8)
DTYPES = [(1, "uint8"), (1, "uint16"), (4, "uint16"), (12, "float32")]


def pictures(channels, dtype, count=5, shape=(12, 16)):
    values = np.random.default_rng(channels).random((count, *shape, channels))
    return (values * 60000).astype(dtype) if dtype != "uint8" else (values * 255).astype(dtype)


def fields_of(channels, dtype, **own):
    preprocess = own.pop("preprocess", Preprocess(SIZE))
    image = {"name": "bands", "channels": channels, "dtype": dtype, **own}
    return build_fields({"image": image, "label": {"name": "classes"}}, Context(preprocess, ("a", "b")))


def npz(path, images):
    np.savez(path, images=images, labels=np.arange(len(images)) % 2, label_names=["a", "b"])
    return arrays.build(str(path))


@pytest.mark.parametrize(("channels", "dtype"), DTYPES)
def test_numbers_of_a_file_are_those_of_a_batch(tmp_path, channels, dtype):
    """Halved by areas, they are means of four; statistics are those that are given, channel by channel."""
    images = pictures(channels, dtype)
    mean, std = [10.0 + c for c in range(channels)], [2.0 + c for c in range(channels)]
    fields = fields_of(channels, dtype, mean=mean, std=std)
    pipeline = EvalPipeline(npz(tmp_path / "x.npz", images), None, batch_size=5, fields=fields)
    on_host = next(pipeline.iterate())["image"]
    assert on_host.dtype == dtype and on_host.shape == (5, *SIZE, channels) == (5, *fields.specs["image"].shape)
    blocks = images.astype(np.float64).reshape(5, 6, 2, 8, 2, channels).mean((2, 4))
    expected = (blocks - mean) / std
    off = 0.5 if dtype != "float32" else 0.01  # whole numbers are rounded
    seen = np.asarray(fields.on_device({"image": jnp.asarray(on_host)})["image"])
    assert seen.dtype == np.float32 and np.abs(seen * std - expected * std).max() <= off + 1e-2
    if dtype != "float32":
        assert np.array_equal(seen, (on_host.astype(np.float32) - np.float32(mean)) * (1 / np.float32(std)))
    # What predict makes of one image is the same.
    assert np.array_equal(image_rows(fields, list(images))["image"], on_host)
    rebuilt = build_fields(fields.to_json(), Context(Preprocess(SIZE), ("a", "b")))
    assert rebuilt["image"] == fields["image"]


def test_three_channels_of_bytes_are_the_image_s_to_the_bit(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 13, 17, 3), np.uint8)
    source, transform = npz(tmp_path / "x.npz", images), supervised.build(SIZE, rotate=20.0, shift=0.1)
    plain = build_fields(None, Context(Preprocess(SIZE), ("a", "b")))
    batches = [
        TrainPipeline(source, transform, batch_size=4, seed=1, num_threads=0, num_workers=0, fields=fields).batch(0)
        for fields in (plain, fields_of(3, "uint8"))
    ]
    assert np.array_equal(*(batch["image"] for batch in batches))
    seen = [
        kinds.on_device(batch)["image"] for kinds, batch in zip((plain, fields_of(3, "uint8")), batches, strict=True)
    ]
    assert np.array_equal(*seen)


def test_each_channel_is_moved_as_if_it_were_alone():
    fields, image = fields_of(12, "float32"), pictures(12, "float32", 1)[0]
    transform = supervised.build(SIZE, rotate=30.0, shift=0.2)
    moved = transform({"image": image}, np.random.default_rng(3), fields.moves)["image"]
    for channel in range(12):
        alone = fields_of(1, "float32").moves
        one = transform({"image": image[..., channel, None]}, np.random.default_rng(3), alone)["image"]
        assert np.array_equal(one[..., 0], moved[..., channel])


def encoded(suffix, image):
    return cv2.imencode(suffix, image)[1].tobytes()


def test_files_hold_what_they_were_given():
    """PNG and TIFF through OpenCV, which has blue first."""
    for channels in (1, 3, 4):
        for dtype in (np.uint8, np.uint16):
            image = pictures(channels, dtype, 1)[0]
            order = image if channels == 1 else image[..., [2, 1, 0, 3][:channels]]
            for suffix in (".png", ".tiff"):
                found = read_bands(encoded(suffix, order), "x")
                assert found.dtype == dtype and np.array_equal(found, image)
    image = pictures(12, np.uint16, 1)[0]
    pages = cv2.imencodemulti(".tiff", [np.ascontiguousarray(image[..., c]) for c in range(12)])[1].tobytes()
    assert np.array_equal(read_bands(pages, "x"), image)
    floats = pictures(1, np.float32, 1)[0]
    assert np.array_equal(read_bands(encoded(".tiff", floats), "x"), floats)


def test_a_folder_of_tiffs_and_arrays(tmp_path):
    images = pictures(4, "uint16", 4)
    for i, image in enumerate(images):
        path = tmp_path / "ab"[i % 2] / f"{i}"
        path.parent.mkdir(exist_ok=True)
        if i < 2:
            path.with_suffix(".tif").write_bytes(encoded(".tiff", image[..., [2, 1, 0, 3]]))
        else:
            np.save(path.with_suffix(".npy"), image)
    section = {"root": str(tmp_path), "suffixes": (".tif", ".npy")}
    found = [folder.build(split=split, **section) for split in ("train", "test")]
    fields = fields_of(4, "uint16")
    seen = {example["path"]: fields.read(example, "x", True)["image"] for source in found for example in source}
    assert all(np.array_equal(seen[str(p)], images[int(p.stem)]) for p in tmp_path.glob("*/*")) and len(seen) == 4
    with pytest.raises(UserError, match=r"no images but 1 .tif.*Add or convert some \(.jpg"):
        folder.build(str(tmp_path), "train")
    with pytest.raises(UserError, match="suffixes='.tif' are no endings"):
        folder.build(str(tmp_path), "train", suffixes=".tif")


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (pictures(3, "uint16", 1)[0], r"x is \[12, 16, 3\], and its field has 4 channels"),
        (pictures(4, "uint8", 1)[0], "x holds uint8, and its field uint16. Set config.data.fields.image.dtype"),
        (encoded(".tiff", pictures(4, "uint16", 1)[0])[:200], "x is damaged, cut short"),
        (
            b"II*\0\x08\0\0\0\x02\0" + b"\0\1\4\0\1\0\0\0\0\0\1\0" + b"\1\1\4\0\1\0\0\0\0\0\1\0" + b"\0\0\0\0",
            "65536x65536",
        ),
        (b"\x93NUMPY\1\0", "x has a damaged header"),
        (b"BM1234", "x is not a JPEG, PNG or WebP image, but BMP"),
    ],
)
def test_other_files_are_refused(raw, sentence):
    with pytest.raises(UserError, match=sentence):
        fields_of(4, "uint16")["image"].read(raw, "x", None)


def test_a_command_reads_files_as_evaluation_does(tmp_path):
    images, fields = pictures(4, "uint16", 3), fields_of(4, "uint16")
    paths = [tmp_path / f"{i}.npy" for i in range(3)]
    for path, image in zip(paths, images, strict=True):
        np.save(path, image)
    loaded = SimpleNamespace(path="x", fields=fields, preprocess=fields["image"].preprocess)
    batches = list(in_batches(loaded, paths, 2, lambda batch: batch["image"]))
    assert np.array_equal(batches[0][1], image_rows(fields, list(images[:2]))["image"]) and len(batches) == 2


def test_what_does_not_go_together():
    fields = fields_of(4, "uint16")
    for transform in (
        view.build(SIZE),
        two_views.build(SIZE),
        supervised.build(SIZE, randaugment={"layers": 2, "magnitude": 10}),
    ):
        with pytest.raises(UserError, match="changes the colours of RGB bytes"):
            fields.check_placed(transform, "config.data.transform")
    fields.check_placed(view.build(SIZE, jitter=0, gray=0, blur=0), "config.data.transform")
    with pytest.raises(UserError, match="uint16 .12, 16, 4., and an image is uint8"):
        build_fields(None, Context(Preprocess(SIZE)))["image"].read(pictures(4, "uint16", 1)[0], "x", None)
    with pytest.raises(UserError, match="interpolation 'bicubic' is that of 8 bits"):
        transform = supervised.build(SIZE, interpolation="bicubic")
        transform({"image": pictures(4, "uint16", 1)[0]}, np.random.default_rng(0), fields.moves)
    for wrong in ({"mean": [1.0, 2.0]}, {"std": 0.0}, {"preprocess": Preprocess(SIZE, resize="pad")}):
        with pytest.raises(UserError, match="for each of 4 channels|must be a number above 0|not padded"):
            fields_of(4, "uint16", **wrong)
    nan = np.full((12, 16, 1), np.nan, np.float32)
    with pytest.raises(UnreadableImage, match="not finite"):
        fields_of(1, "float32")["image"].read(nan, "x", None)


def test_the_first_kernel_is_fitted_and_no_other():
    kernel = np.random.default_rng(0).normal(size=(2, 2, 3, 5)).astype(np.float32)
    four = fitted_kernel("params/encoder/embedding/kernel", kernel, (2, 2, 4, 5))
    assert np.allclose(four, kernel[:, :, [0, 1, 2, 0]] * 0.75)
    assert np.allclose(
        fitted_kernel("params/encoder/embedding/kernel", kernel, (2, 2, 1, 5)), kernel.sum(2, keepdims=True)
    )
    assert fitted_kernel("params/encoder/embedding/kernel", kernel, (4, 4, 4, 5)) is None
    assert fitted_kernel("params/decoder/embedding/kernel", kernel, (2, 2, 4, 5)) is None
    assert fitted_kernel("params/encoder/embedding/kernel", four, (2, 2, 3, 5)) is None


def test_resizing_knows_one_channel():
    assert geometry.resize(np.zeros((4, 4, 1), np.uint16), (2, 2)).shape == (2, 2)  # OpenCV's; the field adds it again


@pytest.mark.long
def test_a_run_on_bands_and_its_prediction(tmp_path):
    """From a file of four channels to the answers of a command, whose images are files."""
    rng = np.random.default_rng(0)
    labels = np.arange(24) % 2
    images = (rng.random((24, 10, 10, 4)) * 20000 + labels[:, None, None, None] * 30000).astype(np.uint16)
    np.savez(tmp_path / "x.npz", images=images, labels=labels, label_names=["dark", "bright"])
    values = tiny_config(steps=20, optim__learning_rate=3e-3)
    source = {"name": "arrays", "path": str(tmp_path / "x.npz")}
    fields = {"image": {"name": "bands", "channels": 4, "dtype": "uint16"}, "label": {"name": "classes"}}
    values["data"] |= {"train": source, "eval": source, "fields": fields}
    summary = train(build_experiment(values), tmp_path / "run", jax.devices()[:1])
    assert summary["val/accuracy"] > 0.9
    np.save(tmp_path / "bright.npy", images[1])
    output = tmp_path / "answers.jsonl"
    given = ["--checkpoint", str(tmp_path / "run"), str(tmp_path / "bright.npy"), "--output", str(output)]
    assert main(["predict", *given]) == 0
    assert "bright" in output.read_text().split("dark")[0].replace("bright.npy", "")
