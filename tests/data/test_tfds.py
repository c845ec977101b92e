"""Data sets prepared by TFDS, read and written without TensorFlow."""

import contextlib
import io
import json
import logging
import os
import pickle
import resource
import shutil
import struct
import subprocess
import sys

import cv2
import numpy as np
import pytest
import tensorflow_datasets
from array_record.python.array_record_module import ArrayRecordWriter

from vit_jax.commands.main import main
from vit_jax.data import slices
from vit_jax.data.array_record import write
from vit_jax.data.decode import UnreadableImage, decode
from vit_jax.data.pipeline import EvalPipeline, TrainPipeline
from vit_jax.data.preprocess import Preprocess
from vit_jax.data.sources import digits, folder, tfds
from vit_jax.data.sources.arrays import ArraySource
from vit_jax.data.transforms import supervised
from vit_jax.errors import UserError
from vit_jax.training.inputs import build_inputs

# The stock data sets that the documentation names, with the features that this package reads of them.
STOCK = ("cifar10", "cifar100", "imagenet2012", "oxford_iiit_pet", "oxford_flowers102", "fashion_mnist")


@contextlib.contextmanager
def quiet():
    """TFDS draws progress bars."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Fifty and twenty digits as the data set `my_digits`."""
    root = str(tmp_path_factory.mktemp("tfds"))
    with quiet():
        write("my_digits", {s: digits.build(s, per_class=k) for s, k in (("train", 5), ("test", 2))}, root)
    return root


def content(source):
    return sorted(
        (example["label"], decode(example["image"]).tobytes())
        for example in map(source.__getitem__, range(len(source)))
    )


def test_what_is_written_is_read(data_dir):
    for split, count in (("train", 5), ("test", 2)):
        source, original = tfds.build("my_digits", split, data_dir), digits.build(split, per_class=count)
        assert source.label_names == original.label_names and len(source) == 10 * count
        assert content(source) == sorted(
            (original[k]["label"], original[k]["image"].tobytes()) for k in range(len(original))
        )


def test_parts_and_sums_of_splits(data_dir):
    train, test = (content(tfds.build("my_digits", split, data_dir)) for split in ("train", "test"))
    first, rest = (content(tfds.build("my_digits", split, data_dir)) for split in ("train[:30%]", "train[30%:]"))
    assert len(first) == 15 and sorted(first + rest) == train
    assert content(tfds.build("my_digits", "train+test", data_dir)) == sorted(train + test)
    assert len(tfds.build("my_digits", "train[7:9]", data_dir)) == 2


def test_more_files_than_a_process_may_open_at_first(data_dir, monkeypatch):
    """Otherwise the last ones' images would count as unreadable, and be replaced."""
    parts = "+".join(f"train[{k}:{k + 1}]" for k in range(50))
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = len(os.listdir("/dev/fd")) + 10
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, most))
    try:
        assert len(content(tfds.build("my_digits", parts, data_dir))) == 50
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (few + 50, most)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (now, most))
    monkeypatch.setattr(resource, "getrlimit", lambda which: (64, 300))
    with pytest.raises(UserError, match=r"^'my_digits' is 50 files, and a process here may have 300 open\. Allow 306 "):
        tfds.build("my_digits", parts, data_dir)


@pytest.mark.long
def test_batches_for_threads_workers_and_slices(data_dir):
    source = pickle.loads(pickle.dumps(tfds.build("my_digits", "train", data_dir)))
    for options in ({"num_threads": 3}, {"num_workers": 2}):
        train = TrainPipeline(source, supervised.build(8, rotate=9), batch_size=8, seed=0, **options)
        with train.iterate(5, 2, 1) as batches:
            for step in (5, 6):
                batch, expected = next(batches), train.batch(step)
                for key in expected:
                    np.testing.assert_array_equal(batch[key], expected[key][4:])
    with EvalPipeline(source, Preprocess(8), 16).iterate() as batches:
        assert sum(batch["valid"].sum() for batch in batches) == 50


