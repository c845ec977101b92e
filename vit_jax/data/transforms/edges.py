"""A view of an image, and Canny's edges of the view: what a ControlNet of edges learns from (arXiv:2302.05543)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vit_jax.data.edges import HIGH, LOW, edges
from vit_jax.data.placement import IMAGE, Move
from vit_jax.data.transforms.supervised import Supervised
from vit_jax.data.transforms.supervised import build as supervised
from vit_jax.errors import UserError
from vit_jax.naming import construct
from vit_jax.ranges import Natural


@dataclass(frozen=True)
class Edges:
    """See `build` for the fields."""

    view: Supervised
    low: int
    high: int
    spread: float

    makes = ("control",)
    takes_parts = True

    @property
    def places(self) -> bool:
        """See `Supervised`, like `random`."""
        return self.view.places

    @property
    def random(self) -> bool:
        return self.view.random or self.spread > 0

    def __call__(
        self, example: dict[str, Any], rng: np.random.Generator, moves: Mapping[str, Move] = IMAGE
    ) -> dict[str, Any]:
        """Replaces "image" uint8 [H, W, 3] by a view, and adds its edges as "control", white on black."""
        example = self.view(example, rng, moves)
        factor = self.spread ** rng.uniform(-1, 1) if self.spread else 1.0
        return {**example, "control": edges(example["image"], round(self.low * factor), round(self.high * factor))}


def build(
    image_size: int | Sequence[int],
    view: Mapping[str, Any] | None = None,
    low: Natural = LOW,
    high: Natural = HIGH,
    spread: float = 0.0,
) -> Edges:
    """Views and their edges.

    Args:
        image_size: (height, width) of the view, or one number for a square.
        view: the arguments of the transform 'supervised', such as `{"crop": "none", "flip": False}`.
        low, high: see `vit_jax.data.edges.edge_map`.
        spread: both thresholds are multiplied by a number between 1 / spread and spread, evenly drawn in its
            logarithm; 0 for none.

    Raises:
        UserError: for a value out of its range.
    """
    if low > high:
        raise UserError(f"Edges begin at {high}, below {low} where they end", "Make low at most high")
    if spread and spread < 1:
        raise UserError(f"spread is {spread:g}", "Use at least 1, or 0 for none")
    made = construct(supervised, dict(view or {}), "config.data.transform.view", image_size=image_size)
    return Edges(made, low, high, spread)
