"""JSON files beside a weight file: what other libraries write is understood, and what we write says the same again."""

import dataclasses

import pytest

from vit_jax.checkpoints.families import google_bit, google_mixer, hf_bit, timm_mixer, timm_resnetv2
from vit_jax.checkpoints.json_file import JsonObject
from vit_jax.checkpoints.parts import google as google_parts
from vit_jax.checkpoints.parts import hf as hf_parts
from vit_jax.checkpoints.parts import hf_processor
from vit_jax.checkpoints.parts import timm as timm_parts
from vit_jax.checkpoints.parts.sidecars import IMAGENET, INCEPTION
from vit_jax.checkpoints.published import Sidecar
from vit_jax.data.preprocess import Preprocess
from vit_jax.errors import UserError

DEFAULT = {"resize": "short_side", "resize_to": 256, "interpolation": "bilinear", **INCEPTION}


def metadata(**preprocess):
    values = {"image_size": [448, 448], **IMAGENET, **preprocess}
    model = {"name": "bit", "kwargs": {"num_classes": 2}}
    return {"model": model, "preprocess": values, "labels": ["cat", "dog"], "image_size": values["image_size"]}


@pytest.mark.parametrize("size", [[448, 448], [320, 448]], ids=str)
@pytest.mark.parametrize(
    "preprocess",
    [
        {"resize": "squash", "interpolation": "bilinear", "std": [100.0, 1.0, 77.77]},
        {"resize": "short_side", "resize_to": 512, "interpolation": "bicubic"},
        {"resize": "short_side", "resize_to": 448, "interpolation": "bilinear"},
        {"resize": "short_side", "resize_to": 593, "interpolation": "bilinear", "mean": [122.7709383, 116.7460125, 1]},
    ],
    ids=str,
)
def test_there_and_back(preprocess, size):
    info = metadata(**preprocess, image_size=size)
    expected = Preprocess.from_json(
        info["preprocess"] | {"mean": [round(value, 6) for value in info["preprocess"]["mean"]]}
    )
    timm = Sidecar(timm_parts.config("a", info, {}, {})["config.json"])
    assert timm_parts.image_size(timm) == size
    back = Preprocess.from_json(timm_parts.preprocess(timm, size, crop_pct=0.1))
    if preprocess["resize"] == "short_side" and size[0] != size[1] and preprocess["resize_to"] != max(size):
        assert back.resize == "cover" and back.resize_to[1] == preprocess["resize_to"]  # all that timm has for oblongs
    elif preprocess["resize"] == "squash" or size[0] == size[1]:
        assert back == expected
    assert timm_parts.labels(timm, 2) == ("cat", "dog")
    processor = hf_processor.processor(info["preprocess"])
    assert hf_processor.image_size(JsonObject(processor), [1, 1], "ViT") == size
    crop = "floor" if preprocess["resize"] == "short_side" else "round"
    back = Preprocess.from_json(hf_processor.preprocess(JsonObject(processor), size, DEFAULT, "ViT"))
    assert back == dataclasses.replace(expected, crop=crop)
    assert hf_parts.labels(Sidecar(hf_parts.label_config(info)), 2) == ("cat", "dog")


def test_the_digits_that_people_know():
    config = timm_parts.config("a", metadata(), {}, {})["config.json"]["pretrained_cfg"]
    assert config["mean"] == [0.485, 0.456, 0.406] and config["std"] == [0.229, 0.224, 0.225]
    processor = hf_processor.processor(metadata()["preprocess"])
    assert processor["image_mean"] == [0.485, 0.456, 0.406]


def test_timm_without_a_config():
    values = timm_parts.preprocess(Sidecar(), [224, 224], crop_pct=0.875, interpolation="bilinear", stats=IMAGENET)
    expected = {"image_size": [224, 224], "resize": "short_side", "resize_to": 256, "interpolation": "bilinear"}
    assert values == expected | IMAGENET
    assert timm_parts.labels(Sidecar(), 2) == () and timm_parts.image_size(Sidecar()) is None


def test_timms_old_config_is_one_level():
    config = {"architecture": "a", "input_size": [3, 96, 96], "crop_pct": 1.0, "labels": ["a", "b"]}
    sidecar = Sidecar(config | {"interpolation": "lanczos", "mean": [0, 0, 0]})
    values = timm_parts.preprocess(sidecar, timm_parts.image_size(sidecar), crop_pct=0.9, interpolation="bilinear")
    assert (values["image_size"], values["resize_to"], values["interpolation"]) == ([96, 96], 96, "lanczos")
    assert values["mean"] == [0.0] * 3 and values["std"] == IMAGENET["std"]
    assert timm_parts.labels(sidecar, 2) == ("a", "b")


def test_an_oblong_keeps_its_crop():
    sidecar = Sidecar({"pretrained_cfg": {"input_size": [3, 64, 96], "crop_pct": 0.5}})
    values = timm_parts.preprocess(sidecar, [64, 96], crop_pct=0.9)
    assert (values["resize"], values["resize_to"]) == ("cover", [128, 192])
    # What a config.json leaves out is timm's, not the family's.
    assert timm_parts.preprocess(Sidecar({"crop_pct": None}), [70, 70], crop_pct=0.5)["resize_to"] == 80


