"""Marian's encoder-decoder, the Transformer of 2017 with SiLU or GELU, as transformers names it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax.checkpoints.config_keys import HF_MARIAN
from vit_jax.checkpoints.name_map import Entry, NameMap, NDArray, Shapes, norm, same, shape_of, tied
from vit_jax.checkpoints.parts import hf as hf_parts
from vit_jax.checkpoints.parts import text as parts
from vit_jax.checkpoints.parts.sidecars import is_of
from vit_jax.checkpoints.parts.vit import depth_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.data.text import tokenizer_of
from vit_jax.errors import UserError
from vit_jax.models.transformer import VARIANTS, build
from vit_jax.nn.sinusoids import sinusoids

LIBRARY = "transformers"
MODELS = "Marian"
WRITES = ("transformer",)
COMPARED = "tokens and logits of MarianMTModel; files of ours read by transformers"

_SHARED, _BIAS = "model.shared.weight", "final_logits_bias"
# What is there a second time, in files that do not leave it out.
_TWICE = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
_TABLES = ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")
_LAYER = "model.{}.layers.{}."
_BLOCK = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.out_proj",
    "norm1": "self_attn_layer_norm",
    "fc1": "fc1",
    "fc2": "fc2",
    "norm2": "final_layer_norm",
}
_EPSILON = 1e-5  # of torch.nn.LayerNorm, which config.json cannot change


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `Family`."""
    first = {side: _LAYER.format(side, 0) for side in ("encoder", "decoder")}
    cross = f"{first['decoder']}encoder_attn.q_proj.weight"
    if any(name not in tensors for name in (_SHARED, cross, f"{first['encoder']}fc1.weight")):
        return None
    config = sidecar.config
    remarks = hf_parts.check(config, HF_MARIAN, "marian")
    if config and not config.boolean("scale_embedding", False):
        raise config.error(
            "scale_embedding", "is false: the embeddings are not scaled by the square root of their width",
            "Only a model that scales them can be read",
        )  # fmt: skip
    vocab_size, width = shape_of(tensors, _SHARED, 2)
    mlp_dim = shape_of(tensors, f"{first['encoder']}fc1.weight", 2)[0]
    kwargs = {
        "width": width,
        "encoder_depth": depth_of(tensors, _LAYER.replace("{}", "encoder", 1)),
        "decoder_depth": depth_of(tensors, _LAYER.replace("{}", "decoder", 1)),
        "mlp_dim": mlp_dim,
        "num_heads": parts.heads_of(config, "encoder_attention_heads", width, 16),
        "vocab_size": vocab_size,
        "max_length": config.integer("max_position_embeddings", _length(tensors), at_least=1),
        "positions": "halves",
        "logits_bias": _BIAS in tensors,
        "activation": parts.activation_of(config.text("activation_function", "gelu" if config else "silu")),
        "norm_epsilon": _EPSILON,
        "dropout_rate": config.number("dropout", 0.1, at_least=0),
    }
    for key, ours in (("d_model", "width"), ("encoder_layers", "encoder_depth"), ("decoder_layers", "decoder_depth"),
                      ("encoder_ffn_dim", "mlp_dim"), ("decoder_ffn_dim", "mlp_dim"), ("vocab_size", "vocab_size"),
                      ("decoder_attention_heads", "num_heads"), ("decoder_vocab_size", "vocab_size"),
                      ("num_hidden_layers", "encoder_depth")):  # fmt: skip
        config.must_agree(key, kwargs[ours])
    sizes = ("width", "encoder_depth", "decoder_depth", "mlp_dim", "num_heads")
    layout = {
        "twice": parts.those_there(_TWICE, tensors),
        "tables": parts.those_there(_TABLES, tensors),
    }
    ids = parts.ids_section(config, vocab_size)
    # A translation begins with this token, by default the padding.
    start = config.integer("decoder_start_token_id", ids.get("pad_id"), at_most=vocab_size - 1)
    ids |= {} if start is None else {"bos_id": start}
    tokenizers = _vocabularies(sidecar, vocab_size, start) or {"source": ids, "target": ids}
    source = parts.tokens_section(tokenizers["source"], kwargs["max_length"], False, True)
    # The search for a translation wants a place after its last token.
    target = parts.tokens_section(tokenizers["target"], kwargs["max_length"] - 1, True, True)
    return Published(
        "transformer",
        parts.named_size(kwargs, VARIANTS, sizes),
        None,
        layout,
        (),
        remarks,
        {"source": source, "target": target},
        {"name": "translate", "kwargs": {}, "given": ["vocab_size"]},
    )


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `Family`; the layout holds under which other names the file has the embedding `twice`, and in which `tables`
    it has the positions, which are computed."""
    model = build(**kwargs)
    text, heads = model.text, model.text.style.num_heads
    width = text.width
    entries = [tied("text/embedding", [_SHARED, *layout.get("twice", ())])]
    entries += [_positions(name, text.max_length, width) for name in layout.get("tables", ())]
    if model.logits_bias:
        entries.append(same("logits_bias", _BIAS, (-1,), (1, -1)))
    for side, depth in (("encoder", text.encoder_depth), ("decoder", text.decoder_depth)):
        for i in range(depth):
            ours, layer = f"text/{side}/block_{i:02d}", _LAYER.format(side, i)
            theirs = {part: layer + name for part, name in _BLOCK.items()}
            entries += parts.post_norm_block(ours, theirs, width, heads)
            if side == "decoder":
                entries += norm(f"{ours}/norm_cross", f"{layer}encoder_attn_layer_norm")
                cross = {p: theirs[p].replace("self_attn", "encoder_attn") for p in ("query", "key", "value", "out")}
                entries += parts.attention(f"{ours}/cross", cross, width, heads)
    return NameMap(entries)


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `Family`."""
    if not is_of(metadata, "transformer"):
        return None
    model = build(**metadata["model"]["kwargs"])
    text, style = model.text, model.text.style
    activation = parts.activation_name(style.activation)
    if text.positions != "halves" or style.norm != "post" or activation is None or not model.logits_bias:
        return None
    ids = _tokenizer(metadata)
    config = {
        "architectures": ["MarianMTModel"],
        "model_type": "marian",
        "is_encoder_decoder": True,
        "d_model": text.width,
        "encoder_layers": text.encoder_depth,
        "decoder_layers": text.decoder_depth,
        "encoder_attention_heads": style.num_heads,
        "decoder_attention_heads": style.num_heads,
        "encoder_ffn_dim": style.mlp_dim,
        "decoder_ffn_dim": style.mlp_dim,
        "activation_function": activation,
        "dropout": style.dropout_rate,
        "scale_embedding": True,
        "max_position_embeddings": text.max_length,
        "vocab_size": text.vocab_size,
        "decoder_vocab_size": text.vocab_size,
        "dtype": "float32",
        **ids,
    }
    return {"config.json": config}


