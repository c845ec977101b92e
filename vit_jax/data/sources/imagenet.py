"""ImageNet as people keep it: folders of synsets, the tar files that it comes in, or all of validation in one folder.

And the sets that are measured beside it: ReaL's labels, V2, A, R, Sketch, and each corruption of C.
"""

import json
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from vit_jax.data.decode import read_file
from vit_jax.data.files import from_here, read_bytes
from vit_jax.data.imagenet_devkit import validation_synsets
from vit_jax.data.label_names import label_names, synsets
from vit_jax.data.sources import folder
from vit_jax.data.tar_index import Member, members, members_within, read_image
from vit_jax.errors import UserError, shortened

_SPACE = "imagenet1k"
_KAGGLE = "ILSVRC/Data/CLS-LOC"
_NUMBERED = re.compile(r"(?:.*/)?ILSVRC2012_val_(\d{8})\.JPEG")
_MOST_REAL = 2**26  # bytes of ReaL's labels


class ImageNetSource:
    """Encoded images of ImageNet's thousand classes, read when they are asked for.

    Args:
        base: the folder that the images are in; or, with `places`, the archive.
        names: of each image its path there.
        places: of each image its offset and size in the archive.
        label_names: of the classes, in ImageNet's order.
        labels: class index of each.
        real: with ReaL's labels in their place, of each image those that are right, perhaps none.
        remarks: what whoever starts a run may want to know, a sentence each.
    """

    field_names = frozenset({"image", "label"})

    def __init__(
        self,
        base: str,
        names: Sequence[str],
        places: Int64[np.ndarray, "n 2"] | None,
        label_names: Sequence[str],
        labels: Sequence[int],
        real: Sequence[Sequence[int]] | None = None,
        remarks: Sequence[str] = (),
    ):
        self._base, self._names, self._places = base, list(names), places
        self.label_names, self.remarks = tuple(label_names), tuple(remarks)
        self.labels = np.array(labels, np.int32) if real is None else [tuple(row) for row in real]
        self._multi_hot = real is not None

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        base, name = self._base, self._names[index]
        if self._places is None:
            where = os.path.join(base, name)
            image = read_file(where)
        else:
            image, where = read_image(base, Member(name, *self._places[index].tolist()))
        if not self._multi_hot:
            return {"image": image, "label": int(self.labels[index]), "path": where}
        label = np.zeros(len(self.label_names), np.float32)
        label[list(self.labels[index])] = 1
        return {"image": image, "label": label, "path": where}


def build(root: str, split: str, real: str | None = None) -> ImageNetSource:
    """Finds the images of a split under `root`, in the first of these forms that is there:

    - folders of synsets: root/train/n01440764/*.JPEG, root/val/n01440764/*.JPEG; also below root/ILSVRC/Data/CLS-LOC;
    - ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar as they come: nothing is unpacked, and their headers, 1.28
      million of training, are read whenever the source is built;
    - all of validation in root/val, without folders.

    What each image of validation is, where folders do not say it, is read from ILSVRC2012_devkit_t12 (the folder, or
    its .tar.gz) or Kaggle's LOC_val_solution.csv under the root.

    ImageNet-A, -R, -Sketch, V2 and a corruption of C at one severity are folders of synsets, or of numbers from 0 to
    999, themselves: `split="all"` reads root/n01440764/*, and the classes are those that are there.

    Args:
        root: the folder; a relative path starts where the command was started.
        split: "train", "val", or "all".
        real: the file `real.json` of ReaL's labels (Beyer et al., "Are we done with ImageNet?", arXiv:2006.07159), a
            list of the right classes for each validation image in their order. The label is then multi-hot [1000], and
            the evaluator `multilabel` measures it: its `accuracy` is ReaL's, which leaves out images without a right
            class.

    Raises:
        UserError: when the images, or what they are, cannot be found; for an archive that is cut short; and for folders
            that are no classes of ImageNet's thousand.
    """
    root = os.path.expanduser(root)
    if split not in ("train", "val", "all"):
        raise UserError(
            f"ImageNet has no split {split!r}", "Use 'train' or 'val', or 'all' for folders of synsets alone"
        )
    if not os.path.isdir(root):
        raise UserError(f"There is no folder {from_here(root)}", "Check the path")
    base, names, places, of, remarks = _found(root, split)
    classes, labels = _classes(root, of)
    if real is None:
        return ImageNetSource(base, names, places, [label_names(_SPACE)[k] for k in classes], labels, None, remarks)
    rows = _real(os.path.expanduser(real), names)
    return ImageNetSource(base, names, places, label_names(_SPACE), labels, rows, remarks)


_Found = tuple[str, list[str], Int64[np.ndarray, "n 2"] | None, list[str], tuple[str, ...]]


