"""BERT as transformers names it, with or without the heads of its pretraining, and as sentence-transformers has it."""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import HF_BERT
from vit_jax.checkpoints.name_map import Entry, NameMap, Shapes, dense, norm, shape_of, tied
from vit_jax.checkpoints.parts import hf as hf_parts
from vit_jax.checkpoints.parts import text as parts
from vit_jax.checkpoints.parts.sidecars import complete, is_of
from vit_jax.checkpoints.parts.vit import depth_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.bert import VARIANTS, build

LIBRARY = "transformers"
MODELS = "BERT, with or without its heads, and sentence-transformers' mean of its tokens"
WRITES = ("bert",)
COMPARED = "tokens, pooled and both heads' logits of BertForPreTraining; files of ours read by transformers"

_LAYER = "encoder.layer.{}."
_EMBEDDINGS = {
    "embedding": "word_embeddings",
    "pos_embedding": "position_embeddings",
    "segment_embedding": "token_type_embeddings",
}
_BLOCK = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "norm2": "output.LayerNorm",
}
_DECODER = "cls.predictions.decoder"  # the embedding again, which newer files leave out


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `Family`."""
    names = {"words": "embeddings.word_embeddings.weight", "fc1": _LAYER.format(0) + "intermediate.dense.weight"}
    segments, places = "embeddings.token_type_embeddings.weight", "embeddings.position_embeddings.weight"
    prefix = hf_parts.prefix_of(tensors, ("bert.", ""), names["words"])
    if prefix is None or any(prefix + name not in tensors for name in (segments, places, names["fc1"])):
        return None
    config = sidecar.config
    remarks = hf_parts.check(config, HF_BERT, "bert")
    vocab_size, width = shape_of(tensors, prefix + names["words"], 2)
    mlp_dim = shape_of(tensors, prefix + names["fc1"], 2)[0]
    depth = depth_of(tensors, prefix + _LAYER)
    kwargs = {
        "width": width,
        "depth": depth,
        "num_heads": parts.heads_of(config, "num_attention_heads", width),
        "mlp_dim": mlp_dim,
        "vocab_size": vocab_size,
        "max_length": shape_of(tensors, prefix + places, 2)[0],
        "num_segments": shape_of(tensors, prefix + segments, 2)[0],
        "activation": parts.activation_of(config.text("hidden_act", "gelu")),
        "norm_epsilon": config.number("layer_norm_eps", 1e-12, at_least=0),
        "pooler": f"{prefix}pooler.dense.weight" in tensors,
        "masked_language": "cls.predictions.transform.dense.weight" in tensors,
        "next_sentence": "cls.seq_relationship.weight" in tensors,
        "pooling": _pooling(sidecar, f"{prefix}pooler.dense.weight" in tensors),
    }
    for key, ours in (("hidden_size", "width"), ("num_hidden_layers", "depth"), ("intermediate_size", "mlp_dim"),
                      ("vocab_size", "vocab_size"), ("max_position_embeddings", "max_length"),
                      ("type_vocab_size", "num_segments")):  # fmt: skip
        config.must_agree(key, kwargs[ours])
    if sidecar.pooling:
        remarks += ("what sentence-transformers does after pooling, such as making features of length 1, is left out",)
    layout = {
        "prefix": prefix,
        "old_norms": f"{prefix}embeddings.LayerNorm.gamma" in tensors,
        "decoder": parts.those_there((f"{_DECODER}.weight", f"{_DECODER}.bias"), tensors),
    }
    length = min(sidecar.sentences.integer("max_seq_length", kwargs["max_length"], at_least=5), kwargs["max_length"])
    return Published(
        "bert",
        parts.named_size(kwargs, VARIANTS, ("width", "depth", "num_heads")),
        None,
        layout,
        (),
        remarks,
        {"text": _field(sidecar, vocab_size, length)},
        {"name": "features", "kwargs": {}},
    )


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `Family`; the layout holds `prefix` ('bert.' or ''), whether norms have their `old_norms` names gamma and
    beta, and under which names of `decoder` the head's parameters are a second time."""
    kwargs, old = _complete(kwargs), layout.get("old_norms", False)
    heads = kwargs["masked_language"] or kwargs["next_sentence"]
    prefix = layout.get("prefix", "bert." if heads else "")
    twice = layout.get("decoder", ())
    entries = list(norm("text/norm_embedding", f"{prefix}embeddings.LayerNorm"))
    for ours, theirs in _EMBEDDINGS.items():
        names = [f"{prefix}embeddings.{theirs}.weight"]
        if ours == "embedding" and f"{_DECODER}.weight" in twice:
            names.append(f"{_DECODER}.weight")
        entries.append(tied(f"text/{ours}", names))
    for i in range(kwargs["depth"]):
        theirs = {part: prefix + _LAYER.format(i) + name for part, name in _BLOCK.items()}
        entries += parts.post_norm_block(f"text/block_{i:02d}", theirs, kwargs["width"], kwargs["num_heads"])
    if kwargs["pooler"]:
        entries += dense("pooler", f"{prefix}pooler.dense")
    if kwargs["masked_language"]:
        entries += dense("mlm/dense", "cls.predictions.transform.dense")
        entries += norm("mlm/norm", "cls.predictions.transform.LayerNorm")
        bias = [name for name in twice if name.endswith("bias")]
        entries.append(tied("mlm/bias", ["cls.predictions.bias", *bias]))
    if kwargs["next_sentence"]:
        entries += dense("nsp", "cls.seq_relationship")
    ignored = (f"{prefix}embeddings.position_ids",)
    return NameMap([_with_old_names(entry) for entry in entries] if old else entries, ignored)


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `Family`; the mean of the tokens is sentence-transformers' to say."""
    if not is_of(metadata, "bert"):
        return None
    kwargs = _complete(metadata["model"]["kwargs"])
    activation = parts.activation_name(kwargs["activation"])
    if activation is None or not kwargs["num_segments"]:
        return None
    both = {(True, True): "BertForPreTraining", (True, False): "BertForMaskedLM"}
    kind = both.get((kwargs["masked_language"], kwargs["next_sentence"]))
    if kwargs["next_sentence"]:
        kind = kind or "BertForNextSentencePrediction"
    config = {
        "architectures": [kind or "BertModel"],
        "model_type": "bert",
        "hidden_size": kwargs["width"],
        "num_hidden_layers": kwargs["depth"],
        "num_attention_heads": kwargs["num_heads"],
        "intermediate_size": kwargs["mlp_dim"],
        "hidden_act": activation,
        "layer_norm_eps": kwargs["norm_epsilon"],
        "max_position_embeddings": kwargs["max_length"],
        "type_vocab_size": kwargs["num_segments"],
        "vocab_size": kwargs["vocab_size"],
        "dtype": "float32",
    }
    files = {"config.json": config}
    if kwargs["pooling"] == "mean":
        files["1_Pooling/config.json"] = {"word_embedding_dimension": kwargs["width"], "pooling_mode_mean_tokens": True}
    return files


