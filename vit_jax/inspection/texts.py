"""What the words of a text attend to, out of the result of `vit_jax.load`: of BERT, a GPT, or an encoder of texts."""

import dataclasses
import functools

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Int32, PyTree

from vit_jax.checkpoints.load import Loaded
from vit_jax.data.fields.token_pair import TokenPair, joined
from vit_jax.data.fields.tokens import Tokens
from vit_jax.data.text import token_ids
from vit_jax.data.tokenizers import Tokenizer
from vit_jax.errors import UserError
from vit_jax.nn.example_inputs import example_inputs
from vit_jax.nn.style import Execution

_MOST = 64  # words; more cannot be read side by side
_FIELDS = ("text", "source")


@dataclasses.dataclass(frozen=True)
class TextAttention:
    """The attention within one text.

    Args:
        words: the text as the model sees it, special tokens included.
        special: which of them belong to no word of the text.
        weights: of every layer and head, what each word (third axis) attends to (fourth); each row adds up to 1.
    """

    words: tuple[str, ...]
    special: Bool[np.ndarray, " T"]
    weights: Float[np.ndarray, "L H T T"]

    def find(self, word: str) -> int:
        """The place of a word; of several alike the last, which has seen the others.

        Raises:
            UserError: it is not in the text.
        """
        places = [i for i, one in enumerate(self.words) if one.strip().casefold() == word.strip().casefold()]
        if not places:
            raise UserError(f"The model sees no word {word!r}", f"Its words are {' '.join(map(repr, self.words))}")
        return places[-1]

    @property
    def last(self) -> int:
        """The place of the last word that is not special; of the last token where all are."""
        places = np.flatnonzero(~self.special)
        return int(places[-1]) if len(places) else len(self.words) - 1


def has_text(loaded: Loaded) -> bool:
    """Whether `text_attention` can be had."""
    style = getattr(getattr(loaded.model, "text", None), "style", None)
    return hasattr(style, "num_heads") and _field_of(loaded) is not None


def text_attention(loaded: Loaded, text: str) -> TextAttention:
    """The attention weights of the forward pass, float32, those of the pieces of a word put together.

    A word of several tokens gets the sum of what its tokens get, and attends to what they attend to on average. Of an
    encoder-decoder it is the encoder's. The model is built again with its switch `sow_attention` on.

    Raises:
        UserError: for a model without a trunk of texts, an empty text, or one of more words than can be drawn.
    """
    if not has_text(loaded):
        raise UserError("This checkpoint has no text model whose attention could be looked at", "Name images instead")
    tokenizer = loaded.fields[_field_of(loaded)].tokenizer
    row = _row(loaded, text)
    ids = row["ids"]
    weights = _weights(loaded, row)
    words, special, first = split_words(tokenizer, ids)
    if len(words) > _MOST:
        raise UserError(f"The text has {len(words)} words as the model sees it", f"At most {_MOST} can be drawn")
    sizes = np.diff(np.append(first, len(ids)))
    got = np.add.reduceat(weights, first, axis=3)
    return TextAttention(words, special, np.add.reduceat(got, first, axis=2) / sizes[:, None])


def split_words(
    tokenizer: Tokenizer, ids: Int32[np.ndarray, " T"]
) -> tuple[tuple[str, ...], Bool[np.ndarray, " W"], Int[np.ndarray, " W"]]:
    """The words that tokens are, for people; which of them are special; and where each begins."""
    starts, special = _starts(tokenizer, ids)
    first = np.flatnonzero(starts)
    words = tuple(_shown(tokenizer, part, bool(special[part_at]))
                  for part, part_at in zip(np.split(ids, first[1:]), first, strict=True))  # fmt: skip
    return words, special[first], first


def _field_of(loaded: Loaded) -> str | None:
    return next((name for name in _FIELDS if getattr(loaded.fields.get(name), "tokenizer", None) is not None), None)


