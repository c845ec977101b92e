"""The Frechet distance of two sets of features, each taken for a Gaussian, in float64.

Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium" (arXiv:1706.08500,
section 2): |mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)). Called FID, it is that of one network's features alone.
"""

import dataclasses
import io
import zipfile
from collections.abc import Iterable
from typing import Self

import numpy as np
from etils import epath
from jaxtyping import Float, Num

from vit_jax.errors import UserError

_BLOCK = 1024  # rows that are in float64 at once


def check_count(samples: int, features: int) -> None:
    """Refuses fewer samples than features with a UserError: their covariance has no full rank."""
    if samples < max(features, 2):
        raise UserError(
            f"There are {samples} samples for the covariance of {features} features",
            "Take at least as many samples as features, or a judge of fewer features",
        )


@dataclasses.dataclass
class Moments:
    """Mean and covariance of rows that come bit by bit.

    Each part is added with its own mean (Chan et al., 1983), so that nothing is lost where means are large.
    """

    count: int
    mean: Float[np.ndarray, " D"]
    scatter: Float[np.ndarray, "D D"]

    @classmethod
    def of(cls, parts: Iterable[Num[np.ndarray, "N D"]]) -> Self:
        """Of all rows of all parts.

        Raises:
            UserError: where there is none.
        """
        moments = None
        for part in parts:
            for start in range(0, len(part), _BLOCK):
                rows = part[start : start + _BLOCK].astype(np.float64)
                moments = (
                    cls(0, np.zeros(rows.shape[1]), np.zeros((rows.shape[1],) * 2)) if moments is None else moments
                )
                moments._add(rows)
        if moments is None:
            raise UserError("There are no images to measure", "Evaluate on some")
        return moments

    def _add(self, rows: Float[np.ndarray, "n D"]) -> None:
        mean, total = rows.mean(axis=0), self.count + len(rows)
        centred, apart = rows - mean, mean - self.mean
        self.scatter += centred.T @ centred + np.outer(apart, apart) * (self.count * len(rows) / total)
        self.mean = self.mean + apart * (len(rows) / total)
        self.count = total

    def covariance(self) -> Float[np.ndarray, "D D"]:
        """Of the sample, so over N - 1.

        Raises:
            UserError: for fewer rows than features.
        """
        check_count(self.count, len(self.mean))
        return self.scatter / (self.count - 1)

    def gaussian(self) -> "Gaussian":
        """See `covariance`."""
        return Gaussian(self.mean, self.covariance())


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """What the distance is of."""

    mean: Float[np.ndarray, " D"]
    covariance: Float[np.ndarray, "D D"]

    def to_npz(self) -> bytes:
        """As the papers' code keeps it: `mu` and `sigma`."""
        file = io.BytesIO()
        np.savez(file, mu=self.mean, sigma=self.covariance)
        return file.getvalue()


def read_gaussian(path: epath.PathLike) -> Gaussian:
    """Statistics from an .npz with `mu` [D] and `sigma` [D, D], whoever made it.

    Raises:
        UserError: for a file that has not both, or none.
    """
    try:
        with np.load(io.BytesIO(epath.Path(path).read_bytes()), allow_pickle=False) as file:
            mean, covariance = (file[name].astype(np.float64) for name in ("mu", "sigma"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} holds no statistics: {error}", "Give an .npz with mu [D] and sigma [D, D]") from None
    if mean.ndim != 1 or covariance.shape != (len(mean),) * 2:
        raise UserError(
            f"The statistics in {path} are mu {list(mean.shape)} and sigma {list(covariance.shape)}",
            "Give mu [D] and sigma [D, D]",
        )
    return Gaussian(mean, covariance)


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """Squared, as everybody prints it.

    The trace of the root of a product is the sum of the roots of its eigenvalues, which are those of S1^(1/2) S2
    S1^(1/2), a symmetric matrix: so nothing turns complex, and a covariance may be singular.

    Raises:
        UserError: for features of two widths.
    """
    if first.mean.shape != second.mean.shape:
        raise UserError(
            f"Features of {len(first.mean)} and {len(second.mean)} numbers are not compared", "Use one judge for both"
        )
    root = _root(first.covariance)
    product = root @ second.covariance @ root
    shared = np.sqrt(np.linalg.eigvalsh((product + product.T) / 2).clip(min=0)).sum()
    apart = first.mean - second.mean
    return float(apart @ apart + np.trace(first.covariance) + np.trace(second.covariance) - 2 * shared)


def _root(matrix: Float[np.ndarray, "D D"]) -> Float[np.ndarray, "D D"]:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
