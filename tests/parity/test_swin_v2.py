"""Swin v2 of timm and of transformers: every map and logits, windows of pretraining, files in both directions."""

import numpy as np
import pytest
import timm
import torch
import transformers
from timm.models.swin_transformer_v2 import SwinTransformerV2

from tests.parity.oracle import images, randomise_vit, read, read_folder, to_torch, write
from tests.parity.test_swin import LABELS, SIZE, assert_maps, outputs, timm_maps, transformers_maps
from vit_jax.checkpoints.families import hf_swin_v2, timm_swin_v2
from vit_jax.checkpoints.published import Sidecar

PRETRAINED = [3, 3, 0]
KWARGS = {"variant": "T", "width": 16, "depths": [2, 2, 2], "num_heads": [2, 4, 8], "window_size": 4,
          "pretrained_window": PRETRAINED, "num_classes": 3}  # fmt: skip


def randomised(model):
    """Every parameter drawn anew; temperatures near those of training, one beyond the limit, biases of a few units."""
    randomise_vit(model)
    rng = np.random.default_rng(1)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith("logit_scale"):
                tensor.copy_(torch.from_numpy(np.log(rng.uniform(2, 20, tensor.shape)).astype(np.float32)))
                if ".0.blocks.1." in name:
                    tensor[0] = 5.0  # clamped to log(100)
    return model


def in_timm(image_size, state=None):
    """A fresh model, whose masks and tables nobody drew anew."""
    make = lambda size: SwinTransformerV2(img_size=size, num_classes=3, pretrained_window_sizes=PRETRAINED, **SIZE)  # noqa: E731
    model = make(image_size)
    model.load_state_dict(state or randomised(make(64)).state_dict())
    return model.eval()


def test_timm(tmp_path):
    theirs = in_timm((64, 64))
    tensors = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    tensors["layers.0.blocks.0.attn.k_bias"] = np.zeros(16, np.float32)
    tensors["layers.0.blocks.0.attn.relative_coords_table"] = np.zeros((1, 7, 7, 2), np.float32)
    sidecar = Sidecar(config={"architecture": "swinv2_tiny_window8_256",
                              "model_args": dict(SIZE, img_size=64, pretrained_window_sizes=PRETRAINED),
                              "pretrained_cfg": {"input_size": [3, 64, 64]}})  # fmt: skip
    ours = read(timm_swin_v2, tensors, sidecar)
    assert ours.kwargs == KWARGS | {"pad_order": "shift_then_pad", "clamp": "each"}
    for size in ((64, 64), (128, 64)):
        x = images(*size)
        assert_maps(outputs(ours, x), *timm_maps(in_timm(size, theirs.state_dict()), x), f"timm {size}")
    other = outputs(ours, x, pretrained_window=0)["logits"]
    assert np.abs(other - outputs(ours, x)["logits"]).max() > 1e-3
    write(ours, tmp_path, ours.metadata())
    back = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = images(64, 64)
    with torch.no_grad():
        np.testing.assert_array_equal(back(to_torch(x)).numpy(), theirs(to_torch(x)).numpy())
    again = read(timm_swin_v2, *read_folder(tmp_path))
    assert again.kwargs == ours.kwargs and again.published.preprocess == ours.published.preprocess


def in_transformers(image_size=64, folder=None):
    config = transformers.Swinv2Config(image_size=image_size, pretrained_window_sizes=PRETRAINED, **SIZE, **LABELS)
    if folder is None:
        return randomised(transformers.Swinv2ForImageClassification(config))
    return transformers.Swinv2ForImageClassification.from_pretrained(folder, config=config).eval()


def maps_of(model, x):
    model.swin = model.swinv2
    return transformers_maps(model, x)


def test_transformers(tmp_path):
    """Each size with an oracle made for it, whose windows follow from the size that its config says, and from the height
    alone: at 128x64 it shifts the last stage's columns, which are one window wide."""
    in_transformers().save_pretrained(tmp_path / "theirs")
    ours = read(hf_swin_v2, *read_folder(tmp_path / "theirs"))
    assert ours.kwargs == KWARGS and ours.published.labels == ("cat", "dog", "bird")
    for size in ((64, 64), (64, 128), (100, 72), (117, 83)):
        x = images(*size)
        maps, logits = maps_of(in_transformers(size, tmp_path / "theirs"), x)
        assert_maps(outputs(ours, x), maps, logits, f"transformers {size}")
    write(ours, tmp_path / "ours", ours.metadata(ours.published.labels))
    x = images(64, 64)
    back = transformers.Swinv2ForImageClassification.from_pretrained(tmp_path / "ours").eval()
    np.testing.assert_array_equal(maps_of(back, x)[1], maps_of(in_transformers(64, tmp_path / "theirs"), x)[1])
    again = read(hf_swin_v2, *read_folder(tmp_path / "ours"))
    assert again.kwargs == ours.kwargs and again.published.preprocess == ours.published.preprocess


# Architectures of timm: what their names say, and the name under which a model of ours is written.
@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("swinv2_tiny_window16_256", {"variant": "T", "window_size": 16}),
        ("swinv2_small_window8_256", {"variant": "S"}),
        ("swinv2_large_window12to24_192to384",
         {"variant": "L", "window_size": 24, "pretrained_window": [12, 12, 12, 6]}),
    ],
)  # fmt: skip
def test_published_architectures(name, kwargs):
    with torch.device("meta"):
        model = timm.create_model(name)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    pretrained = {k: v for k, v in model.pretrained_cfg.items() if k in ("input_size", "crop_pct", "mean", "std")}
    published = timm_swin_v2.describe(shapes, Sidecar(config={"architecture": name, "pretrained_cfg": pretrained}))
    assert {k: v for k, v in published.kwargs.items() if k not in ("num_classes", "pad_order", "clamp")} == kwargs
    metadata = {"model": {"name": "swin_v2", "kwargs": published.kwargs}, "preprocess": published.preprocess}
    written = timm_swin_v2.sidecar(metadata)["config.json"]
    assert (written["architecture"], written["model_args"]) == (name, {})
