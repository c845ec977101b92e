"""Places in an image: key points, clicks."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Shaped

from vit_jax.data import drawing
from vit_jax.data.field import Context, Field, Plane, Spec
from vit_jax.data.geometry import Image
from vit_jax.data.placement import Placement
from vit_jax.errors import UserError
from vit_jax.ranges import Count


@dataclass(frozen=True)
class Points(Field):
    """float32 [count, 2] of (x, y) in pixels of the view, and bool NAME_valid [count]: which are there and seen.

    A point keeps its place in the list, so that the k-th may be the left eye. Those beyond `count` are left out and
    counted in int32 NAME_dropped [].
    """

    count: int
    in_plane: ClassVar[bool] = True

    def spec(self, name: str) -> dict[str, Spec]:
        shapes = {name: Spec((self.count, 2), "float32"), f"{name}_valid": Spec((self.count,), "bool", 2)}
        return {**shapes, f"{name}_dropped": Spec((), "int32")}

    def read(self, raw: Any, where: str, plane: Plane | None) -> tuple[Float[np.ndarray, "n 2"], Any]:
        xy = rows_of(raw, 2, where)
        return xy, np.ones(len(xy), bool)

    def move(self, value: tuple[Any, Any], placement: Placement) -> tuple[Any, Any]:
        xy, valid = value
        moved, seen = placement.points(xy)
        return moved, valid & seen

    def batched(self, name: str, value: tuple[Any, Any]) -> dict[str, Any]:
        xy, valid = value
        dropped = max(len(xy) - self.count, 0)
        valid = padded(valid, self.count, bool)
        xy = padded(xy, self.count, np.float32) * valid[:, None]
        return {name: xy, f"{name}_valid": valid, f"{name}_dropped": dropped}

    def draw(self, image: Image, name: str, row: Mapping[str, Any], times: int) -> Image:
        return drawing.points(image, row[name][row[f"{name}_valid"]], times)

    def to_json(self) -> dict[str, Any]:
        return {"name": "points", "count": self.count}


def build(*, data: Context, count: Count) -> Points:
    """Up to `count` points of each image, given as [n, 2] of (x, y) in its pixels, also as JSON."""
    return Points(count)


def rows_of(raw: Any, columns: int, where: str) -> Float[np.ndarray, "n c"]:
    """An array of so many columns, from one, from lists, or from either as JSON; of no rows for nothing.

    Raises:
        UserError: for something else, and for numbers that are not finite.
    """
    if isinstance(raw, (str, bytes)):
        try:
            raw = json.loads(raw) if raw.strip() else []
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} is no JSON list of numbers", "Write it as [[1, 2], [3, 4]]") from error
    try:
        rows = np.asarray(raw, np.float64)
    except (TypeError, ValueError, OverflowError) as error:  # the last for integers beyond floats
        raise UserError(f"{where} is not a table of numbers", f"Give [n, {columns}]") from error
    rows = rows.reshape(0, columns) if rows.size == 0 else rows
    if rows.ndim != 2 or rows.shape[1] != columns:
        raise UserError(f"{where} is {list(rows.shape)}", f"Give [n, {columns}]")
    if not np.isfinite(rows).all():
        raise UserError(f"{where} has numbers that are not finite", "Leave those rows out")
    return rows


def padded(rows: Shaped[np.ndarray, "n *rest"], count: int, dtype: Any) -> Shaped[np.ndarray, "count *rest"]:
    """The first `count` rows, with zeros behind them where there are fewer."""
    found = np.zeros((count, *rows.shape[1:]), dtype)
    found[: len(rows)] = rows[:count]
    return found
