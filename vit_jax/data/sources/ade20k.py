"""The scene parsing benchmark of ADE20K (Zhou et al., CVPR 2017) as its archive unpacks: 150 classes."""

import os

from vit_jax.data.class_files import IGNORED, ClassFiles
from vit_jax.data.files import from_here
from vit_jax.data.image_tree import ImageTree
from vit_jax.data.palettes import palette
from vit_jax.data.sources.folder import files_beside
from vit_jax.errors import UserError


def build(root: str, split: str) -> ClassFiles:
    """Finds the images of one split: images/SPLIT/*.jpg with annotations/SPLIT/*.png, in which 1 to 150 are the classes
    and 0 is none.

    Args:
        root: the folder with images and annotations, ADEChallengeData2016; a relative path starts where the command was
            started.
        split: "training" or "validation".

    Raises:
        UserError: a folder or the annotation of an image is not there.
    """
    root = os.path.expanduser(root)
    folder = os.path.join(root, "images", split)
    if not os.path.isdir(folder):
        raise UserError(f"There is no folder {from_here(folder)}", "Give the folder of ADEChallengeData2016.zip")
    tree = ImageTree(folder)
    paths = tree.images()
    if not paths:
        raise UserError(f"{from_here(folder)} has no images", "Check the path")
    files = files_beside(paths, "segmentation", os.path.join(root, "annotations", split))
    names = palette("ade20k").names
    classes = {0: IGNORED} | {place + 1: place for place in range(len(names))}
    return ClassFiles([os.path.join(folder, path) for path in paths], files, names, classes)
