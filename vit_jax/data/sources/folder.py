"""A folder of images: root/split/class/**, or root/class/** with a part held out for testing."""

import hashlib
import os
import unicodedata
from collections.abc import Iterator
from typing import Any

import numpy as np

from vit_jax.data.decode import read_file
from vit_jax.data.files import is_remote
from vit_jax.errors import UserError
from vit_jax.ranges import Decay, Natural

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# A folder directly under the root with one of these names is a split, if it holds class folders.
_SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "dev", "eval", "test", "testing", "holdout"}


class FolderSource:
    """Encoded images out of a folder tree, read when they are asked for.

    Args:
        root: what the paths are relative to.
        paths: relative paths of the images.
        labels: class index of each.
        label_names: names of the classes.
    """

    def __init__(self, root: str, paths: list[str], labels: list[int], label_names: tuple[str, ...]):
        self.root = root
        self.paths = paths
        self.labels = np.array(labels, np.int32)
        self.label_names = label_names

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = os.path.join(self.root, self.paths[index])
        return {"image": read_file(path), "label": int(self.labels[index]), "path": path}


def build(root: str, split: str, holdout: Decay = 0.1, seed: Natural = 0) -> FolderSource:
    """Finds the images of one split; the classes are the folder names in alphabetical order.

    If root/split/ holds class folders, they are the split, and all splits under the root must have the same classes.
    If the class folders are directly under the root, "test" is a part held out by a hash of each path and the seed:
    the same on every machine, unmoved by files that are added later, at least one image of every class that has two or
    more, and never all of them. Files that are hidden or have another suffix than jpg, jpeg, png or webp (in any case)
    are passed over; symbolic links are followed.

    Args:
        root: the folder.
        split: a folder name such as "train" or "val"; "train" or "test" where the split is made here.
        holdout: the share that is held out, where the split is made here.
        seed: varies which images are held out, likewise.

    Raises:
        UserError: when the root, the split, the classes or the images of a class are missing, or when the splits
            disagree about the classes.
    """
    if not 0 < holdout < 1:
        raise UserError(f"holdout={holdout} is not a share", "Give a number between 0 and 1, such as 0.1")
    root = os.path.expanduser(root)
    if is_remote(root):
        raise UserError(
            f"The folder {root} is in a bucket, where finding its images takes too long",
            "Mount the bucket, or use a manifest of its images, or `vit_jax prepare`",
        )
    if not os.path.isdir(root):
        raise UserError(f"There is no folder {root}", "Check the path; it should hold train/CLASS/ or CLASS/ folders")
    folders = _folders(root)
    splits = [name for name in folders if (name in _SPLIT_NAMES or name == split) and _is_split(f"{root}/{name}")]
    if split in splits:
        return _prepared(root, split, splits)
    if splits:
        raise UserError(
            f"{root} has no split {split!r}: its splits are {', '.join(splits)}",
            "Name one of them, or put the class folders directly under the root to have a part held out",
        )
    if not folders:
        raise UserError(f"{root} has no class folders", "Put the images of each class into a folder of its own")
    if split not in ("train", "test"):
        raise UserError(f"{root} has class folders but no folder {split!r}", "Use 'train' or 'test', split by a hash")
    return _held_out(root, split, folders, holdout, seed)


def _prepared(root: str, split: str, splits: list[str]) -> FolderSource:
    folders = _folders(f"{root}/{split}")
    classes = {_name(folder) for folder in folders}
    for other in splits:
        others = {_name(folder) for folder in _folders(f"{root}/{other}")}
        for only_in, lacking, names in ((split, other, classes - others), (other, split, others - classes)):
            if names:
                raise UserError(
                    f"Class {min(names)!r} is in {root}/{only_in} but not in {root}/{lacking}",
                    "Give both splits the same class folders",
                )
    paths, labels = [], []
    for label, folder in enumerate(folders):
        images = _images(root, f"{split}/{folder}")
        paths += images
        labels += [label] * len(images)
    return FolderSource(root, paths, labels, tuple(_name(folder) for folder in folders))


def _held_out(root: str, split: str, folders: list[str], holdout: float, seed: int) -> FolderSource:
    paths, labels = [], []
    for label, folder in enumerate(folders):
        images = _images(root, folder)
        shares = np.array([_hash_share(path, seed) for path in images])
        is_test = shares < holdout
        if len(images) > 1:
            is_test[shares.argmin()] = True
            is_test[shares.argmax()] = False
        else:
            is_test[:] = False
        chosen = [path for path, test in zip(images, is_test, strict=True) if test == (split == "test")]
        paths += chosen
        labels += [label] * len(chosen)
    if not paths:
        raise UserError(f"{root} has one image per class, so that none is held out", "Add images")
    return FolderSource(root, paths, labels, tuple(_name(folder) for folder in folders))


def _hash_share(path: str, seed: int) -> float:
    """A number in [0, 1) that looks random, from the path and the seed."""
    digest = hashlib.blake2b(os.fsencode(f"{seed}/{_name(path)}"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _name(path: str) -> str:
    """One spelling for accents: file systems differ in how they store them."""
    return unicodedata.normalize("NFC", path)


def _folders(path: str) -> list[str]:
    """Names of the visible folders in a folder, in the order of their normalised names."""
    with os.scandir(path) as entries:
        return sorted((entry.name for entry in entries if _visible_folder(entry)), key=_name)


def _visible_folder(entry: os.DirEntry) -> bool:
    return not entry.name.startswith(".") and os.path.isdir(entry.path)  # entry.is_dir() raises on a link to itself


def _is_image(entry: os.DirEntry) -> bool:
    # A dangling link counts, to be reported as unreadable rather than silently left out; a pipe or socket does not.
    named = not entry.name.startswith(".") and entry.name.lower().endswith(SUFFIXES)
    return named and (os.path.isfile(entry.path) or not os.path.exists(entry.path))


def _is_split(path: str) -> bool:
    """Whether a folder holds class folders rather than images, as opposed to a class that is called 'train'."""
    with os.scandir(path) as entries:
        return not any(_is_image(entry) for entry in entries) and bool(_folders(path))


def _images(root: str, folder: str) -> list[str]:
    """Sorted paths, relative to the root, of all images below one class folder; at least one."""
    images = sorted(_walk(root, folder, set()), key=_name)
    if not images:
        raise UserError(
            f"The class folder {root}/{folder} has no images", f"Add some ({', '.join(SUFFIXES)}) or remove the folder"
        )
    return images


def _walk(root: str, folder: str, seen: set[tuple[int, int]]) -> Iterator[str]:
    status = os.stat(f"{root}/{folder}")
    # Links may lead in a circle: no folder is entered twice.
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    with os.scandir(f"{root}/{folder}") as entries:
        for entry in sorted(entries, key=lambda entry: _name(entry.name)):
            if _visible_folder(entry):
                yield from _walk(root, f"{folder}/{entry.name}", seen)
            elif _is_image(entry):
                yield f"{folder}/{entry.name}"