def _row(loaded: Loaded, text: str) -> dict[str, np.ndarray]:
    """The tokens of a text without padding, "ids", and its "segments" where the field tells them."""
    name = _field_of(loaded)
    field = loaded.fields[name]
    tokenizer, length = field.tokenizer, loaded.model.text.max_length
    if isinstance(field, (Tokens, TokenPair)):
        row = field.batched(name, field.read(text, "The text", None))
    else:
        ids = token_ids(tokenizer, text, "The text")
        row = {name: ids, f"{name}_mask": np.ones(len(ids), bool)}
        if f"{name}_segments" in field.spec(name):  # fields of pairs put other tokens around a single text too
            row = joined(name, [ids], tokenizer, len(ids) + 2)
    there = np.flatnonzero(row[f"{name}_mask"])
    if not len(there):
        raise UserError("The text is empty", "Give one with words")
    if len(there) > length:
        raise UserError(f"The text has {len(there)} tokens, and the model {length} positions", "Shorten it")
    kept = {"ids": row[name][there]}
    segments = row.get(f"{name}_segments")
    return kept | ({} if segments is None else {"segments": segments[there]})


def _weights(loaded: Loaded, row: dict[str, np.ndarray]) -> Float[np.ndarray, "L H T T"]:
    trunk = loaded.model.text
    # A scan cannot sow, and only the explicit implementation, which "auto" then takes, has weights to give.
    execution = Execution(dtype=trunk.execution.dtype, sow_attention=True)
    model = loaded.model.clone(text=trunk.clone(execution=execution, parent=None))
    inputs = [row["ids"][None]]
    # What is decoded does not change what the encoder does.
    inputs += [row["ids"][None, :1] for _ in example_inputs(model, None)[1:]]
    options = {}
    if getattr(trunk, "num_segments", 0) and "segments" in row:
        options["segments"] = row["segments"][None]
    tree = _sown(model, loaded.params, tuple(inputs), options)["text"]
    tree = tree.get("encoder", tree)
    # The names of the blocks are numbered, so that sorted by name they are in order.
    leaves = sorted(
        (jax.tree_util.keystr(path), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if any(getattr(key, "key", None) == "attention_weights" for key in path)
    )
    return np.stack([np.asarray(leaf[0]) for _, leaf in leaves])


@functools.partial(jax.jit, static_argnums=0)
def _sown(model: nn.Module, params: PyTree, inputs: tuple[Array, ...], options: dict[str, Array]) -> PyTree:
    return model.apply({"params": params}, *inputs, train=False, mutable=["intermediates"], **options)[1][
        "intermediates"
    ]


def _starts(
    tokenizer: Tokenizer, ids: Int32[np.ndarray, " T"]
) -> tuple[Bool[np.ndarray, " T"], Bool[np.ndarray, " T"]]:
    """Which tokens start a word, and which are special. Where a tokenizer does not say, each token is a word."""
    kinds = ("pad_id", "bos_id", "eos_id", "cls_id", "sep_id", "mask_id")
    names = {getattr(tokenizer, kind, None) for kind in kinds} - {None}
    special = np.isin(ids, sorted(names)) if names else np.zeros(len(ids), bool)
    continues, ends = (getattr(tokenizer, name, None) for name in ("continues", "ends"))
    if continues is not None:
        starts = ~np.asarray(continues, bool)[ids] | special
    elif ends is not None:
        starts = np.append(True, np.asarray(ends, bool)[ids[:-1]]) | special
    else:
        return np.ones(len(ids), bool), special
    starts[1:] |= special[:-1]
    starts[0] = True
    return starts, special


def _shown(tokenizer: Tokenizer, ids: Int32[np.ndarray, " n"], special: bool) -> str:
    """A word for people, never empty."""
    text = tokenizer.decode(ids.tolist())
    if special and not text.strip():
        kinds = {"cls_id": "[CLS]", "sep_id": "[SEP]", "bos_id": "[start]", "eos_id": "[end]", "pad_id": "[pad]",
                 "mask_id": "[MASK]"}  # fmt: skip
        return next(shown for kind, shown in kinds.items() if getattr(tokenizer, kind, None) == ids[0])
    plain = text.strip() or text.replace("\n", "\u21b5").replace(" ", "\u00b7")
    return plain or f"#{ids[0]}"
