"""Families of the ViT without any other library: every model that one can write it reads back, bit for bit."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.checkpoints.families import google_vit, hf_dinov2, hf_siglip, hf_vit, timm_vit
from vit_jax.checkpoints.published import Sidecar
from vit_jax.data.preprocess import Preprocess
from vit_jax.errors import UserError
from vit_jax.models import vit
from vit_jax.nn.init_shapes import init_shapes

FAMILIES = (google_vit, hf_dinov2, hf_siglip, hf_vit, timm_vit)
SMALL = {"variant": "B/8", "width": 32, "depth": 2, "mlp_dim": 64, "num_heads": 4}
DINO = {"layer_scale_init": 0.5, "pooling": "token_mean", "gelu": "exact"}
MODELS = {
    "ViT": {},
    "ViT with pre_logits": {"representation_size": 24},
    "features": {"num_classes": 0, "gelu": "exact"},
    "pooler": {"num_classes": 0, "representation_size": 24, "layer_norm_epsilon": 1e-12},
    "mean": {"pooling": "mean"},
    "class token, mean": {"pooling": "mean", "class_token": True},
    "map": {"pooling": "map"},
    "map, features": {"pooling": "map", "num_classes": 0},
    "position folded": {"class_token_posemb": False},
    "fc_norm": {"pooling": "mean", "class_token": True, "fc_norm": True},
    "DeiT": {"distillation_token": True, "pooling": "distilled"},
    "DeiT, one head": {"distillation_token": True},
    "DeiT III": {"layer_scale_init": 0.5, "class_token_posemb": False},
    "DINOv2": {**DINO},
    "DINOv2 with registers": {**DINO, "num_registers": 2},
    "DINOv2-g": {**DINO, "mlp": "swiglu", "mlp_dim": 88},
    "DINOv2-g of timm": {**DINO, "mlp": "swiglu", "pooling": "token", "class_token_posemb": False, "num_registers": 2},
    "no qkv bias": {"qkv_bias": False},
    "odd MLP": {"mlp_dim": 67},
    "own image size": {"image_size": (16, 32)},
}
# Which families can hold which model; everything else must answer None.
HOLD = {
    google_vit: {"ViT", "ViT with pre_logits", "features", "pooler", "mean", "class token, mean", "map", "map, features",
                 "position folded", "odd MLP", "own image size"},
    timm_vit: {"ViT", "features", "mean", "class token, mean", "map", "map, features", "position folded", "fc_norm",
               "DeiT", "DeiT III", "DINOv2-g of timm", "no qkv bias", "odd MLP", "own image size"},
    hf_vit: {"ViT", "features", "pooler", "DeiT", "DeiT, one head", "no qkv bias", "odd MLP", "own image size"},
    hf_dinov2: {"DINOv2", "DINOv2 with registers", "DINOv2-g"},
    hf_siglip: {"mean", "map, features"},
}  # fmt: skip


@functools.cache  # each family asks for the same models
def shapes_of(kwargs, image_size):
    return init_shapes(vit.build(**dict(kwargs)).init, jax.random.key(0), jnp.zeros((1, *image_size, 3)))["params"]


def written(family, name, **more):
    """Parameters, metadata, and the files' tensors and JSON, which is None where the family cannot hold the model."""
    kwargs = {**SMALL, "num_classes": 3, **MODELS[name], **more}
    image_size = kwargs.pop("image_size", (32, 32))
    shapes = shapes_of(tuple(sorted(kwargs.items())), image_size)
    rng = np.random.default_rng(0)
    params = {
        jax.tree_util.keystr(path, simple=True, separator="/"): rng.normal(size=leaf.shape).astype(np.float32)
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
    }
    metadata = {
        "model": {"name": "vit", "kwargs": kwargs},
        "preprocess": {"image_size": list(image_size), "resize": "short_side", "resize_to": 56,
                       "mean": [120.0, 110.0, 100.0], "std": [60.0, 61.0, 62.0], "interpolation": "bicubic"},
        "labels": ["ant", "bee", "cow"][: kwargs["num_classes"]],
    }  # fmt: skip
    files = family.sidecar(metadata)
    if files is None:
        return params, metadata, None, None
    files = json.loads(json.dumps(files))
    sidecar = Sidecar(files.get("config.json", {}), files.get("preprocessor_config.json", {}))
    return params, metadata, family.name_map(kwargs, {}).write(params), sidecar


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__.rpartition(".")[2])
def test_what_is_written_is_read_again(family, name):
    params, metadata, tensors, sidecar = written(family, name)
    assert (tensors is not None) == (name in HOLD[family])
    if tensors is None:
        return
    shapes = {n: array.shape for n, array in tensors.items()}
    answers = {f: f.describe(shapes, sidecar) for f in FAMILIES}
    assert [f for f, answer in answers.items() if answer is not None] == [family]
    published = answers[family]
    names = family.name_map(published.kwargs, published.layout)
    names.check(tensors, "FILE")
    again = dict(names.read(tensors.__getitem__, {n: array.shape for n, array in params.items()}, "FILE"))
    assert set(again) == set(params)
    for key, array in params.items():
        np.testing.assert_array_equal(again[key], array, err_msg=key)
    built, model = vit.build(**published.kwargs), vit.build(**metadata["model"]["kwargs"])
    for field in ("patch_size", "depth", "tokens"):
        assert getattr(built.encoder, field) == getattr(model.encoder, field), field
    for field in ("num_heads", "activation", "norm_epsilon", "gated"):
        assert getattr(built.encoder.style, field) == getattr(model.encoder.style, field), field
    assert (built.pooling, built.fc_norm) == (model.pooling, model.fc_norm)
    assert list(published.labels) == metadata["labels"]
    pixels = [Preprocess.from_json(values) for values in (published.preprocess, metadata["preprocess"])]
    if family is timm_vit and len(set(metadata["preprocess"]["image_size"])) == 2:
        assert pixels[0].resize == "cover"  # timm has no short side for an oblong
    else:  # where a crop begins is rounded as the library does
        assert dataclasses.replace(pixels[0], crop=pixels[1].crop) == pixels[1]


