"""IDX files, the format of MNIST; by default Fashion-MNIST as Debian's package dataset-fashion-mnist installs it."""

import gzip
import os
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from vit_jax.data.sources.arrays import ArraySource
from vit_jax.errors import UserError

FASHION_MNIST = "/usr/share/datasets/fashion-mnist"
# Xiao et al., "Fashion-MNIST" (arXiv:1708.07747), table 2.
_FASHION_LABELS = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_PREFIXES = {"train": "train", "test": "t10k"}


def build(
    split: str, root: str = FASHION_MNIST, label_names: Sequence[str] | None = None, examples: int | None = None
) -> ArraySource:
    """Reads `{train,t10k}-images-idx3-ubyte` and `{train,t10k}-labels-idx1-ubyte`, each as it is or with `.gz`.

    Args:
        split: "train" or "test".
        root: the folder.
        label_names: names of the classes. By default those of Fashion-MNIST for its own folder, numbers for another.
        examples: only the first so many, for experiments with few labels. MNIST's files are in random order.

    Raises:
        UserError: when a file is missing, damaged or of another kind, when images and labels do not match, or when
            there are fewer than `examples`.
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
    if examples is not None and not 1 <= examples <= len(images):
        raise UserError(f"{root} has {len(images)} examples of {split!r}, not {examples}", "Ask for 1 to all of them")
    images, labels = images[:examples], labels[:examples]
    return ArraySource(np.repeat(images[..., None], 3, axis=-1), labels, label_names)


def _read(root: str, name: str, rank: int) -> UInt8[np.ndarray, "*shape"]:
    path = os.path.join(root, name)
    packed = not os.path.exists(path)
    path += ".gz" if packed else ""
    if not os.path.exists(path):
        how = "Install it: apt-get install dataset-fashion-mnist" if root == FASHION_MNIST else "Check the folder"
        raise UserError(f"There is no file {path.removesuffix('.gz')}, with or without .gz", how)
    try:
        with gzip.open(path) if packed else open(path, "rb") as file:
            data = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} could not be read: {error}", "Fetch it again") from error
    # Two zeros, the type (8 is uint8), the number of dimensions, and each as a big-endian int32.
    if data[:4] != bytes((0, 0, 8, rank)) or len(data) < 4 + 4 * rank:
        raise UserError(f"{path} is not an IDX file of bytes in {rank} dimension{'s' * (rank > 1)}", "Check the folder")
    shape = [int(size) for size in np.frombuffer(data, ">u4", rank, 4)]
    wanted, found = int(np.prod(shape, dtype=object)), len(data) - 4 - 4 * rank
    if found != wanted:
        raise UserError(f"{path} is cut short or damaged: {found} bytes of {wanted}", "Fetch it again")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)