@pytest.mark.parametrize("said", [{"interpolation": "random"}, {"crop_mode": "left"}], ids=str)
def test_what_timm_does_not_have_is_refused(said):
    with pytest.raises(UserError, match=next(iter(said))):
        timm_parts.preprocess(Sidecar({"pretrained_cfg": said}), [32, 32], crop_pct=0.9)


def test_descriptions_are_the_better_labels():
    config = {"label_names": ["n01", "n02"], "label_descriptions": {"n01": "tench"}}
    assert timm_parts.labels(Sidecar(config), 2) == ("tench", "n02")
    assert timm_parts.labels(Sidecar({"pretrained_cfg": config}), 2) == ("tench", "n02")


def test_labels_that_do_not_name_every_class_are_none():
    assert timm_parts.labels(Sidecar({"label_names": ["a", "b"]}), 3) == ()
    assert hf_parts.labels(Sidecar({"id2label": {"0": "a"}}), 2) == ()
    assert hf_parts.labels(Sidecar({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}), 2) == ()
    assert hf_parts.labels(Sidecar({"id2label": {"1": "b", "0": "a"}}), 2) == ("a", "b")


def test_transformers_pixels_that_are_not_rescaled_or_normalised():
    plain = {"size": 64, "do_rescale": False, "image_mean": [100.0] * 3, "image_std": [50.0] * 3}
    values = hf_processor.preprocess(JsonObject(plain), [64, 64], DEFAULT, "ViT")
    assert values["mean"] == [100.0] * 3 and values["std"] == [50.0] * 3
    values = hf_processor.preprocess(JsonObject({"size": 64, "do_normalize": False}), [64, 64], DEFAULT, "ViT")
    assert values["mean"] == [0.0] * 3 and values["std"] == [255.0] * 3
    values = hf_processor.preprocess(
        JsonObject({"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1]}), [64, 64], DEFAULT, "ViT"
    )
    assert values["mean"] == [127.5] * 3 and values["std"] == [63.75] * 3  # half, as the class has it


SQUARE = {"height": 224, "width": 224}


@pytest.mark.parametrize(
    ("processor", "size", "expected"),
    [
        ({}, [224, 224], {"resize": "short_side", "resize_to": 256}),
        ({"size": 64}, [64, 64], {"resize": "squash"}),
        ({"size": 64, "feature_extractor_type": "BitFeatureExtractor"}, [224, 224], {"resize_to": 224}),
        ({"size": [64, 96], "resample": 1}, [64, 96], {"resize": "squash", "interpolation": "lanczos"}),
        ({"size": {"shortest_edge": 80}, "crop_size": 64, "do_center_crop": True}, [64, 64], {"resize_to": 80}),
        ({"size": {"shortest_edge": 80}, "crop_size": 64}, [80, 80], {"resize_to": 80}),
        ({"size": {"height": 256, "width": 256}, "crop_size": SQUARE, "do_center_crop": True},
         [224, 224], {"resize": "squash", "resize_to": [256, 256], "crop": "floor"}),
    ],
    ids=str,
)  # fmt: skip
def test_sizes_of_transformers(processor, size, expected):
    assert hf_processor.image_size(JsonObject(processor), [224, 224], "ViT") == size
    values = hf_processor.preprocess(JsonObject(processor), size, DEFAULT, "ViT")
    assert values["image_size"] == size and {key: values[key] for key in expected} == expected


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": {"longest_edge": 64}},
        {"size": {"shortest_edge": 64, "longest_edge": 80}},
        {"size": "64"},
        {"crop_size": {"shortest_edge": 64}, "do_center_crop": True},
        {"image_processor_type": "LevitImageProcessor"},
        {"do_pad": True},
        {"resample": 9},
    ],
    ids=str,
)
def test_processors_of_another_kind_are_refused(wrong):
    with pytest.raises(UserError, match="preprocessor_config.json"):
        hf_processor.preprocess(JsonObject(wrong, "preprocessor_config.json"), [64, 64], DEFAULT, "ViT")


def test_only_our_own_config_speaks_for_an_npz():
    own = {"library_name": "vit_jax", "kwargs": {"a": 2}, "preprocess": {"image_size": [8, 8]}, "labels": ["x"]}
    kwargs = {"a": 1, "num_classes": 1}
    published = google_parts.published("bit", kwargs, (4, 4), {}, Sidecar(own))
    assert published.kwargs == {"a": 2, "num_classes": 1} and published.labels == ("x",)
    assert published.preprocess["image_size"] == [8, 8] and published.preprocess["resize"] == "squash"
    foreign = google_parts.published("bit", kwargs, (4, 4), {}, Sidecar(own | {"library_name": "timm"}))
    assert foreign.kwargs == kwargs and foreign.labels == ()


@pytest.mark.parametrize("family", [google_bit, google_mixer, hf_bit, timm_mixer, timm_resnetv2])
def test_no_family_takes_a_model_of_another(family):
    for model in (None, {"name": "vit", "kwargs": {"variant": "B/16", "num_classes": 2}}):
        assert family.sidecar(metadata() | {"model": model}) is None
    assert family.describe({"blocks.0.attn.qkv.weight": (3, 1), "head/kernel": (2, 2)}, Sidecar()) is None
