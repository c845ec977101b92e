"""The objects of another source, each an image by itself with what it is called: pairs for a model of both."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from jaxtyping import UInt8

from vit_jax.data.decode import decode
from vit_jax.data.geometry import Image
from vit_jax.data.order import check_numbering
from vit_jax.data.regions import regions
from vit_jax.data.seeds import derived_seed
from vit_jax.data.source import Source
from vit_jax.errors import UserError
from vit_jax.naming import build_named
from vit_jax.ranges import Natural, Range, Share


class ObjectsSource:
    """One object of each example, a function of seed and index alone; see `build`."""

    field_names = frozenset({"image", "text", "label"})

    def __init__(
        self,
        source: Source,
        templates: tuple[str, ...],
        enlarged: tuple[float, float],
        blanked: float,
        blank: tuple[int, int, int],
        seed: int,
    ):
        self._source, self._templates, self._enlarged = source, templates, enlarged
        self._blanked, self._blank, self._seed = blanked, np.uint8(blank), seed
        self.label_names = tuple(source.label_names)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng, example = np.random.default_rng((self._seed, index)), self._source[index]
        where = example.get("path", f"example {index}")
        image = example["image"] if isinstance(example["image"], np.ndarray) else decode(example["image"], where)
        found = regions(example["masks"], where)
        chosen = found[int(rng.integers(len(found)))]
        if not 0 < chosen.kind < len(self.label_names):
            raise UserError(
                f"{where} has an object of the class {chosen.kind}, which has no name",
                "Use a source whose masks have classes from 1 up, such as coco, composites or shapes",
            )
        mask = chosen.mask(image.shape[:2], where)
        factor, blanked = rng.uniform(*self._enlarged), rng.random() < self._blanked
        if blanked:
            image = np.where(mask[..., None] > 0, image, self._blank)
        called = self.label_names[chosen.kind].replace("_", " ")
        texts = [template.replace("{}", called) for template in self._templates]
        return {"image": self._square(image, mask, factor), "text": texts, "label": chosen.kind, "path": where}

    def _square(self, image: Image, mask: UInt8[np.ndarray, "H W"], factor: float) -> Image:
        """The square around the object's box, so many times as large; blank beyond the image."""
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            rows, columns = (np.arange(side) for side in mask.shape)
        ends = [(int(each[0]), int(each[-1]) + 1) for each in (rows, columns)]
        side = max(2, round(factor * max(last - first for first, last in ends)))
        found = np.broadcast_to(self._blank, (side, side, 3)).copy()
        into, of = [], []
        for (first, last), length in zip(ends, mask.shape, strict=True):
            start = round((first + last - side) / 2)
            least, most = max(start, 0), min(start + side, length)
            into.append(slice(least - start, most - start))
            of.append(slice(least, most))
        found[tuple(into)] = image[tuple(of)]
        return found


def build(
    source: Mapping[str, Any],
    templates: Sequence[str] = ("{}", "a {}"),
    enlarged: Sequence[float] = (1.0, 2.0),
    blanked: Share = 0.5,
    blank: Sequence[Annotated[int, Range(0, 255)]] = (127, 127, 127),
    seed: Natural = 0,
) -> ObjectsSource:
    """One object of each example of a source with masks and names of classes: `image`, a square around it, `text`, what
    it is called in each of the templates, and `label`, its class. A model of images and texts learns from such pairs
    what objects are called, and the task `sam_text` to find them.

    Args:
        source: the section of a source with masks, such as `coco`, `composites` or `shapes`.
        templates: with {} for the name.
        enlarged: least and largest side of the square, in sides of the box around the object, its longer one.
        blanked: how often what is around the object is blanked out.
        blank: colour of that, and of what lies beyond the image, RGB.
        seed: of which object of an example, how large a square, and whether it is blanked out.

    Raises:
        UserError: for a source without masks or names, a mixture that numbers them differently, or a template without
            {}.
    """
    whole = build_named("source", source, "objects.source")
    if "masks" not in (getattr(whole, "field_names", None) or ()) or not whole.label_names:
        raise UserError(
            f"The source {source.get('name')!r} does not give objects with names", "Use coco, composites or shapes"
        )
    check_numbering(whole, "masks")
    if not templates or not all(isinstance(each, str) and "{}" in each for each in templates):
        raise UserError(f"templates={list(templates)} have no place for a name", "Write {} in each")
    ends = tuple(map(float, enlarged))
    if len(ends) != 2 or not 1 <= ends[0] <= ends[1] <= 16:
        raise UserError(f"enlarged={list(enlarged)} is not a range of sides", "Give two, the smaller one first, from 1")
    colour = tuple(int(value) for value in blank)
    if len(colour) != 3:
        raise UserError(f"blank={list(blank)} is no colour", "Give red, green and blue")
    return ObjectsSource(whole, tuple(templates), ends, blanked, colour, derived_seed(seed, 23))