def test_reading_imports_neither_tensorflow_nor_jax(data_dir):
    code = f"from vit_jax.data.sources import tfds; tfds.build('my_digits', 'train', {data_dir!r})[3]; import sys;"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", code + "print({'tensorflow', 'torch', 'jax'} & set(sys.modules))"]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert ran.stdout == "set()\n", ran.stderr


def stock_like(name, data_dir, count):
    """A prepared data set with the features of a stock one and random content."""
    features = tensorflow_datasets.builder(name, data_dir=data_dir).info.features
    version = tensorflow_datasets.builder(name, data_dir=data_dir).version
    rng = np.random.default_rng(0)

    def value(feature, k):
        kind = type(feature).__name__
        if kind == "Image":
            shape = [side or 20 + k for side in feature.shape]
            pixels = rng.integers(0, 256, shape, dtype=np.uint8)
            return io.BytesIO(cv2.imencode(".jpg" if name == "imagenet2012" else ".png", pixels)[1].tobytes())
        if kind == "ClassLabel":
            return (feature.num_classes - 1 - k) % feature.num_classes
        return tensorflow_datasets.features.BBox(0.0, 0.0, 1.0, 1.0) if kind == "BBoxFeature" else f"file {k}"

    class Builder(tensorflow_datasets.core.GeneratorBasedBuilder, skip_registration=True):
        """Random images."""

        VERSION = version
        pkg_dir_path = None

        def _info(self):
            return tensorflow_datasets.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for k in range(count):
                yield k, {key: value(feature, k) for key, feature in features.items()}

    Builder.name = name
    with quiet():
        Builder(data_dir=data_dir, file_format="array_record").download_and_prepare()
    return features


@pytest.mark.parametrize("name", STOCK)
def test_schemas_of_the_documented_data_sets(name, tmp_path):
    features = stock_like(name, str(tmp_path), 3)
    source = tfds.build(name, "train", str(tmp_path))
    assert source.label_names == tuple(features["label"].names) and len(source) == 3
    batch = TrainPipeline(source, supervised.build(16), batch_size=3, seed=0).batch(0)
    assert batch["image"].shape == (3, 16, 16, 3)
    assert sorted(batch["label"]) == [len(source.label_names) - 3 + k for k in range(3)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cifa10", "train"), "TFDS knows no data set 'cifa10', .* Did you mean 'cifar10'"),
        (("nobody_has_this", "train"), "holds none of that name. Or write images of your own there"),
        (("cifar10", "train"), "'cifar10' is not prepared in .*. Prepare it: vit_jax prepare cifar10 --data-dir /"),
        (("my_digits", "val"), r"no split 'val'\. Known: test, train"),
        (("my_digits", "train["), r"no split 'train\['\. Its splits are train, test; write parts"),
        (("my_digits", "train[:200%]"), "reaches outside the 50 examples"),
        (("my_digits", "train[:0%]"), "The split .* is empty"),
        (("my_digits:9.*.*", "train"), "holds no 'my_digits:9.*.*' that TFDS has prepared"),
        (("my digits", "train"), "'my digits' cannot name a data set"),
        (("huggingface:beans", "train"), "'huggingface:beans' cannot name a data set"),
        (("../my_digits", "train"), "cannot name a data set"),
        (("cifar10/nothing", "train"), "'cifar10/nothing' is not prepared"),
    ],
)
def test_what_is_missing_is_said(data_dir, arguments, message):
    with pytest.raises(UserError, match=message):
        tfds.build(*arguments, data_dir=data_dir)


def test_wrong_keys(data_dir):
    with pytest.raises(UserError, match=r"no label_key 'labels'\. Did you mean 'label'"):
        tfds.build("my_digits", "train", data_dir, label_key="labels")
    with pytest.raises(UserError, match=r"no image_key 'label'\. Known: image"):
        tfds.build("my_digits", "train", data_dir, image_key="label")


