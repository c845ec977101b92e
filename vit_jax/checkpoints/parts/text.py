"""What the families of text models have in common: sizes, activations, blocks, and how their inputs are prepared."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vit_jax.checkpoints.json_file import JsonObject, shown
from vit_jax.checkpoints.name_map import Entry, Shapes, dense, norm
from vit_jax.checkpoints.parts.vit import attention_out, projection
from vit_jax.checkpoints.published import Sidecar
from vit_jax.data.text import tokenizer_of
from vit_jax.data.tokenizer_json import numbers_in
from vit_jax.data.vocabularies import read_vocabulary
from vit_jax.errors import UserError

_ACTIVATIONS = {
    "gelu": "gelu_exact",
    "gelu_python": "gelu_exact",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "quick_gelu": "quick_gelu",
}
_NAMES = {name: name for name in ("relu", "silu", "quick_gelu")} | {"gelu_exact": "gelu", "gelu_tanh": "gelu_new"}


def activation_of(name: str) -> str:
    """Ours for transformers' name of an activation.

    Raises:
        UserError: we do not have it.
    """
    if name not in _ACTIVATIONS:
        raise UserError(f"The model's activation is {shown(name)}", f"Known: {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def activation_name(activation: str) -> str | None:
    """The inverse; None for one that transformers does not have."""
    return _NAMES.get(activation)


def heads_of(config: JsonObject, key: str, width: int, default: int = 12) -> int:
    """The heads that config.json says; without one they are 64 wide, as in the published sizes.

    Raises:
        UserError: they do not divide the width.
    """
    assumed = default if config else max(width // 64, 1)
    heads = config.integer(key, assumed, at_least=1, at_most=width)
    if width % heads:
        raise config.error(key, f"is {heads}, which does not divide the width of {width}")
    return heads


def named_size(kwargs: Mapping[str, Any], variants: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Arguments of a model with its size by name where it has one of the published sizes.

    Args:
        kwargs: with all of `keys`, those that a name stands for.
    """
    for name, size in variants.items():
        if all(kwargs[key] == getattr(size, key) for key in keys):
            return {"variant": name} | {key: value for key, value in kwargs.items() if key not in keys}
    return dict(kwargs)


def post_norm_block(ours: str, theirs: Mapping[str, Any], width: int, heads: int) -> list[Entry]:
    """A block with norms after the additions, as transformers' BERT and Marian name it.

    Args:
        theirs: full names of "norm1", "query", "key", "value", "out", "fc1", "fc2", "norm2"; with attention to a memory
            also "norm_cross" and, of that attention, "cross_query", ...
    """
    entries = norm(f"{ours}/norm1", theirs["norm1"]) + norm(f"{ours}/norm2", theirs["norm2"])
    entries += attention(f"{ours}/attention", theirs, width, heads)
    entries += dense(f"{ours}/mlp/fc1", theirs["fc1"]) + dense(f"{ours}/mlp/fc2", theirs["fc2"])
    return entries


def attention(ours: str, theirs: Mapping[str, Any], width: int, heads: int) -> list[Entry]:
    """An attention from linear layers of their own.

    Args:
        theirs: full names of its "query", "key", "value" and "out".
    """
    entries = attention_out(f"{ours}/out", theirs["out"], width, heads)
    for part in ("query", "key", "value"):
        entries += projection(f"{ours}/{part}", f"{theirs[part]}.weight", f"{theirs[part]}.bias", width, heads)
    return entries


def those_there(names: Iterable[str], tensors: Shapes) -> list[str]:
    """Names of which a file may have some."""
    return [name for name in names if name in tensors]


def section_of(
    sidecar: Sidecar, vocab_size: int, readers: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Any] | None, bool]:
    """The section of the tokenizer whose vocabulary lies beside the file, or None; and whether it has all tokens that
    the model knows: some models are wider, by rows that no text uses.

    Args:
        readers: by the names of files, the section of the tokenizer that reads each; its `path`
            is added, with the file in it.

    Raises:
        UserError: it has more tokens than the model.
    """
    there = next((name for name in readers if name in sidecar.vocabularies), None)
    if there is None:
        return None, False
    path = sidecar.vocabularies[there]
    tokenizer, section = tokenizer_of({**readers[there], "path": path})
    if "vocab.json" in sidecar.vocabularies and hasattr(tokenizer, "check_numbers"):
        file = read_vocabulary(sidecar.vocabularies["vocab.json"])
        tokenizer.check_numbers(numbers_in(file), file.name)
    known = tokenizer.vocab_size
    if known > vocab_size:
        raise UserError(
            f"{path} has {known} tokens, and the model knows {vocab_size}",
            "Put the vocabulary beside the file that it was trained with",
        )
    return section, known == vocab_size


def tokens_section(tokenizer: Mapping[str, Any], length: int, bos: bool = False, eos: bool = False) -> dict[str, Any]:
    """A field of plain tokens."""
    return {"name": "tokens", "tokenizer": dict(tokenizer), "length": length, "bos": bos, "eos": eos, "long": "cut"}


def ids_section(config: JsonObject, vocab_size: int) -> dict[str, Any]:
    """The tokenizer of a model whose vocabulary does not lie beside it: texts are numbers of tokens."""
    said = {f"{kind}_id": config.integer(f"{kind}_token_id") for kind in ("pad", "bos", "eos")}
    ids = {name: number for name, number in said.items() if number is not None and number < vocab_size}
    return {"name": "ids", "vocab_size": vocab_size, **ids}
