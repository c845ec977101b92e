"""Cross-validation: a source in k parts, of which training leaves one out and evaluation takes that one."""

import dataclasses
import re
from typing import Self

import numpy as np
from jaxtyping import Int

from vit_jax.data.known_labels import known_labels
from vit_jax.data.order import Mixture
from vit_jax.data.seeds import derived_seed
from vit_jax.data.source import Source
from vit_jax.data.subset import Subset
from vit_jax.errors import UserError

_MOST = 1000
_SEED = 0  # not the run's: runs of other seeds are to leave out the same examples


@dataclasses.dataclass(frozen=True)
class Fold:
    """One of k ways to leave a k-th of a source out.

    Each example is left out by exactly one of the k folds. Where each has one label that is known without reading,
    every class is dealt out evenly (stratified): counts differ by one example at most, and are those of scikit-learn's
    `StratifiedKFold`. Else examples are dealt out at random. Which example goes where depends on the source's order
    and labels alone. Of a mixture each part is dealt out by itself.

    Args:
        part: which is left out, from 1 to `parts`.
        parts: k.
    """

    part: int
    parts: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """'2/5': the second of five.

        Raises:
            UserError: for anything else.
        """
        found = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text, re.ASCII)
        fold = cls(*map(int, found.groups())) if found else None
        if fold is None or not 1 <= fold.part <= fold.parts or not 2 <= fold.parts <= _MOST:
            raise UserError(f"config.data.fold is {text!r}", "Give which part of how many is left out, such as 1/5")
        return fold

    def training(self, source: Source) -> Source:
        """All but the part."""
        return self._some(source, left_out=False)

    def left_out(self, source: Source) -> Source:
        """The part alone."""
        return self._some(source, left_out=True)

    def _some(self, source: Source, left_out: bool) -> Source:
        if isinstance(source, Mixture):
            return Mixture([self._some(part, left_out) for part in source.sources], source.weights)
        dealt, remarks = self._dealt(source)
        return Subset(source, np.flatnonzero((dealt == self.part - 1) == left_out), remarks=remarks)

    def _dealt(self, source: Source) -> tuple[Int[np.ndarray, " N"], list[str]]:
        """Which part leaves each example out, and what is to be said of it."""
        if self.parts > len(source):
            raise UserError(
                f"config.data.fold asks for {self.parts} parts of {len(source)} examples", "Ask for fewer parts"
            )
        classes, remarks = self._classes(source)
        # Raw Philox words are promised to stay the same in all versions of NumPy.
        drawn = np.random.Philox(derived_seed(_SEED, 6)).random_raw(len(source))
        dealt = np.empty(len(source), np.int64)
        # Class after class, each in random order; dealing goes on where the class before ended, so that parts are even.
        dealt[np.lexsort((drawn, classes))] = np.arange(len(source)) % self.parts
        return dealt, remarks

    def _classes(self, source: Source) -> tuple[Int[np.ndarray, " N"], list[str]]:
        """The class of each example, numbered in the order in which they come up; all the same where none are known."""
        known = known_labels(source)
        if known is None or len(known[0]) != len(source):  # unknown, or several labels
            return np.zeros(len(source), np.int64), []
        _, first, classes, counts = np.unique(known[0], return_index=True, return_inverse=True, return_counts=True)
        remarks = []
        if few := int((counts < self.parts).sum()):
            rare = f"{few} class{'es have' if few > 1 else ' has'} fewer than {self.parts} examples"
            remarks.append(f"{rare}, so that not every part of config.data.fold has one")
        return np.argsort(np.argsort(first))[classes], remarks
