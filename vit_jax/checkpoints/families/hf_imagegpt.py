"""iGPT as transformers names it (`ImageGPTForCausalImageModeling`), with the colours of its image processor."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32

from vit_jax.checkpoints.config_keys import HF_IMAGEGPT
from vit_jax.checkpoints.name_map import Entry, NameMap, NDArray, Shapes, linear, same, shape_of
from vit_jax.checkpoints.parts import gpt as gpt_parts
from vit_jax.checkpoints.parts import hf as hf_parts
from vit_jax.checkpoints.parts import text as parts
from vit_jax.checkpoints.parts.sidecars import is_of
from vit_jax.checkpoints.parts.vit import depth_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.errors import UserError
from vit_jax.models.igpt import VARIANTS, build

LIBRARY = "transformers"
MODELS = "iGPT"
WRITES = ("igpt",)
COMPARED = "tokens and logits of ImageGPTForCausalImageModeling; files of ours read by transformers"

_PREFIX, _HEAD = "transformer.", "lm_head"
_PROCESSOR = "preprocessor_config.json"
_SIZES = ("width", "depth", "num_heads")


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `Family`. With the `clusters` of a preprocessor_config.json it is a generator, whose palette they are;
    without them it is a model of numbers."""
    words, places, fc = (f"{_PREFIX}{name}.weight" for name in ("wte", "wpe", "h.0.mlp.c_fc"))
    if any(name not in tensors for name in (words, places, fc)) or f"{_PREFIX}h.0.ln_1.bias" in tensors:
        return None
    config = sidecar.config
    remarks = hf_parts.check(config, HF_IMAGEGPT, "imagegpt")
    rows, width = shape_of(tensors, words, 2)
    vocab_size = shape_of(tensors, f"{_HEAD}.weight", 2)[0]
    kwargs = {
        "width": width,
        "depth": depth_of(tensors, _PREFIX + "h.{}."),
        "num_heads": parts.heads_of(config, "n_head", width, 8),
        "mlp_dim": shape_of(tensors, fc, 2)[1],
        "vocab_size": vocab_size,
        "num_conditions": rows - vocab_size,
        "num_tokens": shape_of(tensors, places, 2)[0],
        "activation": parts.activation_of(config.text("activation_function", "quick_gelu")),
        "norm_epsilon": config.number("layer_norm_epsilon", 1e-5, at_least=0),
    }
    for key, ours in (("n_embd", "width"), ("n_layer", "depth"), ("n_positions", "num_tokens"), ("n_inner", "mlp_dim")):
        config.must_agree(key, kwargs[ours])
    config.must_agree("vocab_size", rows)
    kwargs = parts.named_size(kwargs, VARIANTS, _SIZES)
    clusters = _clusters(sidecar, vocab_size)
    if clusters is None:
        fields = {"text": parts.tokens_section({"name": "ids", "vocab_size": vocab_size}, kwargs["num_tokens"])}
        return Published("igpt", kwargs, None, {}, (), remarks, fields, {"name": "features", "kwargs": {}})
    side = math.isqrt(kwargs["num_tokens"])
    if side**2 != kwargs["num_tokens"] or kwargs["num_conditions"] != 1:
        raise UserError(
            f"{kwargs['num_tokens']} places and {kwargs['num_conditions']} start tokens are no square image's",
            "Leave preprocessor_config.json out",
        )
    palette = {"name": "color_palette", "kwargs": {"colors": vocab_size}}
    task = {
        "name": "autoregressive",
        "kwargs": {"conditional": False, "tokenizer": {"name": "color_palette", "colors": vocab_size}},
        "given": ["vocab_size", "num_tokens", "num_conditions", "own_places"],
    }
    preprocess = {"image_size": [side, side], "resize": "squash", "interpolation": "bilinear"}
    layout = {"beside": {"tokenizer": palette}, "clusters": clusters.tolist()}
    return Published("igpt", kwargs, preprocess, layout, (), remarks, {"image": {"name": "image"}}, task)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `Family`."""
    trunk = build(**kwargs).transformer
    entries = [
        same("transformer/embedding", f"{_PREFIX}wte.weight"),
        same("transformer/pos_embedding", f"{_PREFIX}wpe.weight"),
        same("transformer/norm/scale", f"{_PREFIX}ln_f.weight"),
        linear("head/kernel", f"{_HEAD}.weight"),
    ]
    for i in range(trunk.depth):
        ours, theirs = f"transformer/block_{i:02d}", f"{_PREFIX}h.{i}"
        entries += [same(f"{ours}/norm{j}/scale", f"{theirs}.ln_{j}.weight") for j in (1, 2)]
        entries += gpt_parts.layers(ours, theirs, trunk.width, trunk.style.num_heads)
    if "beside" in layout:
        # Of no tensor: see `filled`.
        clusters = np.float32(layout.get("clusters", ()))
        entries.append(Entry(("tokenizer/palette",), (), lambda: [clusters], lambda palette: [], copies=0))
    return NameMap(entries, tuple(mask.format(_PREFIX) for mask in gpt_parts.MASKS))


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `Family`."""
    if not is_of(metadata, "igpt"):
        return None
    model = build(**metadata["model"]["kwargs"])
    trunk, activation = model.transformer, parts.activation_name(model.transformer.style.activation)
    # Its head has all rows of the embedding but one.
    if activation is None or model.own_places or trunk.vocab_size != model.vocab_size + 1:
        return None
    config = {
        "architectures": ["ImageGPTForCausalImageModeling"],
        "model_type": "imagegpt",
        "n_embd": trunk.width,
        "n_layer": trunk.depth,
        "n_head": trunk.style.num_heads,
        "n_inner": trunk.style.mlp_dim,
        "n_positions": trunk.max_length,
        "vocab_size": trunk.vocab_size,
        "activation_function": activation,
        "layer_norm_epsilon": trunk.style.norm_epsilon,
        "tie_word_embeddings": False,
        "dtype": "float32",
    }
    others = [spec["kwargs"].get("tokenizer") for spec in [metadata.get("task")] if spec]
    if not any(others):
        return {"config.json": config}
    if others[0].get("name") != "color_palette":
        return None
    processor = {
        "image_processor_type": "ImageGPTImageProcessor",
        "do_resize": True,
        "size": dict(zip(("height", "width"), metadata["image_size"], strict=True)),
        "resample": 2,
        "do_normalize": True,
        "do_color_quantize": True,
    }
    return {"config.json": config, _PROCESSOR: processor}


def filled(files: dict[str, dict[str, Any]], params: Mapping[str, NDArray]) -> dict[str, dict[str, Any]]:
    """See `Family`: transformers has the palette in its image processor."""
    if _PROCESSOR not in files:
        return files
    return files | {_PROCESSOR: files[_PROCESSOR] | {"clusters": params["tokenizer/palette"].tolist()}}


def _clusters(sidecar: Sidecar, colors: int) -> Float32[np.ndarray, "colors 3"] | None:
    """The palette in -1..1; None where none lies beside the file."""
    if "clusters" not in sidecar.preprocessor:
        return None
    rows = sidecar.preprocessor["clusters"]
    try:
        found = np.asarray(rows, np.float32)
    except (TypeError, ValueError):
        found = np.zeros(0, np.float32)
    if found.shape != (colors, 3) or not np.isfinite(found).all():
        raise sidecar.preprocessor.error("clusters", f"is not {colors} colours of three numbers")
    return found