def _field(sidecar: Sidecar, vocab_size: int, length: int) -> dict[str, Any]:
    """One text or two as the vocabulary beside the file splits them; without it, ids with all special ones in them."""
    lower = sidecar.tokenizer.boolean("do_lower_case", True)
    readers = {name: {"name": "wordpiece", "lower": lower} for name in ("vocab.txt", "tokenizer.json")}
    section, _ = parts.section_of(sidecar, vocab_size, readers)
    if section is None:
        return parts.tokens_section(parts.ids_section(sidecar.config, vocab_size), length)
    return {"name": "token_pair", "tokenizer": section, "length": length, "long": "cut"}


def _pooling(sidecar: Sidecar, pooler: bool) -> str:
    """What sentence-transformers makes a feature of."""
    modes = [key for key in sidecar.pooling if key.startswith("pooling_mode_") and sidecar.pooling.boolean(key)]
    if not sidecar.pooling or (modes == ["pooling_mode_cls_token"] and not pooler):
        return "token"
    if modes != ["pooling_mode_mean_tokens"]:
        raise sidecar.pooling.error(
            modes[0] if modes else "pooling_mode_mean_tokens",
            "asks for features that vit_jax does not make of this model's tokens",
            "Only their mean can be read, or the first token of a model without a pooler",
        )
    return "mean"


def _complete(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """With sizes and what is left out, from the model that these arguments build."""
    model = build(**kwargs)
    text, style = model.text, model.text.style
    return complete(build, kwargs) | {
        "width": text.width, "depth": text.depth, "num_heads": style.num_heads, "mlp_dim": style.mlp_dim,
        "activation": style.activation, "norm_epsilon": style.norm_epsilon,
    }  # fmt: skip


def _with_old_names(entry: Entry) -> Entry:
    """As the first files named a norm's parameters."""
    new = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    [*theirs] = entry.theirs
    for now, then in new.items():
        theirs = [name.removesuffix(now) + then if name.endswith(now) else name for name in theirs]
    return Entry(entry.ours, tuple(theirs), entry.read, entry.write, entry.copies)
