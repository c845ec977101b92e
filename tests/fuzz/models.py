"""Tiny models of every family that is read, written in other libraries' formats; not a kind of file itself."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from tests.checkpoints import test_pair_families as pairs
from vit_jax.checkpoints.export import export
from vit_jax.checkpoints.source import StoredModel, flat_shapes, nested
from vit_jax.naming import build_named
from vit_jax.nn.init_shapes import init_shapes

_VIT = {"name": "vit", "variant": "B/8", "width": 16, "depth": 1, "mlp_dim": 24, "num_heads": 2, "num_classes": 3}
_DINO = {**_VIT, "mlp_dim": 32, "layer_scale_init": 0.5, "pooling": "token_mean", "gelu": "exact"}
_MAE = {"name": "mae", "trunk": {**_VIT, "posemb": "sincos2d_mae", "pooling": "token"}, "decoder_width": 16,
        "decoder_depth": 1, "decoder_heads": 2, "num_classes": 0}  # fmt: skip
_MAE["trunk"].pop("num_classes")
_BIT = {"name": "bit", "variant": "R50x1", "stage_sizes": [1, 1], "width": 32, "num_classes": 3}
_HF_BIT = {**_BIT, "weight_epsilon": 1e-8, "weight_epsilon_in": "variance", "group_norm_epsilon": 1e-5}
_MIXER = {"name": "mixer", "variant": "S/8", "width": 16, "depth": 1, "tokens_mlp_dim": 8, "channels_mlp_dim": 24}
_EFFICIENTVIT = {"name": "efficientvit", "variant": "B1", "widths": [4, 4, 8, 8, 16], "depths": [1, 1, 1, 1, 1],
                 "head_width": 4, "head_widths": [8, 12], "num_classes": 3}  # fmt: skip
_SWIN = {"name": "swin", "variant": "T", "width": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
_MODELS = {
    "timm_swin": ("timm", {**_SWIN, "num_classes": 3, "pad_order": "shift_then_pad", "clamp": "each"}),
    "hf_swin": ("transformers", {**_SWIN, "num_classes": 3}),
    "timm_efficientvit": ("timm", {**_EFFICIENTVIT, "attention_epsilon": 1e-5}),
    "efficientvit_authors": ("efficientvit", _EFFICIENTVIT),
    "timm_vit": ("timm", _VIT),
    "timm_registers": ("timm", {**_DINO, "pooling": "token", "class_token_posemb": False, "num_registers": 2}),
    "hf_vit": ("transformers", {**_VIT, "gelu": "exact"}),
    "hf_dinov2": ("transformers", _DINO),
    "hf_siglip": ("transformers", {**_VIT, "pooling": "map", "class_token": False, "num_classes": 0}),
    "hf_mae": ("transformers", _MAE),
    "hf_bit": ("transformers", _HF_BIT),
    "google_vit": ("npz", _VIT),
    "google_mixer": ("npz", {**_MIXER, "num_classes": 3}),
    "google_bit": ("npz", _BIT),
}


def write_all(folder: Path) -> dict[str, Path]:
    """The weight file of each, by name, with its JSON files beside it."""
    formats = {name: to for name, (to, _) in (*_MODELS.items(), *pairs.CASES.items())}
    return {name: _write(folder / name, to, _made(name)) for name, to in formats.items()}


@functools.cache
def _made(name: str) -> StoredModel:
    if name in pairs.CASES:
        return pairs.run_of_ours(pairs.CASES[name][1])[0]
    model, size = _MODELS[name][1], (32, 32)
    module = build_named("model", model, "config.model")
    shapes = dict(init_shapes(module.init, jax.random.key(0), jnp.zeros((1, *size, 3))))
    rng = np.random.default_rng(0)

    def drawn(tree):
        return nested({name: rng.normal(size=shape).astype(np.float32) for name, shape in flat_shapes(tree).items()})

    params, state = drawn(shapes.pop("params")), drawn(shapes)
    metadata = {
        "model": {"name": model["name"], "kwargs": {key: value for key, value in model.items() if key != "name"}},
        "preprocess": {"image_size": list(size), "resize": "squash", "interpolation": "bicubic"},
        "labels": ["ant", "bee", "cow"] if model.get("num_classes") else [],
        "image_size": list(size),
    }
    return StoredModel(epath.Path("memory"), metadata, lambda: (params, state))


def _write(folder: Path, to: str, source: StoredModel) -> Path:
    return export(source, folder / "model.npz" if to == "npz" else folder, to)[0]


def nonfinite(loaded: tuple[dict, dict]) -> str:
    """The first parameter that is NaN or infinite, which must have been refused."""
    for key, leaf in jax.tree_util.tree_leaves_with_path(loaded[0]):
        if not np.isfinite(np.asarray(leaf)).all():
            return f"{jax.tree_util.keystr(key)} is not finite"
    return ""
