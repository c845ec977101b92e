"""Rows of conditions that a task reads by a network of its own."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from vit_jax.checkpoints.encoded_conditions import EncodedConditions
from vit_jax.tasks import Task


@dataclasses.dataclass(frozen=True)
class Doubling(Task):
    """Reads texts as twice their numbers."""

    seen: list = dataclasses.field(hash=False, compare=False)
    encodes: ClassVar[tuple[str, ...]] = ("text",)

    def encoded(self, variables, rows):
        self.seen.append(len(rows))  # when it is traced
        return variables["by"] * rows


def test_each_row_is_read_once():
    seen = []
    read = EncodedConditions(Doubling(seen), {"by": jnp.float32(2)})
    texts = np.array([[1, 2], [3, 4], [1, 2], [5, 6]], np.int32)
    np.testing.assert_array_equal(read("text", texts), 2.0 * texts)
    assert seen == [4]  # three rows, filled up
    np.testing.assert_array_equal(read("text", texts[::-1]), 2.0 * texts[::-1])
    assert seen == [4]
    read("text", np.array([[7, 8], [1, 2]], np.int32))
    assert seen == [4, 1] and len(read._known) == 4
    np.testing.assert_array_equal(read("label", texts), texts)
    many = np.arange(2200, dtype=np.int32).reshape(-1, 2)
    read("text", many)
    assert len(read._known) == len(many)
