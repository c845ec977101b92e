"""iGPT as transformers names it (`ImageGPTForCausalImageModeling`)."""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import HF_IMAGEGPT
from vit_jax.checkpoints.name_map import NameMap, Shapes, linear, same, shape_of
from vit_jax.checkpoints.parts import gpt as gpt_parts
from vit_jax.checkpoints.parts import hf as hf_parts
from vit_jax.checkpoints.parts import text as parts
from vit_jax.checkpoints.parts.sidecars import is_of
from vit_jax.checkpoints.parts.vit import depth_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.igpt import VARIANTS, build

LIBRARY = "transformers"
MODELS = "iGPT"
WRITES = ("igpt",)
COMPARED = "tokens and logits of ImageGPTForCausalImageModeling; files of ours read by transformers"

_PREFIX, _HEAD = "transformer.", "lm_head"
_SIZES = ("width", "depth", "num_heads")


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `Family`; the palette in preprocessor_config.json is another model's, see `vit_jax prepare palette`."""
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
    ids = {"name": "ids", "vocab_size": vocab_size}
    fields = {"text": parts.tokens_section(ids, kwargs["num_tokens"])}
    task = {"name": "features", "kwargs": {}}
    return Published("igpt", kwargs, None, {}, (), remarks, fields, task)


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
    return {"config.json": config}
