"""What transformers' two GPTs have in common: convolutions of size 1 that join query, key and value, and names."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax.checkpoints.config_keys import Keys
from vit_jax.checkpoints.name_map import Entry, NameMap, NDArray, Shapes, norm, same, shape_of, tied
from vit_jax.checkpoints.parts import hf as hf_parts
from vit_jax.checkpoints.parts import text as parts
from vit_jax.checkpoints.parts.sidecars import is_of
from vit_jax.checkpoints.parts.vit import depth_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.gpt import VARIANTS, build

_SIZES = ("width", "depth", "num_heads", "max_length")
_HEAD = "lm_head.weight"  # the embedding again, which newer files leave out
# Masks of the attention, which old files keep as if they were parameters.
MASKS = ("{}h.*.attn.bias", "{}h.*.attn.masked_bias")


def described(
    tensors: Shapes, sidecar: Sidecar, keys: Keys, model_type: str, words: str, places: str, first: bool
) -> Published | None:
    """See `Family`.

    Args:
        words, places: names of the two embeddings.
        first: whether it is GPT-1.
    """
    prefix = hf_parts.prefix_of(tensors, ("transformer.", ""), f"{words}.weight")
    fc = "h.0.mlp.c_fc.weight"
    # Norms without bias are iGPT's.
    if prefix is None or any(prefix + name not in tensors for name in (f"{places}.weight", fc, "h.0.ln_1.bias")):
        return None
    config = sidecar.config
    remarks = hf_parts.check(config, keys, model_type)
    vocab_size, width = shape_of(tensors, f"{prefix}{words}.weight", 2)
    kwargs = {
        "width": width,
        "depth": depth_of(tensors, prefix + "h.{}."),
        "num_heads": parts.heads_of(config, "n_head", width),
        "max_length": shape_of(tensors, f"{prefix}{places}.weight", 2)[0],
        "mlp_dim": shape_of(tensors, prefix + fc, 2)[1],
        "vocab_size": vocab_size,
        "activation": parts.activation_of(_activation(config, first)),
        "norm_epsilon": config.number("layer_norm_epsilon", 1e-5, at_least=0),
    }
    for key, ours in (("n_embd", "width"), ("n_layer", "depth"), ("n_positions", "max_length"), ("n_inner", "mlp_dim"),
                      ("vocab_size", "vocab_size")):  # fmt: skip
        config.must_agree(key, kwargs[ours])
    sizes = {name: size for name, size in VARIANTS.items() if (name == "gpt1") == first}
    kwargs = {"variant": "gpt1" if first else "gpt2-small", **parts.named_size(kwargs, sizes, _SIZES)}
    layout = {"prefix": prefix, "head": parts.those_there((_HEAD,), tensors)}
    # GPT-1's vocabulary is of another kind, which vit_jax does not read.
    readers = {} if first else {name: {"name": "gpt2_bpe"} for name in ("merges.txt", "vocab.bpe", "tokenizer.json")}
    section, complete = parts.section_of(sidecar, vocab_size, readers)
    tokenizer = parts.ids_section(config, vocab_size) if section is None else section
    fields = {"text": parts.tokens_section(tokenizer, size_of(kwargs)["max_length"])}
    task = {"name": "features", "kwargs": {}}
    if section is None or complete:
        task = {"name": "language_model", "kwargs": {}, "given": ["vocab_size"]}
    return Published("gpt", kwargs, None, layout, (), remarks, fields, task)


def named(kwargs: Mapping[str, Any], layout: Mapping[str, Any], words: str, places: str) -> NameMap:
    """See `Family`; the layout holds `prefix` ('transformer.' or '') and, where the file has it, the `head`'s name."""
    prefix, size = layout.get("prefix", "transformer."), size_of(kwargs)
    width, heads = size["width"], size["num_heads"]
    entries = [
        tied("text/embedding", [f"{prefix}{words}.weight", *layout.get("head", ())]),
        same("text/pos_embedding", f"{prefix}{places}.weight"),
    ]
    for i in range(size["depth"]):
        ours, theirs = f"text/block_{i:02d}", f"{prefix}h.{i}"
        entries += norm(f"{ours}/norm1", f"{theirs}.ln_1") + norm(f"{ours}/norm2", f"{theirs}.ln_2")
        entries += layers(ours, theirs, width, heads)
    if size["final_norm"]:
        entries += norm("text/norm", f"{prefix}ln_f")
    return NameMap(entries, tuple(mask.format(prefix) for mask in MASKS))


def config_of(metadata: Mapping[str, Any], model_type: str, architecture: str, first: bool) -> dict[str, Any] | None:
    """config.json of a GPT-1, or of a later one, without its activation; None for another model."""
    if not is_of(metadata, "gpt"):
        return None
    size = size_of(metadata["model"]["kwargs"])
    if size["final_norm"] == first or parts.activation_name(size["activation"]) is None:
        return None
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "n_embd": size["width"],
        "n_layer": size["depth"],
        "n_head": size["num_heads"],
        "n_positions": size["max_length"],
        "vocab_size": size["vocab_size"],
        "layer_norm_epsilon": size["norm_epsilon"],
        "dtype": "float32",
    }


def size_of(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """All that the names and config.json depend on, from the model that these arguments build."""
    text = build(**kwargs).text
    own = {name: getattr(text, name) for name in ("width", "depth", "max_length", "vocab_size", "final_norm")}
    return own | {name: getattr(text.style, name) for name in ("num_heads", "mlp_dim", "activation", "norm_epsilon")}


def layers(ours: str, theirs: str, width: int, heads: int) -> list[Entry]:
    """What a block has between its norms."""
    entries = _attention(f"{ours}/attention", f"{theirs}.attn", width, heads)
    for fc, conv in (("fc1", "c_fc"), ("fc2", "c_proj")):
        entries.append(same(f"{ours}/mlp/{fc}/kernel", f"{theirs}.mlp.{conv}.weight"))
        entries.append(same(f"{ours}/mlp/{fc}/bias", f"{theirs}.mlp.{conv}.bias"))
    return entries


def _activation(config: Any, first: bool) -> str:
    if not first:
        return config.text("activation_function", "gelu_new")
    said = config.text("afn", "gelu")
    return "gelu_new" if said == "gelu" else said  # transformers' GPT-1 calls the approximation so


def _attention(ours: str, theirs: str, width: int, heads: int) -> list[Entry]:
    """Query, key and value from one convolution of size 1, which has its outputs last as our kernels do."""
    kernel, bias = (width, heads, width // heads), (heads, width // heads)

    def split(shape: Sequence[int]) -> Any:
        return lambda x: [np.ascontiguousarray(part).reshape(shape) for part in np.split(x, 3, axis=-1)]

    def join(*parts: NDArray) -> list[NDArray]:
        flat = [part.reshape(-1, width) if part.ndim == 3 else part.reshape(width) for part in parts]
        return [np.concatenate(flat, axis=-1)]

    def three(leaf: str) -> tuple[str, ...]:
        return tuple(f"{ours}/{part}/{leaf}" for part in ("query", "key", "value"))

    return [
        Entry(three("kernel"), (f"{theirs}.c_attn.weight",), split(kernel), join),
        Entry(three("bias"), (f"{theirs}.c_attn.bias",), split(bias), join),
        same(f"{ours}/out/kernel", f"{theirs}.c_proj.weight", (heads, width // heads, width), (width, width)),
        same(f"{ours}/out/bias", f"{theirs}.c_proj.bias"),
    ]
