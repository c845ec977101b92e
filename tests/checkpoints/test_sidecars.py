"""JSON files beside a weight file: what other libraries write is understood, and what we write says the same again."""

import pytest

from vit_jax.checkpoints.families import google_bit, google_mixer, hf_bit, timm_mixer, timm_resnetv2
from vit_jax.checkpoints.published import Sidecar
from vit_jax.checkpoints.sidecars import (
    google_published,
    timm_config,
    timm_labels,
    timm_preprocess,
    transformers_labels,
    transformers_preprocess,
    transformers_preprocessor,
)
from vit_jax.errors import UserError

DEFAULT = {"image_size": (224, 224), "crop_pct": 0.875, "interpolation": "bilinear"}


def metadata(**preprocess):
    size = preprocess.pop("image_size", [448, 448])
    values = {"image_size": size, "mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375], **preprocess}
    model = {"name": "bit", "kwargs": {"num_classes": 2}}
    return {"model": model, "preprocess": values, "labels": ["cat", "dog"], "image_size": size}


@pytest.mark.parametrize(
    "preprocess",
    [
        {"resize": "squash", "interpolation": "bilinear"},
        {"resize": "short_side", "resize_to": 512, "interpolation": "bicubic"},
        {"resize": "short_side", "resize_to": 448, "interpolation": "bilinear"},
        {"resize": "short_side", "resize_to": 593, "interpolation": "bilinear"},
    ],
    ids=str,
)
def test_there_and_back(preprocess):
    info = metadata(**preprocess)
    timm = Sidecar(timm_config("a", info, {}))
    assert timm_preprocess(timm, **DEFAULT) == info["preprocess"]
    assert timm_labels(timm) == ("cat", "dog")
    transformers = Sidecar({}, transformers_preprocessor("BitImageProcessor", info))
    assert transformers_preprocess(transformers, **DEFAULT) == info["preprocess"]


def test_timm_without_a_config():
    expected = {"image_size": [224, 224], "resize": "short_side", "resize_to": 256, "interpolation": "bilinear"}
    assert timm_preprocess(Sidecar(), **DEFAULT) == expected | {"mean": [127.5] * 3, "std": [127.5] * 3}
    assert timm_labels(Sidecar()) == ()


def test_timms_old_config_is_one_level():
    config = {"architecture": "a", "input_size": [3, 96, 96], "crop_pct": 1.0, "interpolation": "bicubic"}
    values = timm_preprocess(Sidecar(config), **DEFAULT)
    assert (values["image_size"], values["resize_to"], values["interpolation"]) == ([96, 96], 96, "bicubic")


def test_descriptions_are_the_better_labels():
    config = {"label_names": ["n01", "n02"], "label_descriptions": {"n01": "tench"}}
    assert timm_labels(Sidecar(config)) == ("tench", "n02")


def test_placeholders_are_no_labels():
    assert transformers_labels(Sidecar({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}})) == ()
    assert transformers_labels(Sidecar({"id2label": {"1": "b", "0": "a"}})) == ("a", "b")


def test_transformers_pixels_that_are_not_rescaled_or_normalised():
    plain = Sidecar({}, {"size": 64, "do_rescale": False, "image_mean": [100.0] * 3, "image_std": [50.0] * 3})
    values = transformers_preprocess(plain, **DEFAULT)
    assert values["mean"] == [100.0] * 3 and values["std"] == [50.0] * 3 and values["image_size"] == [64, 64]
    values = transformers_preprocess(Sidecar({}, {"size": 64, "do_normalize": False}), **DEFAULT)
    assert values["mean"] == [0.0] * 3 and values["std"] == [255.0] * 3
    with pytest.raises(UserError, match="longest_edge"):
        transformers_preprocess(Sidecar({}, {"size": {"longest_edge": 64}}), **DEFAULT)


def test_only_our_own_config_speaks_for_an_npz():
    own = {"library_name": "vit_jax", "kwargs": {"a": 2}, "preprocess": {"image_size": [8, 8]}, "labels": ["x"]}
    published = google_published("bit", {"a": 1, "b": 1}, (4, 4), {}, Sidecar(own))
    assert published.kwargs == {"a": 2, "b": 1} and published.labels == ("x",)
    assert published.preprocess["image_size"] == [8, 8] and published.preprocess["resize"] == "squash"
    foreign = google_published("bit", {"a": 1}, (4, 4), {}, Sidecar(own | {"library_name": "timm"}))
    assert foreign.kwargs == {"a": 1} and foreign.labels == ()


@pytest.mark.parametrize("family", [google_bit, google_mixer, hf_bit, timm_mixer, timm_resnetv2])
def test_no_family_takes_a_model_of_another(family):
    for model in (None, {"name": "vit", "kwargs": {"variant": "B/16", "num_classes": 2}}):
        assert family.sidecar(metadata() | {"model": model}) is None
    assert family.describe({"blocks.0.attn.qkv.weight": (3, 1), "head/kernel": (2, 2)}, Sidecar()) is None
