"""What one kind of field is: the base class of the modules in `vit_jax.data.fields`."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Shaped

from vit_jax.data.drawing import Color
from vit_jax.data.geometry import Image
from vit_jax.data.placement import Placement
from vit_jax.data.preprocess import Preprocess
from vit_jax.data.source import Source

Plane = tuple[int, int]  # (height, width) of the image that a field lies on


class Spec(NamedTuple):
    """One example's part of a batch as it leaves the host.

    Args:
        shape: without the batch.
        dtype: of NumPy.
        limit: made-up values are whole numbers from 0 to below it.
    """

    shape: tuple[int, ...]
    dtype: str
    limit: int = 1


class Context(NamedTuple):
    """What a field may know when it is built.

    Args:
        preprocess: the config's image_size and preprocessing; None for data without images.
        label_names: classes of "label".
    """

    preprocess: Preprocess | None = None
    label_names: tuple[str, ...] = ()


class Field:
    """What one kind of field is, from a source's raw value to a model's input.

    A frozen dataclass. It may give several arrays of a batch, named after it: boxes come with `boxes_valid`.
    """

    in_plane: ClassVar[bool] = False
    """Whether it lies in the image's plane, so that crops, flips and rotations move it."""

    made: ClassVar[bool] = False
    """Whether the transform makes it, of the image: no source is asked for it, and evaluation without that transform
    does not have it."""

    typed: ClassVar[bool] = False
    """Whether people give it, as the text that says what they mean in an image: no source is asked for it, and no batch
    of training has it, so that its `spec` is empty. `batched` is what a command makes of what was typed."""

    is_text: ClassVar[bool] = False
    """Whether the array of the field's own name holds tokens, which are counted as a run's speed."""

    @property
    def numbers_classes(self) -> bool:
        """Whether its values are numbers of classes, which say nothing without the source's own names. Of "label" the
        source itself makes other numbers where names are joined; of a map or of objects nobody does."""
        return False

    is_rgb: ClassVar[bool] = True
    """Of an image: whether it is uint8 RGB, which transforms that change colours need."""

    def spec(self, name: str) -> dict[str, Spec]:
        """What it gives to a batch under its name."""
        raise NotImplementedError

    def arranged(self, name: str, source: Source) -> Source:
        """The source whose examples the field reads, where they are not those that a source has by itself: documents
        in windows, or sentences in pairs. Such a source gives the field and what belongs to it, and nothing else.

        Evaluation asks it for sources without classes alone: `read` also takes a source's own value."""
        return source

    def read(self, raw: Any, where: str, plane: Plane | None) -> Any:
        """A source's value as a value of its own, not yet of a fixed size.

        Args:
            raw: encoded bytes, text, or an array, as the source has it.
            where: names the example, and the field where it is not the image, in errors.
            plane: size of the example's "image".
        """
        raise NotImplementedError

    def choose(self, raw: Any, where: str, rng: np.random.Generator | None) -> Any:
        """The raw value that is read, where a source gives several to choose from.

        Args:
            rng: of training's example alone, see `vit_jax.data.pipeline`; None in evaluation, which takes the first.
        """
        return raw

    def open(self, raw: Any, where: str, plane: Plane | None) -> Any:
        """As `read`, for a transform that says that it `takes_parts`: it asks `shape` and `[top:bottom, left:right]` of
        an image and nothing else, so that no more of it need be decoded."""
        return self.read(raw, where, plane)

    def move(self, value: Any, placement: Placement) -> Any:
        """The value in a view of the image, for what is `in_plane`."""
        raise NotImplementedError

    def evaluated(self, value: Any, placement: Placement) -> Any:
        """The value as evaluation sees it, for what is `in_plane`; `placement` is that of the example's image."""
        return self.move(value, placement)

    def batched(self, name: str, value: Any) -> dict[str, Shaped[np.ndarray, "..."] | int]:
        """What goes into a batch, as `spec` says."""
        return {name: value}

    def on_device(self, value: Any) -> Any:
        """What the device does first to the array of the field's own name; traceable."""
        return value

    def draw(self, image: Image, name: str, row: Mapping[str, Any], times: int) -> Image:
        """The image with the field drawn on it, for what is `in_plane`.

        Args:
            row: one example of a batch from the host.
            times: how many times as large as in the batch the image is.
        """
        return image

    def legend(self, name: str, row: Mapping[str, Any]) -> Mapping[str, Color]:
        """What the colours mean in which `draw` draws this example; empty where they mean nothing."""
        return {}

    def caption(self, name: str, row: Mapping[str, Any]) -> str:
        """The field in words; empty for what is drawn."""
        return ""

    def to_json(self) -> dict[str, Any]:
        """The section of `config.data.fields` that rebuilds it."""
        raise NotImplementedError
