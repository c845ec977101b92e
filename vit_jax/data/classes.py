"""Which class of one set of names is which of another: folders of synsets for a model of words, or another order."""

import functools
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from vit_jax.data.label_names import LABEL_SPACES, label_names, synsets
from vit_jax.data.source import Source
from vit_jax.errors import UserError
from vit_jax.naming import nearest

_SYNSET = re.compile(r"n\d{8}(?!\d)")
# A thousand names of which so many are those of ImageNet's classes at their places are ImageNet's thousand classes:
# torchvision, for one, writes "crane bird" where others have a second "crane".
_SAME_SPACE = 0.9


def class_positions(names: Sequence[str], known: Sequence[str]) -> list[int]:
    """The place in `known` of each of `names`.

    Two names are the same class if they are the same text, or mean the same class of ImageNet: by its WordNet
    identifier ("n02088094", also "n02088094-Afghan_hound") or its first word ("Afghan hound", "Afghan hound, Afghan"),
    whatever their case and whether blanks are underscores. All of ImageNet's classes in their order are known by it.

    Raises:
        UserError: naming the first class that `known` lacks, that could be several, or that two of `names` are.
    """
    if tuple(names) == tuple(known):
        return list(range(len(known)))
    theirs, ours = _identities(tuple(names)), _identities(tuple(known))
    if not known:
        raise UserError("The model does not say what its classes are", "Give it class names, or fine-tune it on these")
    by_text, by_identity = _places(known), _places(ours)
    found: dict[int, str] = {}
    for name, identity in zip(names, theirs, strict=True):
        places = () if identity is None else by_identity.get(identity, ())
        places = places if len(places) == 1 else by_text.get(name, places)
        if len(places) > 1:
            raise UserError(f"{name!r} could be one of {len(places)} classes", "Name it by its WordNet identifier")
        if not places:
            meanings = sorted(_candidates(name)) if identity is None else ()
            how = f"It may be {' or '.join(meanings)}: name it so" if len(meanings) > 1 else nearest(name, known)
            raise UserError(f"The model has no class {name!r} among its {len(known)}", how)
        if places[0] in found:
            raise UserError(f"{found[places[0]]!r} and {name!r} are one class", "Put their images together")
        found[places[0]] = name
    return list(found)


def base_classes(count: int) -> int:
    """How many of so many classes are base classes, which a prompt is learned on; the others are new to it. The first
    half, in their order, and of an odd number the larger part (CoCoOp, arXiv:2203.05557, section 4.1, and its code)."""
    return math.ceil(count / 2)


class ClassesOf:
    """A source with its labels as places in other class names, see `class_positions`.

    Args:
        source: each of its classes must be among `names`; it may lack some, or have them in another order.
        names: the classes that labels count from now on.
    """

    def __init__(self, source: Source, names: Sequence[str]):
        self.source = source
        self.label_names = tuple(names)
        self._places = class_positions(source.label_names, names)
        self.remarks = tuple(getattr(source, "remarks", ()))
        lacking = sorted(set(range(len(names))) - set(self._places))
        if lacking:
            self.remarks += (f"{len(lacking)} of {len(names)} classes are not in it, such as {names[lacking[0]]!r}",)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return relabelled(dict(self.source[index]), index, self._places, len(self.label_names))


def relabelled(example: dict[str, Any], index: int, places: Sequence[int], num_classes: int) -> dict[str, Any]:
    """The example with its label, an index or multi-hot, as a place among `num_classes` others.

    Raises:
        UserError: for a label that the example's own source has no class for.
    """
    label = example.get("label")
    if isinstance(label, np.ndarray) and label.ndim:  # multi-hot
        joined = np.zeros(num_classes, label.dtype)
        joined[list(places)] = label
        return {**example, "label": joined}
    if label is None:
        return example
    if not 0 <= label < len(places):
        where = example.get("path") or f"Example {index}"
        raise UserError(f"{where} has label {label}, but there are {len(places)} classes", "Number them from 0")
    return {**example, "label": places[label]}


def _places(names: Sequence[str | None]) -> dict[str | None, list[int]]:
    places: dict[str | None, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    return places


@functools.lru_cache(maxsize=16)
def _identities(names: tuple[str, ...]) -> tuple[str | None, ...]:
    """The synset of each name, None where it has none or could have several."""
    candidates = [_candidates(name) for name in names]
    for space, count in LABEL_SPACES.items():
        if len(names) == count:
            there = synsets(space)
            if sum(s in c for s, c in zip(there, candidates, strict=True)) >= _SAME_SPACE * count:
                return there
    return tuple(next(iter(found)) if len(found) == 1 else None for found in candidates)


def _candidates(name: str) -> frozenset[str]:
    """The synsets that a name may mean."""
    synset = _SYNSET.match(name)
    if synset:
        return frozenset([synset.group()])
    word = name.partition(",")[0].replace("_", " ").strip()
    # A thousand classes are told apart by fewer words than 21,843, so they come first; case counts if it decides.
    for space in LABEL_SPACES:
        exact, folded = _words(space)
        if found := exact.get(word) or folded.get(word.casefold()):
            return found
    return frozenset()


@functools.cache
def _words(space: str) -> tuple[dict[str, frozenset[str]], dict[str, frozenset[str]]]:
    """Synsets by name, with and without what brackets add to it, as written and in one case."""
    exact: dict[str, set[str]] = {}
    folded: dict[str, set[str]] = {}
    for synset, name in zip(synsets(space), label_names(space), strict=True):
        for word in {name, name.partition(" (")[0]}:
            exact.setdefault(word, set()).add(synset)
            folded.setdefault(word.casefold(), set()).add(synset)
    return tuple({word: frozenset(found) for word, found in words.items()} for words in (exact, folded))