def test_other_file_formats(data_dir, tmp_path):
    stock_like("fashion_mnist", str(tmp_path), 2)
    [info] = tmp_path.glob("fashion_mnist/*/dataset_info.json")
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    for path in info.parent.glob("*.array_record*"):
        path.rename(str(path).replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match=r"holds tfrecord files, which cannot be read by index\. Convert it"):
        tfds.build("fashion_mnist", "train", str(tmp_path))


@pytest.fixture
def stranger(data_dir, tmp_path):
    """A copy of `my_digits` whose metadata a test changes."""
    shutil.copytree(data_dir, tmp_path / "data")
    folder = tmp_path / "data" / "my_digits" / "1.0.0"

    def change(file, old, new):
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new))
        return str(tmp_path / "data")

    change.folder = folder
    return change


OWN_IMAGE = "tensorflow_datasets.core.features.image_feature.Image"


@pytest.mark.parametrize("command", ["build", "prepare"])
def test_a_class_that_features_json_names_is_not_imported(stranger, tmp_path, monkeypatch, capsys, command):
    """TFDS imports it: https://github.com/tensorflow/datasets, FeatureConnector.cls_from_name."""
    (tmp_path / "beside_us.py").write_text("raise SystemExit('this code was run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    data_dir = stranger("features.json", OWN_IMAGE, "beside_us.Image")
    if command == "build":
        with pytest.raises(UserError, match="names the class 'beside_us.Image', whose code would have to be run"):
            tfds.build("my_digits", "train", data_dir)
    else:
        # A data set that TFDS knows, so that it looks for versions in the folder.
        (tmp_path / "data" / "my_digits").rename(tmp_path / "data" / "cifar10")
        (tmp_path / "data" / "cifar10" / "1.0.0").rename(tmp_path / "data" / "cifar10" / "3.0.2")
        assert main(["prepare", "cifar10:3.0.2", "--data-dir", data_dir]) == 2
        assert "names the class 'beside_us.Image'" in capsys.readouterr().err
    assert "beside_us" not in sys.modules


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("features.json", '"pythonClassName": "tensor', '"type": "tensor', "no image_key 'image'"),
        ("features.json", "{", "[" * 5000, "nested too deeply"),
        ("features.json", '"10"', '"1000000000"', "would have 1000000000 classes, more than 1000000"),
        ("features.json", '"10"', '"11"', "label.labels.txt has 10 names, 10 of them different, for 11"),
        ("label.labels.txt", "3", "3\n4", "label.labels.txt has 11 names, 10 of them different, for 10"),
        ("dataset_info.json", '"50"', '"4611686018427387904"', "has the length of a shard '4611686018427387904'"),
        ("dataset_info.json", '"50"', '"9999999"', "array_record-00000-of-00001 cannot hold 9999999 records"),
        ("dataset_info.json", "{DATASET}-", "../../../x-", r"has the file name '\.\./"),
        ("dataset_info.json", '"splits": [', '"splits": [null, ', "has a split that is not an object"),
        ("dataset_info.json", '"array_record"', '"x\x1b"', "is not JSON"),
        ("dataset_info.json", '"fileFormat"', '"format"', "has no 'fileFormat'"),
    ],
)
def test_damaged_metadata_is_named(stranger, file, old, new, message):
    with pytest.raises(UserError, match=message):
        tfds.build("my_digits", "train", stranger(file, old, new))


def test_a_damaged_record_is_replaced_in_training_and_fatal_in_evaluation(stranger):
    [path] = stranger.folder.glob("my_digits-train*")
    data = bytearray(path.read_bytes())
    data[data.find(b"IDAT", 2000) + 8] ^= 1
    path.write_bytes(data)
    source = tfds.build("my_digits", "train", str(stranger.folder.parents[1]))
    batch = TrainPipeline(source, supervised.build(8), batch_size=50, seed=0).batch(0)
    assert batch["corrupt"].sum() == 1
    with (
        pytest.raises(UnreadableImage, match=r"array_record-00000-of-00001, record \d+ could not be read"),
        EvalPipeline(source, Preprocess(8), 16).iterate() as batches,
    ):
        list(batches)


