"""Pictures that a sample is to go by, as files and arrays: an image to begin with, a mask of what is to be new in it,
how far away things are, and what its edges are to follow. The one place that reads, resizes and checks them.

All lie on each other: they are cut and resized as evaluation does it with the image.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, Shaped

from vit_jax.data.decode import decode, read_file
from vit_jax.data.edges import edges
from vit_jax.data.label_image import decode_labels
from vit_jax.data.pixels import as_rgb
from vit_jax.data.preprocess import Preprocess
from vit_jax.errors import UserError
from vit_jax.tasks import Picture, Task

Pictures = Mapping[str, Float32[np.ndarray, "P H W C"]]

_EDGES = "edges:"
_PNG = b"\x89PNG"


def read_pictures(
    task: Task,
    settings: Any,
    given: Mapping[str, Any],
    preprocess: Preprocess | None = None,
    say: Callable[[str], None] = lambda remark: None,
) -> dict[str, Float32[np.ndarray, "P H W C"]]:
    """Pictures as `task.sample` takes them.

    Args:
        settings: of the samples.
        given: by name. One as a path, bytes or an array of an image; controls as a sequence of these, of which
            "edges:PATH" are the edges of a photo. Or float [P, H, W, C] of what is prepared, which stays as it is.
        preprocess: how the model sees images.
        say: takes a line for whoever asked, such as that a mask was resized.

    Raises:
        UserError: for what cannot be read, and see `check_pictures`.
    """
    known = task.pictures(settings)
    _check_names(task, known, given)
    found = {name: np.asarray(each, np.float32) for name, each in given.items() if _is_prepared(each)}
    rest = {name: each for name, each in given.items() if name not in found}
    raw = {name: _raw(known[name], each) for name, each in rest.items()}
    plane = raw["image"][0][0].shape[:2] if "image" in raw else None
    for name, layers in raw.items():
        placed = [_placed(known[name], *layer, plane, preprocess, name, say) for layer in layers]
        found[name] = np.concatenate(placed, axis=-1)[None]
    check_pictures(task, settings, found)
    return found


def check_pictures(task: Task, settings: Any, given: Pictures) -> None:
    """
    Args:
        given: prepared ones.

    Raises:
        UserError: for one that the task does not take or of another shape, one that it needs and is missing, a mask
            without an image or of one value only, a depth that is the same everywhere, or a value that is no number.
    """
    known = task.pictures(settings)
    _check_names(task, known, given)
    for name, picture in known.items():
        if picture.needed and name not in given:
            raise UserError(f"The task '{_name(task)}' draws nothing without {_a(name)}", "Give one")
    for name, arrays in given.items():
        shape = known[name].shape
        if arrays.shape[1:] != shape or not len(arrays):
            if known[name].kind == "control" and arrays.shape[1:-1] == shape[:-1]:
                raise UserError(
                    f"There are {arrays.shape[-1] // 3} controls, and the model has {shape[-1] // 3}",
                    "Give one for each, in their order",
                )
            wanted = f"{list(shape)}, one or more of them"
            raise UserError(f"The {name} is {list(arrays.shape)}", f"Give {wanted}")
        if not np.isfinite(arrays).all():
            raise UserError(f"The {name} has values that are no numbers", "Leave them out")
        flat = arrays.reshape(len(arrays), -1)
        same = flat.min(axis=1) == flat.max(axis=1)
        if same.any() and known[name].kind == "mask":
            raise UserError(
                f"The {name} has one value only, {flat[same.argmax(), 0]:g}",
                "Make it white where the image is to be new, and black where it stays",
            )
        if same.any() and known[name].kind == "depth":
            raise UserError(f"The {name} is the same everywhere", "Give one of more than one distance")
    if "image" not in given and any(known[name].kind == "mask" for name in given):
        raise UserError("There is a mask, and no image that it lies on", "Give the image too")


def pasted(
    drawn: Float32[np.ndarray, "B H W 3"], conditions: Mapping[str, Shaped[np.ndarray, "B ..."]]
) -> Float32[np.ndarray, "B H W 3"]:
    """Samples in 0..1 with the image's own pixels, to the bit, where the mask leaves it as it is."""
    if "mask" not in conditions:
        return drawn
    return np.where(conditions["mask"] > 0.5, drawn, conditions["image"] * 0.5 + 0.5)


