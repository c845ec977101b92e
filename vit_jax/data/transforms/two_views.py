"""Two random views of each image, drawn alike (SimCLR) or by two recipes (MoCo v3): what contrastive losses compare."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vit_jax.data.transforms import view
from vit_jax.naming import construct


@dataclass(frozen=True)
class TwoViews:
    """The two recipes."""

    first: view.View
    second: view.View

    @property
    def shared_draws(self) -> int:
        """How many random numbers the examples of a batch share, see `vit_jax.data.pipeline`."""
        return self.first.shared_draws + self.second.shared_draws

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Replaces "image" uint8 [H, W, 3] by two views uint8 [2, h, w, 3]; the other fields pass through."""
        example = dict(example)
        image, shared = example.pop("image"), iter(example.pop("shared_draws", ()))
        views = []
        for recipe in (self.first, self.second):
            own = {"shared_draws": tuple(itertools.islice(shared, recipe.shared_draws))}
            views.append(recipe({"image": image, **own}, rng)["image"])
        return {**example, "image": np.stack(views)}


def build(
    image_size: int | Sequence[int],
    first: Mapping[str, Any] | None = None,
    second: Mapping[str, Any] | None = None,
    **both: Any,
) -> TwoViews:
    """Two views of `image_size`.

    Args:
        image_size: (height, width) of the views, or one number for a square.
        first: arguments of `vit_jax.data.transforms.view.build` for the first view only.
        second: those of the second view alone.
        both: those of both views; a view's own arguments take precedence.

    Raises:
        UserError: for unknown arguments and values out of their range.
    """
    where = "config.data.transform"
    return TwoViews(
        *(
            construct(view.build, {**both, **(own or {})}, f"{where}.{name}" if own else where, image_size=image_size)
            for name, own in (("first", first), ("second", second))
        )
    )
