"""A folder of images: root/split/class/**, or root/class/** with a part held out for testing."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool

from vit_jax.data.decode import read_file
from vit_jax.data.files import from_here, is_remote
from vit_jax.data.image_tree import SUFFIXES, ImageTree, cannot_list, identity, is_image, normalised, visible_folders
from vit_jax.errors import UserError
from vit_jax.ranges import Decay, Natural

# A folder directly under the root with one of these names is a split, if it holds class folders. Those of a line are
# one split under several names; where a line has none, the one in brackets serves: many sets come as train and val.
_SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "holdout"),
}
_INSTEAD = {"test": "val"}


class FolderSource:
    """Encoded images out of a folder tree, read when they are asked for.

    Args:
        root: what the paths are relative to.
        paths: relative paths of the images.
        labels: class index of each.
        label_names: names of the classes.
        remarks: what whoever starts a run may want to know, a sentence each.
        files: further fields, by name the file of each example.
    """

    def __init__(
        self,
        root: str,
        paths: list[str],
        labels: Sequence[int] | np.ndarray,
        label_names: tuple[str, ...],
        remarks: tuple[str, ...] = (),
        files: Mapping[str, list[str]] = MappingProxyType({}),
    ):
        self.root = root
        self._files = dict(files)
        self.field_names = frozenset({"image", "label", *files})
        self.remarks = remarks
        self.paths = paths
        self.labels = np.array(labels, np.int32)
        self.label_names = label_names

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = os.path.join(self.root, self.paths[index])
        found = {name: read_file(files[index]) for name, files in self._files.items()}
        return {**found, "image": read_file(path), "label": int(self.labels[index]), "path": path}


def build(
    root: str,
    split: str,
    holdout: Decay = 0.1,
    seed: Natural = 0,
    beside: Mapping[str, str] | None = None,
    suffixes: Sequence[str] = SUFFIXES,
) -> FolderSource:
    """Finds the images of one split; the classes are the folder names in alphabetical order.

    If root/split/ holds class folders, they are the split, and all splits under the root must have the same classes. A
    split may have another usual name ("validation" for "val"), and "val" serves as "test" where there is none. If the
    class folders are directly under the root, "test" is a part held out by a hash of each path and the seed:
    the same on every machine, unmoved by files that are added later, at least one image of every class that has two or
    more, and never all of them. Files that are hidden or have another suffix than jpg, jpeg, png or webp (upper or
    lower case) are passed over and counted in the source's `remarks`. Symbolic links are followed, but not to what is
    below the root as well, nor to a folder above it.

    Args:
        root: the folder; a relative path starts where the command was started.
        split: a folder name such as "train" or "val"; "train" or "test" where the split is made here.
        holdout: the share that is held out, where the split is made here.
        seed: varies which images are held out.
        beside: further fields, each with a folder that holds a file for every image, under the image's path whatever
            the suffix: with {"segmentation": "masks"} that of root/train/cat/1.jpg is masks/train/cat/1.png.
        suffixes: of the images, in lower case; the field "bands" also reads ".tif", ".tiff" and ".npy".

    Raises:
        UserError: when the root, the split, the classes or the images of a class are missing or cannot be listed, when
            the splits disagree about the classes, when a link leads to another class, to the root or above it, and
            when an image has no file, or several, in a folder of `beside`.
    """
    if isinstance(suffixes, str) or not all(isinstance(s, str) and s.startswith(".") and s.islower() for s in suffixes):
        raise UserError(f"suffixes={suffixes!r} are no endings of files", "Give a list such as ['.tif', '.tiff']")
    source = _of_classes(root, split, holdout, seed, tuple(suffixes))
    for name in beside or {}:
        if name in source.field_names:
            raise UserError(f"beside has {name!r}, which the folder itself gives", "Give it another name")
    files = {
        name: files_beside(source.paths, name, os.path.expanduser(other)) for name, other in (beside or {}).items()
    }
    return FolderSource(source.root, source.paths, source.labels, source.label_names, source.remarks, files)


def files_beside(paths: Sequence[str], name: str, other: str) -> list[str]:
    """The file of each image in another folder: that of its relative path, whatever the suffix.

    Args:
        name: of the field that the files are for, for errors.

    Raises:
        UserError: an image has no file, or several, or there is no such folder.
    """
    if not os.path.isdir(other):
        raise UserError(f"There is no folder {from_here(other)} for {name!r}", "Check the path")
    listed: dict[str, dict[str, list[str]]] = {}
    found, without = [], []
    for path in paths:
        folder, file = os.path.split(path)
        if folder not in listed:
            listed[folder] = {}
            there = os.path.join(other, folder)
            for entry in sorted(os.listdir(there)) if os.path.isdir(there) else ():
                if not entry.startswith("."):
                    listed[folder].setdefault(os.path.splitext(normalised(entry))[0], []).append(entry)
        files = listed[folder].get(os.path.splitext(normalised(file))[0], [])
        if len(files) != 1:
            without.append((path, files))
        else:
            found.append(os.path.join(other, folder, files[0]))
    if without:
        path, files = without[0]
        what = f"{len(files)} files ({', '.join(files[:3])})" if files else "no file"
        raise UserError(
            f"{from_here(other)} has {what} for {path}, the first of {len(without)} such images",
            f"Give {name!r} one file for each image, of the image's name",
        )
    return found


def _of_classes(root: str, split: str, holdout: float, seed: int, suffixes: tuple[str, ...]) -> FolderSource:
    if not 0 < holdout < 1:
        raise UserError(f"holdout={holdout} is not a share", "Give a number between 0 and 1, such as 0.1")
    root = os.path.expanduser(root)
    if is_remote(root):
        raise UserError(
            f"The folder {root} is in a bucket, where finding its images takes too long",
            "Mount the bucket, or use a manifest of its images, or `vit_jax prepare`",
        )
    if not os.path.isdir(root):
        raise UserError(
            f"There is no folder {from_here(root)}", "Check the path; it should hold train/CLASS/ or CLASS/ folders"
        )
    folders = visible_folders(root)
    usual = {name for names in _SPLIT_NAMES.values() for name in names}
    splits = [name for name in folders if (name in usual or name == split) and _is_split(f"{root}/{name}", suffixes)]
    chosen = _chosen(split, splits)
    if chosen is not None:
        remarks = () if chosen == split else (f"{root} has no {split!r}: its {chosen!r} is taken",)
        return of_split(root, chosen, splits, remarks, suffixes)
    if splits:
        raise UserError(
            f"{root} has no split {split!r}: its splits are {', '.join(splits)}",
            "Name one of them, or put the class folders directly under the root to have a part held out",
        )
    if not folders:
        raise UserError(f"{root} has no class folders", "Put the images of each class into a folder of its own")
    if split not in ("train", "test"):
        raise UserError(f"{root} has class folders but no folder {split!r}", "Use 'train' or 'test', split by a hash")
    return _held_out(root, split, folders, holdout, seed, suffixes)


def _chosen(split: str, splits: list[str]) -> str | None:
    """The folder that is meant by a split: itself, or the only one of another usual name."""
    if split in splits:
        return split
    for kind, names in _SPLIT_NAMES.items():
        if split in names:
            for alike in (names, _SPLIT_NAMES.get(_INSTEAD.get(kind, ""), ())):
                found = [name for name in splits if name in alike]
                if len(found) == 1:
                    return found[0]
    return None


def of_split(
    root: str,
    split: str,
    splits: Sequence[str] = (),
    remarks: tuple[str, ...] = (),
    suffixes: tuple[str, ...] = SUFFIXES,
) -> FolderSource:
    """The images of the class folders in root/split.

    Args:
        splits: folders under the root that must have the same classes.
        remarks: to begin the source's with.
        suffixes: of the images.

    Raises:
        UserError: see `build`.
    """
    folders = visible_folders(f"{root}/{split}")
    names = _class_names(f"{root}/{split}", folders)
    for other in splits:
        others = {_class_name(folder) for folder in visible_folders(f"{root}/{other}")}
        for only_in, lacking, missing in (
            (split, other, set(names) - others),
            (other, split, others - set(names)),
        ):
            if missing:
                raise UserError(
                    f"Class {min(missing)!r} is in {root}/{only_in} but not in {root}/{lacking}",
                    "Give both splits the same class folders",
                )
        _refuse_shared(root, split, folders, other)
    tree = ImageTree(root, suffixes)
    found = [_images(tree, f"{split}/{folder}") for folder in folders]
    paths = [path for images in found for path in images]
    labels = [label for label, images in enumerate(found) for _ in images]
    return FolderSource(root, paths, labels, names, (*remarks, *_remarks(tree, found)))


def _refuse_shared(root: str, split: str, folders: list[str], other: str) -> None:
    """No class folder of one split is, by a link, one of another."""
    if other == split:
        return
    ours = {identity(f"{root}/{split}/{folder}"): folder for folder in folders}
    for folder in visible_folders(f"{root}/{other}"):
        if same := ours.get(identity(f"{root}/{other}/{folder}")):
            raise UserError(
                f"{root}/{split}/{same} and {root}/{other}/{folder} are the same folder",
                "Remove one: what a split is measured on must not be in the other",
            )


def _held_out(
    root: str, split: str, folders: list[str], holdout: float, seed: int, suffixes: tuple[str, ...]
) -> FolderSource:
    names = _class_names(root, folders)
    tree, paths, labels = ImageTree(root, suffixes), [], []
    found = [_images(tree, folder) for folder in folders]
    # A file that is there several times by links goes to one side, wherever it is.
    one = {path: group[0] for group in tree.twins() for path in group}
    for label, images in enumerate(found):
        is_test = held_out([one.get(path, path) for path in images], holdout, seed)
        chosen = [path for path, test in zip(images, is_test, strict=True) if test == (split == "test")]
        paths += chosen
        labels += [label] * len(chosen)
    if not paths:
        raise UserError(f"{root} has one image per class, so that none is held out", "Add images")
    return FolderSource(root, paths, labels, names, tuple(_remarks(tree, found)))


def held_out(paths: Sequence[str], holdout: float, seed: int) -> Bool[np.ndarray, " n"]:
    """Which of some images are kept for testing: by a hash of each path, at least one and never all."""
    shares = np.array([_hash_share(path, seed) for path in paths])
    return ((shares < holdout) | (shares == shares.min())) & (shares != shares.max())


def _hash_share(path: str, seed: int) -> float:
    """A number in [0, 1) that looks random, from the path and the seed."""
    digest = hashlib.blake2b(os.fsencode(f"{seed}/{normalised(path)}"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _class_name(folder: str) -> str:
    """The name of a class: that of its folder without the blanks around it, which nobody sees."""
    return normalised(folder).strip()


def _class_names(path: str, folders: list[str]) -> tuple[str, ...]:
    names = tuple(map(_class_name, folders))
    for folder, name in zip(folders, names, strict=True):
        if not name or names.count(name) > 1:
            alike = [other for other in folders if _class_name(other) == name]
            raise UserError(
                f"The class folders {alike} of {path} are called alike" if name else f"{path} has a folder {folder!r}",
                "Rename or join them" if name else "Rename it",
            )
    return names


def _is_split(path: str, suffixes: tuple[str, ...] = SUFFIXES) -> bool:
    """Whether a folder holds class folders rather than images, as opposed to a class that is called 'train'."""
    try:
        with os.scandir(path) as entries:
            has_images = any(is_image(entry, suffixes) for entry in entries)
    except OSError as error:
        raise cannot_list(path, error) from error
    return not has_images and bool(visible_folders(path))


def _images(tree: ImageTree, folder: str) -> list[str]:
    """Paths of all images below one class folder; at least one."""
    before = tree.passed_over()
    images = tree.images(folder)
    if not images:
        others = tree.passed_over()
        but = f" but {others}" if others != before and not before else ""
        raise UserError(
            f"The class folder {tree.root}/{folder} has no images{but}",
            f"Add or convert some ({', '.join(tree.suffixes)}), or remove the folder",
        )
    return images


def _remarks(tree: ImageTree, found: list[list[str]]) -> Iterator[str]:
    if others := tree.passed_over():
        yield f"{others} in {tree.root} passed over: {', '.join(tree.suffixes)} are read"
    twins = tree.twins()
    labels = {path: label for label, images in enumerate(found) for path in images} if twins else {}
    several: list[tuple[str, str]] = []
    twice: list[tuple[str, str]] = []
    for first, *others in twins:
        other = next((path for path in others if labels[path] != labels[first]), None)
        (twice if other is None else several).append((first, other or others[0]))
    for what, pairs in (("are in several classes", several), ("are there twice", twice)):
        if pairs:
            yield f"{len(pairs)} files in {tree.root} {what} by links, first {pairs[0][0]} and {pairs[0][1]}"
