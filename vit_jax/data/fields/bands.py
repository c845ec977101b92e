"""An image of any number of channels in its own numbers: spectral bands, 16 bits, floats; normalised on the device."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float32, Shaped

from vit_jax.data.band_files import read_bands
from vit_jax.data.decode import UnreadableImage, read_file
from vit_jax.data.field import Context, Field, Plane, Spec
from vit_jax.data.placement import Placement
from vit_jax.data.preprocess import Preprocess
from vit_jax.errors import UserError
from vit_jax.ranges import Count, Positive

# What a type's numbers are taken to be where a config gives no statistics: bytes and 16 bits from -1 to 1 over their
# whole range, floats as they are.
_STATISTICS = {"uint8": (127.5, 127.5), "uint16": (32767.5, 32767.5), "float32": (0.0, 1.0)}
_AT_ONCE = 4  # channels that OpenCV resizes


@dataclass(frozen=True)
class Bands(Field):
    """See `build`."""

    preprocess: Preprocess
    channels: int
    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    in_plane: ClassVar[bool] = True
    is_rgb: ClassVar[bool] = False

    def spec(self, name: str) -> dict[str, Spec]:
        limit = 2 if self.dtype == "float32" else np.iinfo(self.dtype).max + 1
        return {name: Spec((*self.preprocess.image_size, self.channels), self.dtype, limit)}

    def read(self, raw: Any, where: str, plane: Plane | None) -> Shaped[np.ndarray, "H W C"]:
        pixels = np.asarray(raw) if not isinstance(raw, bytes) else read_bands(raw, where)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        if pixels.ndim != 3 or pixels.shape[-1] != self.channels:
            raise UserError(
                f"{where} is {list(pixels.shape)}, and its field has {self.channels} channels",
                "Set config.data.fields.image.channels to the last of them, channels last",
            )
        # Floats hold all numbers of 16 bits exactly.
        fits = pixels.dtype.kind in "uif" if self.dtype == "float32" else pixels.dtype == self.dtype
        if not fits:
            raise UserError(
                f"{where} holds {pixels.dtype}, and its field {self.dtype}",
                "Set config.data.fields.image.dtype to what the files hold; float32 takes any numbers",
            )
        if self.dtype == "float32" and not np.isfinite(pixels).all():
            raise UnreadableImage(f"{where} has numbers that are not finite", "Replace them, or leave it out")
        return pixels.astype(self.dtype)

    def given(self, image: Any) -> Shaped[np.ndarray, "H W C"]:
        """An image that a person hands over: a path, encoded bytes, or an array."""
        path = "The image" if isinstance(image, bytes) or hasattr(image, "shape") else image
        return self.read(image if path == "The image" else read_file(path), str(path), None)

    def prepared(self, image: Any) -> Shaped[np.ndarray, "h w C"]:
        """The same as evaluation prepares it."""
        return self._each(self.given(image), self.preprocess.fitted)

    def move(self, value: Shaped[np.ndarray, "H W C"], placement: Placement) -> Shaped[np.ndarray, "h w C"]:
        if placement.interpolation != "area":
            raise UserError(
                f"The interpolation {placement.interpolation!r} is that of 8 bits", "Use 'area' for an image of bands"
            )
        return self._each(value, placement.image)

    def evaluated(self, value: Shaped[np.ndarray, "H W C"], placement: Placement) -> Shaped[np.ndarray, "h w C"]:
        return self._each(value, self.preprocess.fitted)

    def _each(self, value: Shaped[np.ndarray, "H W C"], fit: Any) -> Shaped[np.ndarray, "h w C"]:
        parts = [fit(value[..., at : at + _AT_ONCE]) for at in range(0, self.channels, _AT_ONCE)]
        found = np.concatenate([part[..., None] if part.ndim == 2 else part for part in parts], axis=-1)
        # Floats that reach a model are taken as normalised by everything of this house.
        return self._normalised(found) if self.dtype == "float32" else found

    def on_device(self, value: Shaped[Any, "*b h w C"]) -> Float32[Any, "*b h w C"]:
        return value if self.dtype == "float32" else self._normalised(value)

    def _normalised(self, value: Shaped[Any, "*b h w C"]) -> Float32[Any, "*b h w C"]:
        """As `vit_jax.data.preprocess.Preprocess.normalize` does: the same bits from NumPy and from JAX."""
        return (value.astype(np.float32) - np.float32(self.mean)) * (np.float32(1) / np.float32(self.std))

    def to_json(self) -> dict[str, Any]:
        own = {"channels": self.channels, "dtype": self.dtype, "mean": list(self.mean), "std": list(self.std)}
        return {"name": "bands", **own}


def build(
    *,
    data: Context,
    channels: Count,
    dtype: Literal["uint8", "uint16", "float32"] = "uint8",
    mean: float | Sequence[float] | None = None,
    std: Positive | Sequence[Positive] | None = None,
) -> Bands:
    """An image of so many channels: from TIFF, PNG and .npy files or arrays [H, W] and [H, W, C], resized by areas as
    the config's `image_size` and `preprocess` say, whose statistics are not used.

    Args:
        dtype: what the files hold, and with what they travel to the device. Nothing is scaled on the way; float32 also
            takes whole numbers and other floats, and is normalised on the host.
        mean: in the files' own numbers, for each channel or one for all; `vit_jax prepare statistics` counts them. By
            default bytes and 16 bits become -1 to 1 over the whole range of their type, floats stay as they are.
        std: the same for the standard deviation.

    Raises:
        UserError: for values that do not make sense.
    """
    if data.preprocess is None:
        raise UserError("An image field has no size", "Set config.data.image_size to [height, width] in pixels")
    if data.preprocess.interpolation != "area" or data.preprocess.resize == "pad":
        raise UserError(
            "An image of bands is resized by areas and not padded",
            "Leave config.data.preprocess.interpolation out, and set resize to 'squash', 'short_side' or 'cover'",
        )
    usual = _STATISTICS[dtype]
    mean, std = (
        _of_each(name, default if given is None else given, channels)
        for name, given, default in (("mean", mean, usual[0]), ("std", std, usual[1]))
    )
    if not min(std) > 0:
        raise UserError(f"std={std} is not positive", "Give that of each channel in the files' own numbers")
    return Bands(data.preprocess, channels, dtype, mean, std)


def _of_each(name: str, values: Any, channels: int) -> tuple[float, ...]:
    values = values if isinstance(values, Sequence) and not isinstance(values, str) else [values] * channels
    if len(values) != channels or not all(isinstance(v, (int, float)) and np.isfinite(v) for v in values):
        raise UserError(
            f"{name}={values!r} is not a number for each of {channels} channels", "Give as many, or one for all"
        )
    return tuple(float(value) for value in values)