@pytest.mark.parametrize(
    ("split", "examples"),
    [
        ("train", range(50)),
        ("train[:]", range(50)),
        ("train[-1%:]", None),
        ("train[:-1%]", range(50)),
        ("train[-10%:]", range(45, 50)),
        ("train[:-10%]", range(45)),
        ("train[33%:67%]", range(16, 34)),
        ("train[12.5%:]", range(6, 50)),
        ("train[-5:]", range(45, 50)),
        ("train[-5:-2]", range(45, 48)),
        ("train[20:10]", None),
        ("train[50:]", None),
        ("train[:51]", "outside"),
        ("train[-51:]", "outside"),
        ("train[1e9:]", "not a bound"),
        ("train[1.5:]", "not a bound"),
        ("train[:1shard]", "not a bound"),
        ("train[::2]", "no split"),
        ("train[" + "9" * 5000 + ":]", "not a bound"),
        ("", "no split"),
        (None, "no split"),
    ],
)
def test_parts_are_half_open(split, examples):
    if isinstance(examples, range):
        assert slices.parse(split, {"train": 50}, "it") == [("train", examples)]
    else:
        with pytest.raises(UserError, match=examples or "is empty"):
            slices.parse(split, {"train": 50}, "it")


@pytest.mark.parametrize("size", [1, 7, 49, 50, 51, 100, 1437, 1281167])
def test_two_parts_make_up_the_whole(size):
    for percent in range(101):
        for bound in (f"{percent}%", f"-{percent}%"):
            parts = []
            for text in (f"train[:{bound}]", f"train[{bound}:]"):
                with contextlib.suppress(UserError):  # an empty part
                    parts += [part for _, part in slices.parse(text, {"train": size}, "it")]
            assert (parts[0].start, parts[-1].stop) == (0, size) and sum(map(len, parts)) == size
        # Counted from the front TFDS's "closest" is well defined.
        if stop := round(percent * size / 100.0):
            assert slices.parse(f"train[:{percent}%]", {"train": size}, "it") == [("train", range(stop))]


def test_unreadable_images_are_left_out_and_named(tmp_path):
    for k in range(3):
        path = tmp_path / "photos" / "train" / "a" / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if k == 1 else cv2.imencode(".png", np.full((40, 60, 3), k, np.uint8))[1].tobytes())
    source, unreadable = folder.build(str(tmp_path / "photos"), "train"), []
    with quiet():
        write("mine", {"train": source}, str(tmp_path), short_side=20, unreadable=unreadable)
    assert [error.what.endswith("1.png is empty") for error in unreadable] == [True]
    images = [decode(tfds.build("mine", "train", str(tmp_path))[k]["image"]) for k in range(2)]
    assert {image.shape for image in images} == {(20, 30, 3)} and {int(image.max()) for image in images} == {0, 2}
    with pytest.raises(UserError, match="exists already"):
        write("mine", {"train": source}, str(tmp_path))


def test_what_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "1.0.0").mkdir(parents=True)
    (tmp_path / "taken" / "1.0.0" / "dataset_info.json").write_text("null")
    one = ArraySource(np.zeros((2, 3, 3, 3), np.uint8), np.array([0, 1]), ["a", "b"])
    other = ArraySource(one.images, one.labels, ["a", "c"])
    for arguments, message in (
        (("My photos", {"train": one}), "cannot name a data set"),
        (("cifar10", {"train": one}), "is a data set of TFDS"),
        (("taken", {"train": one}), "taken/1.0.0 exists already"),
        (("file", {"train": one}), "file cannot be written: File exists"),
        (("mine", {"train": one, "test": other}), "different classes"),
        (
            ("mine", {"train": ArraySource(one.images, one.labels, ["a\nb", "c"])}),
            r"The class 'a\\nb' cannot be written",
        ),
        (("mine", {"train": ArraySource(one.images, one.labels, ["a", "a "])}), "The class 'a ' cannot be written"),
    ):
        with pytest.raises(UserError, match=message):
            write(*arguments, str(tmp_path))