def digests(given: Pictures) -> dict[str, str]:
    """By which pictures are known again."""
    return {name: hashlib.sha256(np.ascontiguousarray(each)).hexdigest()[:16] for name, each in given.items()}


def _check_names(task: Task, known: Mapping[str, Picture], given: Mapping[str, Any]) -> None:
    for name in given:
        if name not in known:
            takes = f"takes {' and '.join(map(_a, known))}" if known else "goes by no pictures"
            raise UserError(f"The task '{_name(task)}' takes no {name}", f"Leave it out: it {takes}")


def _name(task: Task) -> str:
    return type(task).__module__.rpartition(".")[2]


def _a(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _is_prepared(given: Any) -> bool:
    return getattr(given, "ndim", 0) == 4 and np.issubdtype(given.dtype, np.floating)


def _raw(picture: Picture, given: Any) -> list[tuple[Shaped[np.ndarray, "h w *c"], bool]]:
    """What is given, decoded; one or more layers, whose sizes are their own, and whether their edges are meant."""
    if picture.kind != "control":
        return [(_decoded(picture.kind, given), False)]
    many = isinstance(given, Sequence) and not isinstance(given, (bytes, str))
    found = []
    for each in given if many else [given]:
        of_edges = isinstance(each, str) and each.startswith(_EDGES)
        found.append((_decoded("control", each.removeprefix(_EDGES) if of_edges else each), of_edges))
    return found


def _decoded(kind: str, given: Any) -> Shaped[np.ndarray, "h w *c"]:
    if kind == "depth":
        return _distances(given)
    pixels = decode(given) if isinstance(given, (bytes, str, os.PathLike)) else as_rgb(given)
    # As diffusers binarises what people draw: from the middle on it is white.
    return (pixels.mean(axis=-1) >= 127.5).astype(np.uint8) if kind == "mask" else pixels


def _distances(given: Any) -> Float32[np.ndarray, "h w"]:
    """Of a grey PNG of 8 or 16 bits, an image in grey, an .npy file, or an array [h, w]."""
    if isinstance(given, (str, os.PathLike)) and str(given).endswith(".npy"):
        try:
            given = np.load(Path(given), allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{given} cannot be read as an array", "Give an .npy file of numbers, or a PNG") from error
    elif isinstance(given, (str, bytes, os.PathLike)):
        data = given if isinstance(given, bytes) else read_file(given)
        grey = data[:4] == _PNG and data[25:26] == b"\0"
        given = decode_labels(data, str(given)[:200]) if grey else decode(data, str(given)[:200]).mean(axis=-1)
    values = np.asarray(given)
    values = values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values
    if values.ndim != 2 or values.dtype.kind not in "uif" or not values.size:
        raise UserError(f"The depth is {values.dtype} {list(values.shape)}", "Give one number for each pixel, [H, W]")
    return values.astype(np.float32)


def _placed(
    picture: Picture,
    layer: Shaped[np.ndarray, "h w *c"],
    of_edges: bool,
    plane: tuple[int, int] | None,
    preprocess: Preprocess | None,
    name: str,
    say: Callable[[str], None],
) -> Float32[np.ndarray, "H W C"]:
    """A layer where evaluation puts the image, whose size is `plane`, or of no image where it would put the layer."""
    if plane is not None and layer.shape[:2] != plane:
        height, width = layer.shape[:2]
        say(f"the {name} is {width}x{height}, and is resized to the image's {plane[1]}x{plane[0]}")
        method = cv2.INTER_NEAREST if picture.kind in ("mask", "control") else cv2.INTER_LINEAR
        layer = cv2.resize(layer, plane[::-1], interpolation=method)
    preprocess = Preprocess(picture.size) if preprocess is None else preprocess
    preprocess = preprocess if preprocess.image_size == picture.size else preprocess.resized(picture.size)
    if picture.kind == "image":
        return Preprocess(picture.size).normalize(preprocess.to_uint8(layer))
    if picture.kind == "control":
        pixels = preprocess.to_uint8(layer)
        # Of the view, as they would be found in a sample: a smaller picture of fine edges has none.
        return (edges(pixels) if of_edges else pixels).astype(np.float32) / np.float32(255)
    # Beside a photo that does not fill its view nothing is new, and all is as far away as what is farthest.
    return preprocess.placement(layer.shape[:2]).dense(layer, layer.min())[..., None].astype(np.float32)
