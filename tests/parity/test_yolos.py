"""YOLOS of transformers: boxes and logits with and without positions in the middle, files in both directions."""

import json

import numpy as np
import pytest
import torch
import transformers

from tests.parity.oracle import assert_close, images, randomise_vit, read, read_folder, to_torch, write
from vit_jax.checkpoints.families import hf_yolos
from vit_jax.checkpoints.load import load
from vit_jax.checkpoints.published import Sidecar

SIZE = {"hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16, "patch_size": 8,
        "image_size": [32, 48], "num_detection_tokens": 7, "num_labels": 4}  # fmt: skip
LABELS = {"id2label": dict(enumerate(("none", "cat", "dog", "emu"))), "label2id": {}}


def theirs(mid):
    config = transformers.YolosConfig(**SIZE, use_mid_position_embeddings=mid, **LABELS)
    return randomise_vit(transformers.YolosForObjectDetection(config))


def detected(model, x):
    with torch.no_grad():
        found = model(to_torch(x))
    return {"detection_logits": found.logits.numpy(), "detection_boxes": found.pred_boxes.numpy()}


@pytest.mark.parametrize("mid", [False, True])
def test_transformers(mid, tmp_path):
    model = theirs(mid)
    model.save_pretrained(tmp_path / "theirs")
    ours = read(hf_yolos, *read_folder(tmp_path / "theirs"))
    assert ours.kwargs.get("mid_positions", False) == mid and ours.kwargs["num_classes"] == 4
    assert ours.published.labels == ("none", "cat", "dog", "emu")
    x = images(32, 48)
    wanted, found = detected(model, x), ours.outputs(x)
    for name, value in wanted.items():
        assert np.ptp(value, axis=1).max() > 0.01  # the tokens differ
        assert_close(found[name], value, name)
    write(ours, tmp_path / "ours", ours.metadata(ours.published.labels))
    back = transformers.YolosForObjectDetection.from_pretrained(tmp_path / "ours").eval()
    for name, value in detected(back, x).items():
        np.testing.assert_array_equal(value, wanted[name])
    again = read(hf_yolos, *read_folder(tmp_path / "ours"))
    assert again.kwargs == ours.kwargs and again.published.preprocess == ours.published.preprocess
    if mid:
        other = ours.outputs(x, mid_positions=False)
        assert np.abs(other["detection_logits"] - found["detection_logits"]).max() > 1e-3


def test_a_published_file_detects_and_other_sizes_have_interpolated_positions(tmp_path):
    model = theirs(mid=False)
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path, image_size=(40, 32))
    assert loaded.task.label_names == ("none", "cat", "dog", "emu") and loaded.task.answered_by == (
        "boxes",
        "scores",
        "classes",
    )
    x = images(40, 32)
    found = loaded.outputs(x, tuple(detected(model, x)))
    for name, value in detected(model, x).items():
        assert_close(found[name], value, name)


@pytest.mark.parametrize(
    ("config", "trunk", "more"),
    [
        ({"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, "image_size": [800, 1333],
          "use_mid_position_embeddings": False}, "Ti/16", {}),
        ({"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "image_size": [512, 864]}, "S/16",
         {"mid_positions": True}),
    ],
)  # fmt: skip
def test_published_architectures(config, trunk, more):
    with torch.device("meta"):
        model = transformers.YolosForObjectDetection(transformers.YolosConfig(**config, num_labels=91))
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    published = hf_yolos.describe(shapes, Sidecar(config=json.loads(model.config.to_json_string())))
    assert published.kwargs["trunk"]["variant"] == trunk and published.kwargs["num_classes"] == 91
    assert {k: v for k, v in published.kwargs.items() if k not in ("trunk", "num_classes")} == more