def _vocabularies(sidecar: Sidecar, vocab_size: int, start: int | None) -> dict[str, dict[str, Any]] | None:
    """The tokenizers of the two languages, where their three files lie beside the weights; the pieces of both are
    numbered by one vocab.json."""
    files = sidecar.vocabularies
    if any(name not in files for name in ("source.spm", "target.spm", "vocab.json")):
        return None
    readers = {"vocabulary": files["vocab.json"]}
    found = {
        side: parts.section_of(sidecar, vocab_size, {f"{side}.spm": {"name": "marian", **readers}})[0]
        for side in ("source", "target")
    }
    begin = tokenizer_of(found["target"])[0].bos_id
    if start not in (None, begin):
        raise sidecar.config.error(
            "decoder_start_token_id", f"is {start}, and the vocabulary's padding is {begin}",
            "Only a model whose translations begin with the padding can be read with its vocabulary",
        )  # fmt: skip
    return found


def _tokenizer(metadata: Mapping[str, Any]) -> dict[str, int]:
    """The special ids of the field of targets, where its section says them."""
    section = ((metadata.get("fields") or {}).get("target") or {}).get("tokenizer")
    said = section if isinstance(section, Mapping) else {}
    keys = {"pad_id": "pad_token_id", "eos_id": "eos_token_id", "bos_id": "decoder_start_token_id"}
    return {theirs: said[ours] for ours, theirs in keys.items() if said.get(ours) is not None}


def _length(tensors: Shapes) -> int:
    """Positions of a file without a config: those of its table, or as many as published models have."""
    return shape_of(tensors, _TABLES[0], 2, (512, 0))[0]


def _positions(theirs: str, length: int, width: int) -> Entry:
    """A table that is no parameter of ours; the file's must be the one that we compute."""
    table = sinusoids(length, width, "halves")

    def read(found: NDArray) -> list[NDArray]:
        if found.shape != table.shape or np.abs(found - table).max() > 1e-5:
            raise UserError(
                f"The tensor {theirs!r} is not the table of {length} sines and cosines that the model computes",
                "Only files with this table can be read",
            )
        return []

    return Entry((), (theirs,), read, lambda: [table])
