"""Which example comes when: the endless orders of training, as functions of seed and element alone."""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import grain
import numpy as np
from jaxtyping import Int

from vit_jax.data.classes import relabelled
from vit_jax.data.known_labels import known_labels
from vit_jax.data.seeds import derived_seed
from vit_jax.data.source import Source
from vit_jax.errors import UserError

# index_shuffle walks cycles in a 16-bit block: below this size a table is faster (microseconds against milliseconds
# for a handful of examples), above it a table wastes memory.
_TABLE_UP_TO = 2**16
# Weights of a mixture are kept to this share.
_SHARES = 10_000


class Order(Protocol):
    def candidates(self, element: int) -> Iterator[int]:
        """Indices for element 0, 1, 2, ...: first the example that is due, then what may replace it in turn."""
        ...


class Mixture:
    """Several sources as one; training draws from them by weight, evaluation takes all of each in turn.

    Args:
        sources: the parts. Their classes are joined by name: equal names are one class. Examples have the fields
            that all parts give; `vit_jax.data.fields.Fields.check_parts` says whether others are missed.
        weights: share of each part in every stretch of training examples, in proportion to each other.

    Raises:
        UserError: for no sources, an empty one, or weights that are not positive or too small.
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float]):
        if not sources or len(sources) != len(weights):
            raise UserError(f"The mixture has {len(sources)} sources", "Give one or more, each with a weight")
        for weight in weights:
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < math.inf:
                raise UserError(f"A weight of the mixture is {weight!r}", "Give positive numbers, such as 0.7 and 0.3")
        for k, source in enumerate(sources):
            if len(source) == 0:
                raise UserError(
                    f"Source {k} of the mixture has no examples", "Check its split and path, or leave it out"
                )
        given = [getattr(source, "field_names", None) for source in sources]
        self.field_names = None if None in given else frozenset.intersection(*given)
        self._left_out = [frozenset() if self.field_names is None else names - self.field_names for names in given]
        self.sources = tuple(sources)
        self.weights = tuple(weights)
        self.shares = _whole_shares(weights)
        self.label_names = tuple(dict.fromkeys(name for source in sources for name in source.label_names))
        position = {name: label for label, name in enumerate(self.label_names)}
        self._labels = [[position[name] for name in source.label_names] for source in sources]
        self._ends = np.cumsum([len(source) for source in sources])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> dict:
        part = int(np.searchsorted(self._ends, index, side="right"))
        source, labels, left_out = self.sources[part], self._labels[part], self._left_out[part]
        example = {k: v for k, v in source[index - self.first(part)].items() if k not in left_out}
        return relabelled(example, index, labels, len(self.label_names))

    def first(self, part: int) -> int:
        """Index of the first example of one part."""
        return int(self._ends[part - 1]) if part else 0


def check_numbering(source: Source, field: str) -> None:
    """Refuses a mixture whose parts number the classes in a field differently: labels are joined by name, and the
    numbers of objects and pixels stay what they are.

    Raises:
        UserError: names the part and the class.
    """
    for k, part in enumerate(source.sources if isinstance(source, Mixture) else ()):
        check_numbering(part, field)
        given = getattr(part, "field_names", None) or ()
        if field not in given or "label" in given:  # whose names they are, and of other numbers nothing is known
            continue
        for number, (theirs, name) in enumerate(zip(part.label_names, source.label_names, strict=False)):
            if theirs != name:
                raise UserError(
                    f"Source {k} of the mixture calls the class {number} of {field!r} {theirs!r}, and those before it"
                    f" {name!r}",
                    "Mix sources that have the same classes in the same order",
                )


def order_of(source: Source, seed: int, balance: bool = False) -> Order:
    """The order in which training takes the examples of a source.

    Args:
        balance: each class equally often, in every part of a mixture by itself.

    Raises:
        UserError: for `balance` with a source that does not know its labels without reading.
    """
    if isinstance(source, Mixture):
        return _Mixed(source, seed, balance)
    return _Balanced(source, seed) if balance else _Epochs(len(source), seed)


class _Epochs:
    """Element i is position i % n of epoch i // n, and every epoch is another permutation of n examples."""

    def __init__(self, n: int, seed: int):
        self._n = n
        self._seed = seed

    def candidates(self, element: int) -> Iterator[int]:
        """The next ones of the same epoch may replace one, its first after its last."""
        epoch, position = divmod(element, self._n)
        for step in range(self._n):
            yield shuffled((position + step) % self._n, self._n, self._seed, epoch)