def _found(root: str, split: str) -> _Found:
    """What an `ImageNetSource` takes: base, names, places; then the class folder of each image, and remarks."""
    if split == "all":
        parent, name = os.path.split(os.path.abspath(root))
        return _in_folders(folder.of_split(parent, name))
    for base in (root, os.path.join(root, _KAGGLE)):
        images = os.path.join(base, split)
        if os.path.isdir(images):
            flat = split == "val" and any(map(_NUMBERED.fullmatch, os.listdir(images)))
            if not flat:
                return _in_folders(folder.of_split(base, split))
            files = sorted(name for name in os.listdir(images) if _NUMBERED.fullmatch(name))
            return images, files, None, _of_validation(root, files), ()
    archive = os.path.join(root, f"ILSVRC2012_img_{split}.tar")
    if not os.path.isfile(archive):
        raise UserError(
            f"{from_here(root)} holds neither {split}/ nor ILSVRC2012_img_{split}.tar",
            "Name the folder that one of them is in, or use split='all' for folders of synsets themselves",
        )
    return _in_archive(root, archive, split)


def _in_folders(source: folder.FolderSource) -> _Found:
    names = [source.label_names[label] for label in source.labels]
    return source.root, source.paths, None, names, source.remarks


def _in_archive(root: str, archive: str, split: str) -> _Found:
    """Images of a tar file: of validation as they are, of training each synset in an archive of its own."""
    found, whole = members(archive)
    _check_whole(archive, whole)
    names: list[str] = []
    if split == "train":
        inner, found = found, []
        for member in inner:
            synset = os.path.splitext(os.path.basename(member.name))[0]
            images, whole = members_within(archive, member)
            _check_whole(f"{archive}, member {member.name},", whole)
            found += images
            names += [synset] * len(images)
    else:
        found = sorted((member for member in found if _NUMBERED.fullmatch(member.name)), key=lambda member: member.name)
        names = _of_validation(root, [member.name for member in found])
    if not found:
        raise UserError(f"{archive} holds no images", "Fetch it again")
    places = np.array([(member.offset, member.size) for member in found], np.int64)
    return archive, [member.name for member in found], places, names, ()


def _check_whole(archive: str, whole: bool) -> None:
    if not whole:
        raise UserError(f"{archive} is cut short or damaged", "Fetch it again: a part of it is not ImageNet")


def _of_validation(root: str, names: Sequence[str]) -> list[str]:
    """The synset of each validation image."""
    known = validation_synsets(root)
    for name in names:
        if _number(name) not in known:
            raise UserError(f"Nothing says of which class {name} is", "Check that the devkit is that of ILSVRC2012")
    return [known[_number(name)] for name in names]


def _number(name: str) -> int:
    """Of a validation image, from 1."""
    return int(_NUMBERED.fullmatch(name)[1])


def _classes(root: str, names: Sequence[str]) -> tuple[list[int], list[int]]:
    """The classes that are there as places among ImageNet's, and of each image its place among them."""
    thousand = {synset: place for place, synset in enumerate(synsets(_SPACE))}
    if all(name.isdecimal() for name in set(names)):  # V2
        thousand = {str(place): place for place in range(len(thousand))}
    for name in dict.fromkeys(names):
        if name not in thousand:
            raise UserError(
                f"{from_here(root)} has a class {shortened(repr(name), 100)}, which is none of ImageNet's thousand",
                "Name folders by synset, such as n01440764; the source 'folder' reads any",
            )
    there = sorted({thousand[name] for name in names})
    position = {place: k for k, place in enumerate(there)}
    return there, [position[thousand[name]] for name in names]


def _real(path: str, names: Sequence[str]) -> list[list[int]]:
    """ReaL's labels of validation images."""
    numbers = [found and int(found[1]) for found in map(_NUMBERED.fullmatch, names)]
    if None in numbers:
        name = names[numbers.index(None)]
        raise UserError(f"{name} is no validation image of ImageNet, and ReaL's labels are of those", "Leave real out")
    try:
        rows = json.loads(read_bytes(path, _MOST_REAL))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "it is no JSON"
        raise UserError(f"{from_here(path)} could not be read: {reason}", "Give ReaL's real.json") from error
    count = len(synsets(_SPACE))
    fits = isinstance(rows, list) and all(isinstance(row, list) for row in rows)
    if not fits or len(rows) < max(numbers, default=0):
        raise UserError(f"{path} is no list of labels for each validation image", "Give ReaL's real.json")
    for number in numbers:
        if not all(type(label) is int and 0 <= label < count for label in rows[number - 1]):
            raise UserError(
                f"{path} has labels outside ImageNet's {count} classes for image {number}", "Give ReaL's real.json"
            )
    return [rows[number - 1] for number in numbers]
