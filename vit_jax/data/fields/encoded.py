"""Tokens or latents of an image that were computed once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped

from vit_jax.data.encoded_files import Header
from vit_jax.data.field import Context, Field, Plane, Spec
from vit_jax.errors import UserError
from vit_jax.ranges import Count


@dataclass(frozen=True)
class Encoded(Field):
    """uint16 [*shape], tokens; or float32 [*shape], latents, with `moments` drawn from those of the source.

    Of several views of an image training takes one at random; it draws latents by the seed and the example's number in
    the run alone. Evaluation takes the first view, and the mean.

    Args:
        shape: of one row of a batch.
        vocab_size: how many different tokens there are; None for latents.
        moments: whether the source has means, and behind them log variances, on the last axis.
    """

    shape: tuple[int, ...]
    vocab_size: int | None = None
    moments: bool = False

    @property
    def dtype(self) -> str:
        return "float32" if self.vocab_size is None else "uint16"

    def spec(self, name: str) -> dict[str, Spec]:
        return {name: Spec(self.shape, self.dtype, self.vocab_size or 1)}

    def choose(
        self, raw: Shaped[np.ndarray, "V ..."], where: str, rng: np.random.Generator | None
    ) -> Shaped[np.ndarray, "..."]:
        """One view, and latents drawn from its moments."""
        row = raw[0 if rng is None or len(raw) == 1 else int(rng.integers(len(raw)))]
        if not self.moments:
            return row
        mean, log_variance = np.split(row.astype(np.float32), 2, axis=-1)
        if rng is None:
            return mean
        return mean + np.exp(0.5 * log_variance) * rng.standard_normal(mean.shape, np.float32)

    def read(self, raw: Any, where: str, plane: Plane | None) -> Shaped[np.ndarray, "..."]:
        row = np.asarray(raw, self.dtype)
        if row.shape != self.shape:
            raise UserError(
                f"{where} is {list(row.shape)}, and the field holds {list(self.shape)}", "Name the directory it is of"
            )
        return row

    def caption(self, name: str, row: Any) -> str:
        return f"{name} {list(self.shape)}"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": "encoded", "shape": list(self.shape), "vocab_size": self.vocab_size, "moments": self.moments
        }  # fmt: skip


def build(
    *,
    data: Context,
    directory: str | None = None,
    shape: Sequence[Count] | None = None,
    vocab_size: Count | None = None,
    moments: bool = False,
) -> Encoded:
    """Tokens or latents.

    Args:
        directory: that `vit_jax encode` wrote, which says all that follows; None to say it here.
        shape: of one row of a batch.
        vocab_size: how many different tokens there are; None for latents.
        moments: whether the source has moments to draw latents from.

    Raises:
        UserError: for a directory and a shape, or neither.
    """
    if (directory is None) == (shape is None):
        raise UserError("The field 'encoded' takes a directory, or a shape", "Give one of the two")
    if directory is None:
        return Encoded(tuple(shape), vocab_size, moments)
    header = Header.read(directory)
    moments, shape = header.kind == "moments", header.shape
    return Encoded((*shape[:-1], shape[-1] // 2) if moments else shape, header.vocab_size, moments)
