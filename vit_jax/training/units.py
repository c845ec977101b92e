"""In what a run's speed is counted: images or other examples, and tokens of text."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import jax

from vit_jax.data.fields import Fields


@dataclasses.dataclass(frozen=True)
class Units:
    """What an example is to a reader.

    Args:
        examples: what examples are called: "images" where they have one, however many views training makes of it.
        tokens: of text in each of them, padding included; 0 for data without text.
    """

    examples: Literal["images", "examples"] = "images"
    tokens: int = 0

    def per_second(self, speed: float | None, ending: str = "") -> dict[str, float | None]:
        """A speed in examples per second by its name, and in tokens where there are some.

        Args:
            speed: None where it is not known.
            ending: of the names, after `_per_second`.
        """
        tokens = {f"tokens_per_second{ending}": speed and speed * self.tokens} if self.tokens else {}
        return {f"{self.examples}_per_second{ending}": speed, **tokens}


IMAGES = Units()


def examples_of(found: Mapping[str, object]) -> Literal["images", "examples"]:
    """What the examples are called in figures that `Units.per_second` has named."""
    return "examples" if "examples_per_second" in found else "images"


def units_of(batch: Mapping[str, jax.ShapeDtypeStruct], fields: Fields) -> Units:
    """The units of a batch as the host sends it."""
    return Units("images" if "image" in batch else "examples", fields.tokens(batch))