def test_a_scanned_bfloat16_model_is_the_same_file():
    _, _, tensors, _ = written(timm_vit, "ViT")
    _, _, same, _ = written(timm_vit, "ViT", scan=True, remat="full", dtype="bfloat16", dropout_rate=0.1)
    assert set(tensors) == set(same) and all((tensors[n] == same[n]).all() for n in tensors)


@pytest.mark.parametrize(
    ("family", "name", "tensor"),
    [
        (timm_vit, "DeiT", "blocks.1.attn.qkv.bias"),
        (timm_vit, "map", "attn_pool.kv.weight"),
        (hf_vit, "ViT", "vit.encoder.layer.1.layernorm_after.bias"),
        (hf_dinov2, "DINOv2 with registers", "dinov2_with_registers.encoder.layer.0.layer_scale2.lambda1"),
        (hf_siglip, "map, features", "head.attention.in_proj_bias"),
        (google_vit, "ViT", "Transformer/encoder_norm/bias"),
    ],
)
def test_holes_strangers_and_wrong_shapes(family, name, tensor):
    params, _, tensors, sidecar = written(family, name)
    wanted = {n: array.shape for n, array in params.items()}

    def read(tensors):
        published = family.describe({n: array.shape for n, array in tensors.items()}, sidecar)
        names = family.name_map(published.kwargs, published.layout)
        names.check(tensors, "some/file")
        return dict(names.read(tensors.__getitem__, wanted, "some/file"))

    assert set(read(tensors)) == set(params)
    with pytest.raises(UserError, match="some/file has no tensor") as caught:
        read({n: array for n, array in tensors.items() if n != tensor})
    assert tensor in str(caught.value)
    with pytest.raises(UserError, match="some/file has a tensor") as caught:
        read(tensors | {tensor + "x": tensors[tensor]})
    assert tensor in str(caught.value)  # the nearest one
    with pytest.raises(UserError, match="some/file has .* of shape"):
        read(tensors | {tensor: tensors[tensor][..., :-1]})


def test_a_file_without_its_last_block_is_no_smaller_model():
    for family in (hf_vit, timm_vit):
        _, _, tensors, sidecar = written(family, "ViT")
        kept = {n: array for n, array in tensors.items() if ".1." not in n}
        with pytest.raises(UserError, match="is 2, but the tensors say 1"):
            family.describe({n: array.shape for n, array in kept.items()}, sidecar)


@pytest.mark.parametrize(
    ("family", "name", "config", "what"),
    [
        (timm_vit, "ViT", {"model_args": {"act_layer": "quick_gelu"}}, "quick_gelu"),
        (timm_vit, "ViT", {"architecture": "vit_base_patch16_rpn_224"}, "rpn"),
        (timm_vit, "ViT", {"global_pool": "avgmax"}, "avgmax"),
        (hf_vit, "ViT", {"hidden_act": "relu"}, "relu"),
        (hf_vit, "pooler", {"pooler_act": "relu"}, "relu"),
        (hf_dinov2, "DINOv2", {"hidden_act": ["gelu"]}, "'hidden_act' is .*, not a text"),
    ],
)
def test_what_cannot_be_read_is_said(family, name, config, what):
    _, _, tensors, sidecar = written(family, name)
    if family is timm_vit:
        config = {"architecture": "vit_base_patch16_224", **config}
        sidecar = Sidecar({k: v for k, v in config.items()})
    else:
        sidecar = Sidecar({**sidecar.config, **config})
    with pytest.raises(UserError, match=what):
        family.describe({n: array.shape for n, array in tensors.items()}, sidecar)


