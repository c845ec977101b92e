"""A folder of one's own images whose pixels have classes: images/ and masks/, or images that are cut out by alpha."""

import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from vit_jax.data.class_files import IGNORED, ClassFiles
from vit_jax.data.decode import decode_rgba, read_file
from vit_jax.data.files import from_here
from vit_jax.data.image_tree import ImageTree
from vit_jax.data.sources.folder import files_beside, held_out
from vit_jax.errors import UserError
from vit_jax.ranges import Decay, Natural

_ALPHA = ("background", "object")


class CutOuts:
    """Images with an alpha channel: what is opaque is the object, class 1, and what is not is the background."""

    field_names = frozenset({"image", "segmentation"})
    label_names = _ALPHA

    def __init__(self, paths: Sequence[str], remarks: Sequence[str] = ()):
        self.paths, self.remarks = list(paths), tuple(remarks)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.paths[index]
        data = read_file(path)
        return {"image": data, "segmentation": (decode_rgba(data, path)[..., 3] > 127).astype(np.uint8), "path": path}


def build(
    root: str,
    split: str,
    classes: Sequence[str] | None = None,
    masks: Literal["files", "alpha"] = "files",
    holdout: Decay = 0.1,
    seed: Natural = 0,
) -> ClassFiles | CutOuts:
    """Finds images and their masks: of ROOT/SPLIT where that holds a folder "images", else of ROOT, of which a part is
    held out for the split "test".

    Args:
        root: a relative path starts where the command was started.
        split: a folder name such as "train" or "val"; "train" or "test" where the split is made here.
        classes: their names, in the order of the numbers in the masks, from 0 on; 255 is no class. None: the lines of
            ROOT/classes.txt.
        masks: "files" in the folder "masks", a PNG for each image under its path, palette or grey; or the "alpha"
            channel of the images, in which the classes are "background" and "object".
        holdout: the share that is held out, where the split is made here, see `vit_jax.data.sources.folder.build`.
        seed: varies which images are held out.

    Raises:
        UserError: a folder, the mask of an image or the names of the classes are not there.
    """
    root = os.path.expanduser(root)
    of_split = os.path.join(root, split)
    split_here = not os.path.isdir(os.path.join(of_split, "images"))
    folder = root if split_here else of_split
    if not os.path.isdir(os.path.join(folder, "images")):
        raise UserError(f"There is no folder {from_here(os.path.join(folder, 'images'))}", "Put the images there")
    if split_here and split not in ("train", "test"):
        raise UserError(
            f"{from_here(root)} has images/ but no {split}/images/", "Use 'train' or 'test', split by a hash"
        )
    tree = ImageTree(os.path.join(folder, "images"))
    paths = tree.images()
    if split_here and paths:
        tests = held_out(paths, holdout, seed)
        paths = [path for path, test in zip(paths, tests, strict=True) if test == (split == "test")]
    if not paths:
        raise UserError(f"{from_here(tree.root)} has no images for the split {split!r}", "Add images")
    others = tree.passed_over()
    remarks = (f"{others} in {tree.root} passed over",) if others else ()
    images = [os.path.join(tree.root, path) for path in paths]
    if masks == "alpha":
        return CutOuts(images, remarks)
    files = files_beside(paths, "segmentation", os.path.join(folder, "masks"))
    names = _names(root) if classes is None else tuple(classes)
    return ClassFiles(images, files, names, {IGNORED: IGNORED} | {i: i for i in range(len(names))}, remarks)


def _names(root: str) -> tuple[str, ...]:
    path = os.path.join(root, "classes.txt")
    if not os.path.isfile(path):
        raise UserError(
            f"Nothing says what the numbers in the masks of {from_here(root)} are",
            "Give classes, or their names in classes.txt, one a line from number 0 on",
        )
    with open(path, encoding="utf-8-sig") as file:
        return tuple(line.strip() for line in file if line.strip())