class _Mixed:
    """Blocks of a fixed length in which each part has its exact share, at places drawn anew for every block."""

    def __init__(self, mixture: Mixture, seed: int, balance: bool):
        self._seed = derived_seed(seed, 2)
        # Each part has a seed of its own: two equal sources are not to be taken in step.
        self._orders = [order_of(source, derived_seed(seed, 3, k), balance) for k, source in enumerate(mixture.sources)]
        self._first = [mixture.first(k) for k in range(len(self._orders))]
        self._counts = mixture.shares
        self._ends = np.cumsum(self._counts)

    def candidates(self, element: int) -> Iterator[int]:
        """Only another example of the same part may replace one."""
        block, position = divmod(element, int(self._ends[-1]))
        slot = shuffled(position, int(self._ends[-1]), self._seed, block)
        part = int(np.searchsorted(self._ends, slot, side="right"))
        of_part = block * self._counts[part] + slot - (int(self._ends[part - 1]) if part else 0)
        return (self._first[part] + index for index in self._orders[part].candidates(of_part))


class _Balanced:
    """Blocks in which each class is once, at places drawn anew for every block; each class in epochs of its own.

    An image with several labels is an example of each; those without any are together one class more.
    """

    def __init__(self, source: Source, seed: int):
        self._members = _members(source)
        self._seed = derived_seed(seed, 4)
        self._orders = [_Epochs(len(of), derived_seed(seed, 5, k)) for k, of in enumerate(self._members)]

    def candidates(self, element: int) -> Iterator[int]:
        """Only another example of the same class may replace one."""
        block, position = divmod(element, len(self._members))
        k = shuffled(position, len(self._members), self._seed, block)
        return (int(self._members[k][index]) for index in self._orders[k].candidates(block))


def class_counts(
    source: Source,
    what: str = "Balanced class weights need all labels before training starts",
    what_to_do: str = "Give a number for each class",
) -> tuple[int, ...]:
    """How many examples each class of a source has; an image with several labels is one of each, and of a mixture each
    example counts once, however often it is drawn.

    Args:
        what: needs the labels, for who has to be told that the source does not know them.
        what_to_do: then.

    Raises:
        UserError: for a source that does not know its labels without reading.
    """
    if isinstance(source, Mixture):
        places = {name: place for place, name in enumerate(source.label_names)}
        joined = np.zeros(len(places), np.int64)
        for part in source.sources:
            joined[[places[name] for name in part.label_names]] += np.array(
                class_counts(part, what, what_to_do), np.int64
            )
        return tuple(joined.tolist())
    labels, _ = _known(source, what, what_to_do)
    return tuple(np.bincount(labels[labels >= 0], minlength=len(source.label_names)).tolist())


def _members(source: Source) -> list[Int[np.ndarray, " n"]]:
    """The indices of each class that has examples, by class."""
    what = "Balanced training has to know all labels before it starts"
    labels, indices = _known(source, what, "Remove config.data.balance, or list the images in a folder or a manifest")
    order = np.argsort(labels, kind="stable")
    return np.split(indices[order], np.flatnonzero(np.diff(labels[order])) + 1)


def _known(source: Source, what: str, what_to_do: str) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Its labels, and whose they are, see `known_labels`."""
    known = known_labels(source)
    if known is None:
        raise UserError(f"{what}, which this source would have to read for", what_to_do)
    return known


def _whole_shares(weights: Sequence[float]) -> list[int]:
    """Small whole numbers in the proportion of the weights, to one part in `_SHARES`; none is zero."""
    exact = [weight / math.fsum(weights) * _SHARES for weight in weights]
    counts = [math.floor(share + 1e-9) for share in exact]
    largest_rest = sorted(range(len(exact)), key=lambda k: counts[k] - exact[k])
    for k in largest_rest[: _SHARES - sum(counts)]:
        counts[k] += 1
    if min(counts) == 0:
        raise UserError(
            f"The smallest weight of the mixture is {min(weights) / math.fsum(weights):.1g} of all",
            f"Give each at least {1 / _SHARES}, or leave it out",
        )
    divisor = math.gcd(*counts)
    return [count // divisor for count in counts]


@functools.lru_cache(maxsize=32)
def _epoch_order(n: int, seed: int, epoch: int) -> int | Int[np.ndarray, " n"]:
    """What an epoch's permutation is computed from: a table for a small source, a seed for a large one."""
    epoch_seed = derived_seed(seed, 0, epoch)
    if n > _TABLE_UP_TO:
        return epoch_seed
    # Raw Philox words, unlike Generator.permutation, are promised to stay the same in all versions of NumPy.
    return np.argsort(np.random.Philox(epoch_seed).random_raw(n), kind="stable")


def shuffled(position: int, n: int, seed: int, epoch: int) -> int:
    """The index of the example at one position of one epoch."""
    order = _epoch_order(n, seed, epoch)
    if not isinstance(order, int):
        return int(order[position])
    # With a last index of exactly 4**k, index_shuffle (grain 0.2.18) gives one index twice and another never. One index
    # more, walked past wherever it comes up, makes it a permutation again.
    last = n - 1 + ((n - 1) & (n - 2) == 0)
    index = grain.experimental.index_shuffle(position, last, order, 4)
    while index >= n:
        index = grain.experimental.index_shuffle(index, last, order, 4)
    return index
