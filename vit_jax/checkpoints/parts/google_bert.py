"""BERT as the text tower of Google's LiT files: the names of flaxformer's `BertEncoder`, which big_vision wraps.

Kernels are matrices [in, out] with all heads side by side. The first token, [CLS], is the text; there is no pooler, and
texts have no [SEP] (google-research/vision_transformer, `preprocess.py` and `configs/models.py`: LiT-B16B, LiT-L16L).
"""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.name_map import Entry, Shapes, same, shape_of
from vit_jax.checkpoints.parts import google
from vit_jax.checkpoints.parts import text as text_parts
from vit_jax.checkpoints.parts.towers import NUMBERS
from vit_jax.checkpoints.parts.vit import depth_of, heads_of
from vit_jax.checkpoints.published import Sidecar
from vit_jax.models.bert import Bert

_ROOT = "BertEncoder_0/"
WORDS = f"{_ROOT}embedder/embedders_token_ids/embedding"
_PLACES = f"{_ROOT}embedder/embedders_position_ids/embedding"
_SEGMENTS = f"{_ROOT}embedder/embedders_segment_ids/embedding"
_LAYER = f"{_ROOT}encoder_block/layer_sequence/layers_{{}}/"
_ACTIVATION = "gelu_tanh"  # flax's nn.gelu, where BERT's own code has the exact one
_LENGTH = 16  # tokens of a text; the positions are for more
_CLS = 101  # of the vocabulary that BERT was published with


def arguments_of(tensors: Shapes) -> dict[str, Any]:
    """The arguments of `vit_jax.models.bert.build`, from the names below `txt/`; the heads are as wide as BERT's."""
    vocab_size, width = shape_of(tensors, WORDS, 2)
    return {
        "width": width,
        "depth": depth_of(tensors, _LAYER),
        "num_heads": heads_of(width),
        "mlp_dim": shape_of(tensors, f"{_LAYER.format(0)}mlp_block/mlp/dense_layer/kernel", 2)[1],
        "vocab_size": vocab_size,
        "max_length": shape_of(tensors, _PLACES, 2)[0],
        "num_segments": shape_of(tensors, _SEGMENTS, 2)[0],
        "activation": _ACTIVATION,
        "pooler": False,
    }


def fits(model: Bert) -> bool:
    """Whether these names say everything about a tower."""
    style = model.text.style
    heads = model.masked_language or model.next_sentence or model.pooler
    exact = (style.activation, style.norm_epsilon) == (_ACTIVATION, 1e-12)
    return not heads and model.pooling == "token" and exact and model.text.num_segments > 0


def entries(model: Bert, theirs: str) -> list[Entry]:
    """The names of a tower.

    Args:
        theirs: what stands before them.
    """
    text = model.text
    found = [
        same("text/embedding", theirs + WORDS),
        same("text/pos_embedding", theirs + _PLACES),
        same("text/segment_embedding", theirs + _SEGMENTS),
        *google.norm("text/norm_embedding", f"{theirs}{_ROOT}layer_norm"),
    ]
    for i in range(text.depth):
        ours, block = f"text/block_{i:02d}", theirs + _LAYER.format(i)
        attention, mlp = f"{block}attention_block", f"{block}mlp_block"
        found += _attention(f"{ours}/attention", attention, text.width, text.style.num_heads)
        found += google.norm(f"{ours}/norm1", f"{attention}/layer_norm")
        found += google.dense(f"{ours}/mlp/fc1", f"{mlp}/mlp/dense_layer")
        found += google.dense(f"{ours}/mlp/fc2", f"{mlp}/dense_layer")
        found += google.norm(f"{ours}/norm2", f"{mlp}/layer_norm")
    return found


def field(sidecar: Sidecar, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The field of texts and what has to be said about it: [CLS] and the text, without [SEP], in lower case."""
    vocab_size, length = arguments["vocab_size"], min(_LENGTH, arguments["max_length"])
    section, _ = text_parts.section_of(sidecar, vocab_size, {"vocab.txt": {"name": "wordpiece", "lower": True}})
    said = () if section else (NUMBERS,)
    ids = {"name": "ids", "vocab_size": vocab_size, "pad_id": 0} | ({"bos_id": _CLS} if vocab_size > _CLS else {})
    return text_parts.tokens_section(section or ids, length, bos="bos_id" in ids), said


def _attention(ours: str, theirs: str, width: int, heads: int) -> list[Entry]:
    split = (width, heads, width // heads)
    found = [same(f"{ours}/out/bias", f"{theirs}/dense_layer/bias")]
    found.append(same(f"{ours}/out/kernel", f"{theirs}/dense_layer/kernel", (*split[1:], width), (width, width)))
    for part in ("query", "key", "value"):
        name = f"{theirs}/attention_layer/{part}"
        found.append(same(f"{ours}/{part}/kernel", f"{name}/kernel", split, (width, width)))
        found.append(same(f"{ours}/{part}/bias", f"{name}/bias", split[1:], (width,)))
    return found
