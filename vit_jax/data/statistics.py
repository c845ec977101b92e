"""What a set of images is made of, counted in one pass: numbers by channel, sizes, classes, duplicates."""

import hashlib
from collections import Counter

import numpy as np
from jaxtyping import Float64, Shaped


class Statistics:
    """Counts images as they are added, each whatever its size.

    Means and deviations are those of all pixels of all images together, in float64: of each image by itself, and joined
    as Chan, Golub and LeVeque do (1983, "Algorithms for computing the sample variance", equation 1.5), which loses no
    digits where sums of squares would.

    Args:
        channels: that every image has.
    """

    def __init__(self, channels: int):
        self.images = self.pixels = self.duplicates = 0
        self.mean = np.zeros(channels)
        self._squares = np.zeros(channels)  # of deviations from the mean, summed
        self.low, self.high = np.full(channels, np.inf), np.full(channels, -np.inf)
        self.types: Counter[str] = Counter()
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.classes: Counter[int] = Counter()
        self.first_twins: tuple[int, int] | None = None
        self._seen: dict[bytes, int] = {}

    def add(self, image: Shaped[np.ndarray, "h w c"], index: int, label: int | None = None) -> None:
        """One more image.

        Args:
            index: names it where it is a duplicate.
        """
        numbers = image.reshape(-1, image.shape[-1])
        # Not of the whole image at once in float64, which may be eight times as large as the file.
        count, mean = len(numbers), numbers.mean(axis=0, dtype=np.float64)
        squares = sum(
            np.square(numbers[at : at + _ROWS].astype(np.float64) - mean).sum(axis=0) for at in range(0, count, _ROWS)
        )
        total, off = self.pixels + count, mean - self.mean
        self._squares += squares + np.square(off) * (self.pixels * count / total)
        self.mean += off * (count / total)
        self.pixels, self.images = total, self.images + 1
        self.low = np.minimum(self.low, numbers.min(axis=0))
        self.high = np.maximum(self.high, numbers.max(axis=0))
        self.types[str(image.dtype)] += 1
        self.sizes[image.shape[:2]] += 1
        if label is not None:
            self.classes[label] += 1
        content = hashlib.blake2b(np.ascontiguousarray(image), digest_size=16, key=repr(image.shape).encode()).digest()
        first = self._seen.setdefault(content, index)
        if first != index:
            self.duplicates += 1
            self.first_twins = self.first_twins or (first, index)

    @property
    def std(self) -> Float64[np.ndarray, " c"]:
        """Of the population, as all recipes have it."""
        return np.sqrt(self._squares / self.pixels)


_ROWS = 2**16
