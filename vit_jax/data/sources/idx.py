"""IDX files, the format of MNIST; by default Fashion-MNIST as Debian's package dataset-fashion-mnist installs it."""

import gzip
import io
import math
import os
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt8

from vit_jax.data.files import from_here, read_bytes
from vit_jax.data.geometry import size_pair
from vit_jax.data.seeds import derived_seed
from vit_jax.data.sources.arrays import ArraySource
from vit_jax.errors import UserError
from vit_jax.ranges import Count, Natural

FASHION_MNIST = "/usr/share/datasets/fashion-mnist"
# Xiao et al., "Fashion-MNIST" (arXiv:1708.07747), table 2.
_FASHION_LABELS = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_MOST_RATIO = 1_100  # gzip makes nothing more than 1,032 times smaller
_PREFIXES = {"train": "train", "test": "t10k"}


def build(
    split: str,
    root: str = FASHION_MNIST,
    label_names: Sequence[str] | None = None,
    examples: Count | None = None,
    skip: Natural = 0,
    canvas: int | Sequence[int] | None = None,
    seed: Natural = 0,
) -> ArraySource:
    """Reads `{train,t10k}-images-idx3-ubyte` and `{train,t10k}-labels-idx1-ubyte`, each as it is or with `.gz`.

    Args:
        split: "train" or "test".
        root: the folder.
        label_names: names of the classes. By default those of Fashion-MNIST for its own folder, numbers for another.
        examples: only the first so many, for experiments with few labels. MNIST's files are in random order.
        skip: leave out the first so many, for a part that is held out.
        canvas: (height, width) of a black canvas on which each image lies at a random place, or one number for a
            square; None for the images as they are. Centred images are easy: there raw pixels are good features.
        seed: of the places. Where an image lies depends on the seed, the split and the image's number in the file.

    Raises:
        UserError: when a file is missing, damaged or of another kind, when images and labels do not match, when
            there are fewer than `skip + examples`, or when the canvas is too small.
    """
    if split not in _PREFIXES:
        raise UserError(f"IDX files have no split {split!r}", "Use 'train' or 'test'")
    root = os.path.expanduser(root)
    images = _read(root, f"{_PREFIXES[split]}-images-idx3-ubyte", 3)
    labels = _read(root, f"{_PREFIXES[split]}-labels-idx1-ubyte", 1).astype(np.int32)
    if len(images) != len(labels):
        raise UserError(f"{root} has {len(images)} images and {len(labels)} labels for {split!r}", "Fetch it again")
    if label_names is None:
        numbers = [str(label) for label in range(int(labels.max(initial=-1)) + 1)]
        label_names = _FASHION_LABELS if os.path.realpath(root) == os.path.realpath(FASHION_MNIST) else numbers
    if not 0 <= skip < len(images):
        raise UserError(f"{root} has {len(images)} examples of {split!r}, and skip={skip}", "Leave some of them")
    left = len(images) - skip
    if examples is not None and not 1 <= examples <= left:
        rest = f" after the first {skip}" if skip else ""
        raise UserError(
            f"{root} has {left} examples of {split!r}{rest}, not {examples}", "Ask for 1 to all of them"
        )  # fmt: skip
    if canvas is not None:
        images = _on_canvas(images, size_pair(canvas), derived_seed(seed, sorted(_PREFIXES).index(split)))
    part = slice(skip, None if examples is None else skip + examples)
    return ArraySource(np.repeat(images[part, ..., None], 3, axis=-1), labels[part], label_names)


def _on_canvas(
    images: UInt8[np.ndarray, "n h w"], size: tuple[int, int], seed: int
) -> UInt8[np.ndarray, "n height width"]:
    """Each image at a place of its own, uniform among those that show the whole of it."""
    n, *shape = images.shape
    free = np.array(size) - shape
    if free.min() < 0:
        raise UserError(f"Images of {shape[0]}x{shape[1]} do not fit canvas={list(size)}", "Make it at least as large")
    # Two words an image, so that how many images there are does not matter; raw words stay the same in all versions.
    places: Int[np.ndarray, "n 2"] = np.random.Philox(seed).random_raw((n, 2)) % (free + 1).astype(np.uint64)
    made = np.zeros((n, *size), np.uint8)
    for canvas, image, (top, left) in zip(made, images, places.astype(int), strict=True):
        canvas[top : top + shape[0], left : left + shape[1]] = image
    return made


def _read(root: str, name: str, rank: int) -> UInt8[np.ndarray, "*shape"]:
    path = os.path.join(root, name)
    packed = not os.path.exists(path)
    path += ".gz" if packed else ""
    if not os.path.exists(path):
        how = "Install it: apt-get install dataset-fashion-mnist" if root == FASHION_MNIST else "Check the folder"
        raise UserError(f"There is no file {from_here(path.removesuffix('.gz'))}, with or without .gz", how)
    try:
        data = read_bytes(path)
        file = gzip.GzipFile(fileobj=io.BytesIO(data)) if packed else io.BytesIO(data)
        head = file.read(4 + 4 * rank)
        # Two zeros, the type (8 is uint8), the number of dimensions, and each as a big-endian int32.
        if head[:4] != bytes((0, 0, 8, rank)) or len(head) < 4 + 4 * rank:
            kind = f"an IDX file of bytes in {rank} dimension{'s' * (rank > 1)}"
            raise UserError(f"{path} is not {kind}", "Check the folder")
        shape = [int(size) for size in np.frombuffer(head, ">u4", rank, 4)]
        wanted = math.prod(shape)
        if wanted > (_MOST_RATIO if packed else 1) * len(data):
            raise UserError(f"{path} claims {wanted} bytes, more than it can hold", "Fetch it again")
        body = file.read(wanted)
        more = len(file.read(1))
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} could not be read: {reason}", "Fetch it again") from error
    if len(body) != wanted or more:
        raise UserError(f"{path} is cut short or damaged: {len(body) + more} bytes of {wanted}", "Fetch it again")
    return np.frombuffer(body, np.uint8).reshape(shape)