def test_positions_that_are_no_grid():
    for family, sidecar in ((timm_vit, Sidecar()), (hf_vit, Sidecar({"image_size": 32}))):
        _, _, tensors, own = written(family, "own image size", image_size=(16, 48))
        shapes = {n: array.shape for n, array in tensors.items()}
        assert family.describe(shapes, own).preprocess["image_size"] == [16, 48]
        with pytest.raises(UserError, match=r"positions.*grid"):
            family.describe(shapes, sidecar)


def test_defaults_without_a_config():
    kwargs = {"width": 128, "num_heads": 2}
    for family, gelu, epsilon in ((timm_vit, "exact", 1e-6), (hf_vit, "exact", 1e-12), (google_vit, "tanh", 1e-6)):
        _, _, tensors, _ = written(family, "ViT", **kwargs)
        published = family.describe({n: array.shape for n, array in tensors.items()}, Sidecar())
        assert vit.build(**published.kwargs).encoder.style.num_heads == 2
        assert (published.kwargs["gelu"], published.kwargs["layer_norm_epsilon"]) == (gelu, epsilon)
        assert published.labels == () and published.preprocess["image_size"] == [32, 32]


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ({}, {"resize": "squash", "interpolation": "bilinear"}),
        ({"size": 32, "resample": 2, "do_center_crop": False}, {"resize": "squash", "interpolation": "bilinear"}),
        ({"size": {"height": 32, "width": 32}, "resample": 3}, {"resize": "squash", "interpolation": "bicubic"}),
        ({"size": 36, "do_center_crop": True, "crop_size": 32}, {"resize": "squash", "resize_to": [36, 36]}),
        (
            {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}},
            {"resize": "short_side", "resize_to": 37},
        ),
        ({"size": {"shortest_edge": 40}}, {"resize": "short_side", "resize_to": 32}),
    ],
)
def test_processors_of_transformers(processor, expected):
    _, _, tensors, sidecar = written(hf_vit, "ViT")
    processor = processor and {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.1, 0.2, 0.3], **processor}
    published = hf_vit.describe({n: a.shape for n, a in tensors.items()}, Sidecar(sidecar.config, processor))
    assert {key: published.preprocess[key] for key in expected} == expected
    assert ("resize_to" in published.preprocess) == ("resize_to" in expected)
    assert published.preprocess["mean"] == ([127.5, 102.0, 76.5] if processor else [127.5] * 3)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"resize": "short_side", "resize_to": 36, "interpolation": "bicubic"}),  # floor(32 / 0.875)
        ({"crop_pct": 1.0, "interpolation": "lanczos"}, {"resize_to": 32, "interpolation": "lanczos"}),
        ({"crop_pct": 0.875, "mean": [0, 0, 0], "std": [1, 1, 1]}, {"resize_to": 36, "mean": [0.0, 0.0, 0.0]}),
        ({"crop_mode": "squash"}, {"resize": "squash"}),
    ],
)
def test_pretrained_cfg_of_timm(settings, expected):
    _, _, tensors, _ = written(timm_vit, "ViT")
    shapes = {n: array.shape for n, array in tensors.items()}
    synsets = {"n1": "ant, a small insect", "n2": "bee", "n3": "cow"}
    settings = settings | {"label_names": list(synsets), "label_descriptions": synsets}
    published = timm_vit.describe(
        shapes,
        Sidecar({"architecture": "vit_tiny_patch16_224", "pretrained_cfg": settings, "model_args": {"depth": 2}}),
    )
    assert {key: published.preprocess[key] for key in expected} == expected
    assert published.labels == tuple(synsets.values())


def test_other_models_are_not_claimed():
    for shapes in ({}, {"a": (3,)}, {"embedding/kernel": (8, 8, 3, 32)}, {"patch_embed.proj.weight": (32, 3, 8, 8)}):
        assert all(family.describe(shapes, Sidecar()) is None for family in FAMILIES)
    _, _, tensors, _ = written(google_vit, "ViT")
    hybrid = {n: array.shape for n, array in tensors.items()} | {"conv_root/kernel": (7, 7, 3, 64)}
    assert google_vit.describe(hybrid, Sidecar()) is None
