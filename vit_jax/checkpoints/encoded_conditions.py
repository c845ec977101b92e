"""Conditions that a task reads by a network of its own, such as texts: each of them once, however many samples follow
it."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from vit_jax.checkpoints.narrowing import narrowed
from vit_jax.tasks import Task, Variables

_KEPT = 1024  # rows: of Stable Diffusion's texts 240 MB


class EncodedConditions:
    """What a task makes of rows of its conditions, see `Task.encodes`; rows that were seen are not read again.

    Args:
        place: see `vit_jax.checkpoints.narrowing.narrowed`.
    """

    def __init__(self, task: Task, variables: Variables, place: Callable[[Any], Array] | None = None):
        self._names, self._variables, self._place = task.encodes, variables, place
        self._program, self._known, self._ready = _program(task), {}, False

    def __call__(self, name: str, values: Shaped[np.ndarray, "B ..."]) -> Shaped[np.ndarray, "B ..."]:
        """The rows as `sample` reads them: those of another condition as they are."""
        if name not in self._names:
            return values
        rows = {row.tobytes(): row for row in np.ascontiguousarray(values)}
        if len(self._known) + len(rows) > _KEPT:
            self._known = {key: self._known[key] for key in rows if key in self._known}
        self._read([row for key, row in rows.items() if key not in self._known])
        return np.stack([self._known[row.tobytes()] for row in np.ascontiguousarray(values)])

    def _read(self, rows: Iterable[np.ndarray]) -> None:
        rows = list(rows)
        if not rows:
            return
        # Filled up to a power of two: few programs for any count.
        filled = jnp.asarray(np.stack([*rows, *[rows[-1]] * (2 ** (len(rows) - 1).bit_length() - len(rows))]))
        if not self._ready:
            traced = self._program.trace(self._variables, filled)
            self._variables, self._ready = narrowed(self._variables, traced, self._place), True
        found = np.asarray(jax.device_get(self._program(self._variables, filled)))
        self._known |= {row.tobytes(): made for row, made in zip(rows, found, strict=False)}


@functools.lru_cache(maxsize=8)
def _program(task: Task) -> Callable[[Variables, Array], Array]:
    return jax.jit(task.encoded)
