"""Swin of timm and of transformers: every map and logits, files in both directions, tables of other windows."""

import functools
import json

import jax
import numpy as np
import pytest
import timm
import torch
import transformers
from safetensors.numpy import load_file
from timm.models.swin_transformer import SwinTransformer

from tests.parity.oracle import assert_close, build, images, randomise_vit, read, read_folder, to_torch, write
from vit_jax.checkpoints.families import hf_swin, timm_swin
from vit_jax.checkpoints.published import Sidecar
from vit_jax.checkpoints.source import nested
from vit_jax.errors import UserError

SIZE = {"embed_dim": 16, "depths": [2, 2, 2], "num_heads": [2, 4, 8], "window_size": 4}
LABELS = {"id2label": {0: "cat", 1: "dog", 2: "bird"}, "label2id": {"cat": 0, "dog": 1, "bird": 2}}


def randomised(model):
    """Every leaf drawn anew; tables large enough that no distance can be another one."""
    randomise_vit(model)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith("relative_position_bias_table"):
                tensor.mul_(50)
    return model


def in_timm(image_size, state=None):
    """A fresh model, whose masks nobody drew anew."""
    model = SwinTransformer(img_size=image_size, num_classes=3, **SIZE)
    model.load_state_dict(state or randomised(SwinTransformer(img_size=64, num_classes=3, **SIZE)).state_dict())
    return model.eval()


def timm_maps(model, x):
    with torch.no_grad():
        maps = model.forward_intermediates(to_torch(x), norm=True, intermediates_only=True)
        return [m.permute(0, 2, 3, 1).numpy() for m in maps], model(to_torch(x)).numpy()


def outputs(ours, x, **overrides):
    model = build(ours.published.model, ours.kwargs | overrides)
    apply = jax.jit(functools.partial(model.apply, maps=True))
    return jax.tree.map(np.asarray, apply({"params": nested(ours.params)}, x))


def assert_maps(outputs, maps, logits, what):
    assert list(outputs["maps"]) == [4, 8, 16][: len(maps)]
    for (stride, ours), theirs in zip(outputs["maps"].items(), maps, strict=True):
        assert_close(ours, theirs, f"{what} map {stride}")
    assert_close(outputs["logits"], logits, f"{what} logits")
    assert_close(outputs["features"], maps[-1].mean((1, 2)), f"{what} features")


def tensors_of(model):
    """What older files hold too: buffers that follow from the sizes."""
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return state, {**state, "layers.0.blocks.1.attn_mask": np.zeros((4, 16, 16), np.float32),
                   "layers.0.blocks.1.attn.relative_position_index": np.zeros((16, 16), np.int64)}  # fmt: skip


def test_timm(tmp_path):
    """At two sizes; in the second one timm shifts the rows of the last stage, whose columns are one window wide."""
    theirs = in_timm((64, 64))
    _, tensors = tensors_of(theirs)
    sidecar = Sidecar(config={"architecture": "swin_tiny_patch4_window7_224", "model_args": dict(SIZE, img_size=64),
                              "pretrained_cfg": {"input_size": [3, 64, 64]}})  # fmt: skip
    ours = read(timm_swin, tensors, sidecar)
    assert ours.kwargs == {
        "variant": "T", "width": 16, "depths": [2, 2, 2], "num_heads": [2, 4, 8], "window_size": 4, "num_classes": 3,
        "pad_order": "shift_then_pad", "clamp": "each",
    }  # fmt: skip
    for size in ((64, 64), (128, 64)):
        model = in_timm(size, theirs.state_dict())
        x = images(*size)
        assert_maps(outputs(ours, x), *timm_maps(model, x), f"timm {size}")
    both = outputs(ours, x, clamp="both")["logits"]
    assert np.abs(both - timm_maps(model, x)[1]).max() > 1e-3  # what the authors do there
    write(ours, tmp_path, ours.metadata())
    back = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = images(64, 64)
    with torch.no_grad():
        np.testing.assert_array_equal(back(to_torch(x)).numpy(), theirs(to_torch(x)).numpy())
    tensors, sidecar = read_folder(tmp_path)
    again = read(timm_swin, tensors, sidecar)
    assert again.kwargs == ours.kwargs and again.published.preprocess == ours.published.preprocess


def test_the_authors_names():
    """A merging at the end of a stage, and a head of another name."""
    theirs = in_timm((64, 64))
    state, _ = tensors_of(theirs)

    def renamed(name):
        for i in (1, 2):
            name = name.replace(f"layers.{i}.downsample", f"layers.{i - 1}.downsample")
        return name.replace("head.fc", "head")

    ours = read(timm_swin, {renamed(name): x for name, x in state.items()}, Sidecar(
        config={"pretrained_cfg": {"input_size": [3, 64, 64]}, "architecture": "swin_tiny_patch4_window7_224"}
    ))  # fmt: skip
    assert "clamp" not in ours.kwargs and ours.kwargs["window_size"] == 4
    x = images(64, 64)
    assert_maps(outputs(ours, x), *timm_maps(theirs, x), "authors")


def in_transformers(folder=None):
    config = transformers.SwinConfig(image_size=64, **SIZE, **LABELS)
    if folder is None:
        return randomised(transformers.SwinForImageClassification(config))
    return transformers.SwinForImageClassification.from_pretrained(folder).eval()