def test_mock_data_of_tfds():
    """The stand-in that TFDS offers for its own tests gives the fields that the source asks for."""
    with tensorflow_datasets.testing.mock_data(num_examples=2):
        record = tensorflow_datasets.data_source("cifar10", split="train")[0]
    assert record["image"].shape == (32, 32, 3) and 0 <= record["label"] < 10


def example(**features):
    """A `tf.train.Example` in protocol buffers' wire format: bytes, whole numbers or floats by name."""

    def framed(number, content):
        size, encoded = len(content), b""
        while size >= 128:
            encoded, size = encoded + bytes([size % 128 + 128]), size // 128
        return bytes([number << 3 | 2]) + encoded + bytes([size]) + content

    entries = b""
    for name, values in features.items():
        if isinstance(values[0], bytes):
            feature = framed(1, b"".join(framed(1, value) for value in values))
        elif isinstance(values[0], float):
            feature = framed(2, framed(1, struct.pack(f"<{len(values)}f", *values)))
        else:
            feature = framed(3, framed(1, bytes(values)))  # each below 128
        entries += framed(1, framed(1, name.encode()) + framed(2, feature))
    return framed(1, entries)


@pytest.fixture(scope="module")
def street(data_dir, tmp_path_factory):
    """A data set with masks, captions, and boxes with classes: two records in the layout of TFDS."""
    root = tmp_path_factory.mktemp("street")
    shutil.copytree(f"{data_dir}/my_digits/1.0.0", root / "street" / "1.0.0")
    folder = root / "street" / "1.0.0"
    core = "tensorflow_datasets.core.features."
    members = {
        "image": {"pythonClassName": core + "image_feature.Image"},
        "mask": {"pythonClassName": core + "image_feature.Image"},
        "caption": {"pythonClassName": core + "text_feature.Text"},
        "objects": {"pythonClassName": core + "sequence_feature.Sequence", "sequence": {"feature": {
            "pythonClassName": core + "features_dict.FeaturesDict", "featuresDict": {"features": {
                "bbox": {"pythonClassName": core + "bbox_feature.BBoxFeature"},
                "kind": {"pythonClassName": core + "scalar.Scalar"}}}}}},
    }  # fmt: skip
    old = json.loads((folder / "features.json").read_text())
    (folder / "features.json").write_text(json.dumps({**old, "featuresDict": {"features": members}}))
    info = json.loads((folder / "dataset_info.json").read_text().replace("my_digits", "street"))
    info["splits"] = [{**split, "shardLengths": ["2"]} for split in info["splits"] if split["name"] == "train"]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    for file in folder.glob("*array_record*"):
        file.unlink()
    writer = ArrayRecordWriter(str(folder / "street-train.array_record-00000-of-00001"), "group_size:1")
    png = cv2.imencode(".png", np.full((4, 6, 3), 7, np.uint8))[1].tobytes()
    mask = cv2.imencode(".png", np.full((4, 6), 3, np.uint8))[1].tobytes()
    boxes = {"objects/bbox": [0.0, 0.5, 0.5, 1.0, 0.25, 0.0, 1.0, 0.5], "objects/kind": [2, 0]}
    writer.write(example(image=[png], mask=[mask], caption=[b"a cat"], **boxes))
    writer.write(example(image=[png], mask=[mask], caption=[b"a", b"b"], **boxes | {"objects/kind": [1]}))
    writer.close()
    return str(root)


