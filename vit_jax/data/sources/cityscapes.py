"""Cityscapes (Cordts et al., arXiv:1604.01685) as its archives unpack: 19 classes of streets in 1024x2048 pixels."""

import os

from vit_jax.data.class_files import IGNORED, ClassFiles
from vit_jax.data.files import from_here
from vit_jax.data.image_tree import ImageTree
from vit_jax.data.palettes import palette
from vit_jax.errors import UserError

# The numbers in *_labelIds.png of the classes that count, in the order of the palette: `labels.py` of cityscapesScripts
# (github.com/mcordts/cityscapesScripts), whose trainId is the place. The others are not evaluated; -1 is stored as 255.
_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_KNOWN = 34
_IMAGE, _LABELS = "_leftImg8bit", "_gtFine_labelIds.png"


def build(root: str, split: str) -> ClassFiles:
    """Finds the images of one split: leftImg8bit/SPLIT/CITY/*_leftImg8bit.png with gtFine/SPLIT/CITY/*_labelIds.png.

    Args:
        root: the folder with leftImg8bit and gtFine; a relative path starts where the command was started.
        split: "train" or "val"; the labels of "test" are not public.

    Raises:
        UserError: a folder or the labels of an image are not there.
    """
    root = os.path.expanduser(root)
    for part in ("leftImg8bit", "gtFine"):
        if not os.path.isdir(os.path.join(root, part, split)):
            raise UserError(
                f"There is no folder {from_here(os.path.join(root, part, split))}",
                "Unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip into one folder",
            )
    tree = ImageTree(os.path.join(root, "leftImg8bit", split))
    found = [path for path in tree.images() if os.path.splitext(path)[0].endswith(_IMAGE)]
    if not found:
        raise UserError(f"{from_here(tree.root)} has no image named *{_IMAGE}.png", "Check the path")
    images = [os.path.join(tree.root, path) for path in found]
    stems = [os.path.splitext(path)[0].removesuffix(_IMAGE) for path in found]
    labels = [os.path.join(root, "gtFine", split, stem + _LABELS) for stem in stems]
    for image, path in zip(images, labels, strict=True):
        if not os.path.isfile(path):
            raise UserError(f"{from_here(image)} has no labels {from_here(path)}", "Unpack gtFine_trainvaltest.zip too")
    classes = dict.fromkeys((*range(_KNOWN), IGNORED), IGNORED) | {number: place for place, number in enumerate(_IDS)}
    return ClassFiles(images, labels, palette("cityscapes").names, classes)