def transformers_maps(model, x):
    found = []
    for stage in model.swin.encoder.layers:
        stage.blocks[-1].register_forward_hook(lambda module, given, out: found.append((out[0], given[1])))
    with torch.no_grad():
        out = model(to_torch(x), output_hidden_states=True)
    maps = [m.numpy().reshape(len(x), *grid, -1) for m, grid in found]
    last = out.reshaped_hidden_states[-1].permute(0, 2, 3, 1)
    np.testing.assert_array_equal(maps[-1], last.numpy())
    with torch.no_grad():
        maps[-1] = model.swin.layernorm(last).numpy()
    return maps, out.logits.numpy()


def test_transformers(tmp_path):
    """At sizes that windows divide and at others, each with an oracle of its own: it keeps the windows of small maps."""
    in_transformers().save_pretrained(tmp_path / "theirs")
    tensors, sidecar = read_folder(tmp_path / "theirs")
    assert any(".attention.self.query." in name for name in tensors)  # not the names in memory
    ours = read(hf_swin, tensors, sidecar)
    assert ours.kwargs == {"variant": "T", "width": 16, "depths": [2, 2, 2], "num_heads": [2, 4, 8], "window_size": 4,
                           "num_classes": 3}  # fmt: skip
    assert ours.published.labels == ("cat", "dog", "bird")
    for size in ((64, 64), (128, 64), (100, 72), (117, 83)):
        x = images(*size)
        maps, logits = transformers_maps(in_transformers(tmp_path / "theirs"), x)
        assert_maps(outputs(ours, x), maps, logits, f"transformers {size}")
    other = outputs(ours, x, pad_order="shift_then_pad")["logits"]
    assert np.abs(other - logits).max() > 1e-2 * np.abs(logits).max()
    write(ours, tmp_path / "ours", ours.metadata(ours.published.labels))
    back, x = in_transformers(tmp_path / "ours"), images(64, 64)
    np.testing.assert_array_equal(
        transformers_maps(back, x)[1], transformers_maps(in_transformers(tmp_path / "theirs"), x)[1]
    )
    again = read(hf_swin, *read_folder(tmp_path / "ours"))
    assert again.kwargs == ours.kwargs and again.published.preprocess == ours.published.preprocess


def test_a_trunk_of_transformers(tmp_path):
    model = randomised(transformers.SwinModel(transformers.SwinConfig(image_size=64, **SIZE)))
    model.save_pretrained(tmp_path)
    ours, x = read(hf_swin, *read_folder(tmp_path)), images(64, 64)
    assert ours.kwargs["num_classes"] == 0
    with torch.no_grad():
        out = model(to_torch(x))
    assert_close(outputs(ours, x)["tokens"], out.last_hidden_state.numpy(), "tokens")
    assert_close(outputs(ours, x)["features"], out.pooler_output.numpy(), "features")
    tensors = write(ours, tmp_path / "ours", ours.metadata())
    assert set(tensors) == set(load_file(tmp_path / "model.safetensors"))
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["architectures"] == ["SwinModel"]


@pytest.mark.parametrize(
    ("rows", "model_args", "message"),
    [
        (
            49,
            {"window_size": 7},
            r"49 relative positions, those of windows of 4x4; .* windows of 7x7 with 169.*window_size 4",
        ),
        (170, {}, r"170 relative positions, which are those of no window; .*windows of 7x7 would fit|A window of 7x7"),
    ],
)
def test_a_table_that_fits_no_window_names_the_one_that_fits(rows, model_args, message):
    model = timm.create_model("swin_tiny_patch4_window7_224", embed_dim=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    shapes["layers.0.blocks.0.attn.relative_position_bias_table"] = (rows, 1)
    config = {"architecture": "swin_tiny_patch4_window7_224", "model_args": model_args}
    with pytest.raises(UserError, match=message):
        timm_swin.describe(shapes, Sidecar(config=config))


# Architectures of timm: how their sizes are read, and the name under which a model of ours is written.
@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("swin_tiny_patch4_window7_224", {"variant": "T"}),
        pytest.param("swin_base_patch4_window12_384", {"variant": "B", "window_size": 12}, marks=pytest.mark.slow),
        ("swin_s3_tiny_224", {"variant": "T", "window_size": [7, 7, 14, 7]}),
    ],
)
def test_published_architectures(name, kwargs):
    with torch.device("meta"):
        model = timm.create_model(name)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    pretrained = {k: v for k, v in model.pretrained_cfg.items() if k in ("input_size", "crop_pct", "mean", "std")}
    config = {"architecture": name, "pretrained_cfg": pretrained}
    published = timm_swin.describe(shapes, Sidecar(config=config))
    assert {k: v for k, v in published.kwargs.items() if k in ("variant", "width", "window_size")} == kwargs
    size = 384 if "384" in name else 224
    assert published.preprocess["image_size"] == [size, size]
    metadata = {"model": {"name": "swin", "kwargs": published.kwargs}, "preprocess": published.preprocess, "labels": []}
    written = timm_swin.sidecar(metadata)["config.json"]
    if "s3" not in name:
        assert (written["architecture"], written["model_args"]) == (name, {})
    assert timm_swin.describe(shapes, Sidecar(config=written)).kwargs == published.kwargs
