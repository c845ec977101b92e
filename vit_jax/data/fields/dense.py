"""A label or a measurement for every pixel: segmentation, depth."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Shaped, UInt8

from vit_jax.data import drawing
from vit_jax.data.field import Context, Field, Plane, Spec
from vit_jax.data.geometry import Image
from vit_jax.data.label_image import decode_labels
from vit_jax.data.palettes import colors_for
from vit_jax.data.placement import Placement
from vit_jax.errors import UserError
from vit_jax.ranges import Count, Positive, Range


@dataclass(frozen=True)
class Dense(Field):
    """[h, w] as the image in the batch; see `build`."""

    size: tuple[int, int]
    ignore: float
    dtype: str
    count: int | None
    scale: float
    names: tuple[str, ...] = ()
    in_plane: ClassVar[bool] = True

    @property
    def numbers_classes(self) -> bool:
        return self.count is not None

    def spec(self, name: str) -> dict[str, Spec]:
        return {name: Spec(self.size, self.dtype, self.count or 2)}

    def read(self, raw: Any, where: str, plane: Plane | None) -> Shaped[np.ndarray, "H W"]:
        values = decode_labels(raw, where) if isinstance(raw, bytes) else np.asarray(raw)
        values = values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values
        if values.ndim != 2 or values.dtype.kind not in "uifb":
            raise UserError(f"{where} is {values.dtype} {list(values.shape)}", "Give one number for each pixel, [H, W]")
        if plane is not None and values.shape != plane:
            raise UserError(
                f"{where} is {values.shape[1]}x{values.shape[0]} on an image of {plane[1]}x{plane[0]}",
                "Make it as large as its image",
            )
        if self.dtype == "float32":
            return values.astype(np.float32) * np.float32(self.scale)
        limits = np.iinfo(self.dtype)
        low, high = (values.min(), values.max()) if values.size else (0, 0)
        if values.dtype.kind == "f" or not limits.min <= low <= high <= limits.max:
            raise UserError(f"{where} has values from {low} to {high}", f"They do not fit {self.dtype}: set dtype")
        if self.count is not None and not (self._known(values)).all():
            other = values[~self._known(values)].flat[0]
            raise UserError(
                f"{where} has the label {other}, but there are {self.count} classes and {self.ignore:g} for none",
                "Number them from 0, or set ignore",
            )
        return values.astype(self.dtype)

    def _known(self, values: Shaped[np.ndarray, "H W"]) -> Shaped[np.ndarray, "H W"]:
        return (values < self.count) & (values >= 0) | (values == self.ignore)

    def move(self, value: Shaped[np.ndarray, "H W"], placement: Placement) -> Shaped[np.ndarray, "h w"]:
        return placement.dense(value, self.ignore)

    def on_device(self, value: Shaped[Any, "b h w"]) -> Shaped[Any, "b h w"]:
        """uint8 travels, int32 is what indexes."""
        return value.astype(np.int32) if self.dtype == "uint8" else value

    def draw(self, image: Image, name: str, row: Mapping[str, Any], times: int) -> Image:
        return drawing.labels(image, row[name], self._drawn(row[name]), self._colors)

    def legend(self, name: str, row: Mapping[str, Any]) -> dict[str, drawing.Color]:
        if not self.names:
            return {}
        return drawing.occurring(row[name][self._drawn(row[name])], self.names, self._colors)

    def _drawn(self, values: Shaped[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
        """Which pixels are coloured: what has a value, and of scenes with a background what is not it."""
        known = values != self.ignore
        return known & (values != 0) if self.names[:1] == ("background",) else known

    @property
    def _colors(self) -> UInt8[np.ndarray, "K 3"] | None:
        return colors_for(self.names) if self.names else None

    def to_json(self) -> dict[str, Any]:
        own = {"ignore": self.ignore, "dtype": self.dtype, "count": self.count, "scale": self.scale}
        return {"name": "dense", **own}


def build(
    *,
    data: Context,
    ignore: Annotated[float, Range(-(2**31), 2**31 - 1)] = 255,
    dtype: Literal["uint8", "int32", "float32"] = "uint8",
    count: Count | None = None,
    scale: Positive = 1.0,
) -> Dense:
    """A number for each pixel, moved with the image and taken from the nearest pixel; from palette or grey PNGs of up
    to 16 bits, or arrays [H, W].

    Args:
        ignore: what stands where there is no number: in the source, and where a view reaches over the image's edge.
        dtype: in the batch, "uint8", "int32" or "float32"; a task gets int32 for the first.
        count: of the classes, to check the labels with. Where the source has as many names, they are those of these
            classes: pictures say them, in a published palette's colours where the names are its.
        scale: what is multiplied, with dtype "float32", to make measurements of stored numbers: 0.001 for millimetres.
    """
    if dtype != "float32" and not (ignore == int(ignore) and np.iinfo(dtype).min <= ignore <= np.iinfo(dtype).max):
        raise UserError(f"ignore={ignore:g} does not fit {dtype}", "Change one of them")
    if data.preprocess is None:
        raise UserError("A dense field has no size", "Set config.data.image_size to [height, width] in pixels")
    names = data.label_names if count == len(data.label_names) and dtype != "float32" else ()
    return Dense(data.preprocess.image_size, ignore, dtype, count, scale, names)


def class_map(fields: Mapping[str, Field]) -> tuple[str, Dense]:
    """The field of an example that has a class for each pixel, and its name.

    Raises:
        UserError: there is none, or more than one.
    """
    found = [(name, kind) for name, kind in fields.items() if isinstance(kind, Dense) and kind.count is not None]
    if len(found) != 1:
        raise UserError(
            f"The data has {len(found) or 'no'} fields with a class for each pixel",
            "Set config.data.fields.segmentation to one of the kind 'dense', with the count of the classes",
        )
    return found[0]