def test_any_feature_is_a_field(street):
    fields = {"mask": "mask", "text": "caption", "boxes": ["objects/bbox", "objects/kind"]}
    source = tfds.build("street", "train", street, label_key=None, fields=fields)
    assert source.field_names == {"image", "mask", "text", "boxes"} and source.label_names == ()
    found = pickle.loads(pickle.dumps(source))[0]
    assert found["text"] == b"a cat" and decode(found["image"]).shape == (4, 6, 3)
    np.testing.assert_array_equal(found["boxes"], [[0, 0.5, 0.5, 1, 2], [0.25, 0, 1, 0.5, 0]])
    kinds = {"image": {"name": "image"}, "mask": {"name": "dense", "count": 5}, "text": {"name": "tokens", "length": 8, "tokenizer": "bytes"},
             "boxes": {"name": "boxes", "count": 3, "classes": 4, "format": "yxyx", "unit": "fraction"}}  # fmt: skip
    section = {"name": "tfds", "dataset": "street", "split": "train[:1]", "data_dir": street, "label_key": None}
    data = {"image_size": [4, 6], "fields": kinds, "transform": {"name": "supervised"}, "train": section}
    pipeline = build_inputs(data).eval_pipeline(1, "config.evals.val", {**section, "fields": fields})
    batch = next(iter(pipeline.iterate()))
    np.testing.assert_array_equal(batch["boxes"][0], [[3, 0, 6, 2], [0, 1, 3, 4], [0, 0, 0, 0]])
    assert (batch["mask"] == 3).all() and batch["boxes_class"][0].tolist() == [2, 0, 0] and batch["text"][0, 0] != 0
    # Several captions are several texts, of which evaluation reads the first.
    several = tfds.build("street", "train", street, label_key=None, fields={"text": "caption"})[1]["text"]
    assert several == [b"a", b"b"] and build_inputs(data).kinds()["text"].choose(several, "x", None) == b"a"
    pair = tfds.build("street", "train", street, label_key=None, fields={"text": ["caption", "caption"]})[0]
    assert pair["text"] == [b"a cat", b"a cat"]
    # A record that does not hold what is asked for is damaged, not guessed at.
    for fields, what in (
        ({"x": ["caption", "caption"]}, "2 texts"),
        ({"x": ["objects/bbox", "objects/kind"]}, "of 2, 1 objects"),
    ):
        with pytest.raises(UnreadableImage, match=f"record 1, field 'x', has .*{what}"):
            tfds.build("street", "train", street, label_key=None, fields=fields)[1]


def test_captions_train_beside_their_images(street):
    data = {
        "image_size": [4, 6], "num_workers": 0, "transform": {"name": "supervised"},
        "fields": {"image": {"name": "image"}, "text": {"name": "tokens", "length": 8}},
        "train": {"name": "tfds", "dataset": "street", "split": "train", "data_dir": street, "label_key": None,
                  "fields": {"text": "caption"}},
    }  # fmt: skip
    inputs = build_inputs(data)
    pipeline = inputs.train_pipeline(inputs.train_source(), 2, 0)
    batches = [pipeline.batch(step) for step in range(12)]
    assert {inputs.kinds()["text"].text(row) for batch in batches for row in batch["text"]} == {"a cat", "a", "b"}
    assert all((batch["image"] == 7).all() and batch["text_mask"].any(1).all() for batch in batches)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"fields": {"boxes": "objects/bbx"}, "label_key": None},
            "no feature 'objects/bbx'. Did you mean 'objects/bbox'",
        ),
        ({"label_key": "kind"}, "no label_key 'kind'"),
        ({"label_key": None, "fields": {"image": "mask"}}, "gives 'image' twice. Set image_key to None"),
        ({"label_key": None, "image_key": None}, "Nothing is taken of 'street'"),
    ],
)
def test_features_that_are_not_there(street, options, message):
    with pytest.raises(UserError, match=message):
        tfds.build("street", "train", street, **options)
