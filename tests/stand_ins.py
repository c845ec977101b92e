"""Data sets that only have a length, in the place of those that the shipped configs name and no machine has all of."""

import dataclasses

import numpy as np

from vit_jax.data.sources.idx import FASHION_MNIST
from vit_jax.data.tokenizers.bytes import Bytes
from vit_jax.data.vtab import TASKS
from vit_jax.naming import build_named

# Classes, and images of the split that training takes its images from.
SETS = {"imagenet2012": (1000, 1_281_167), "imagenet21k": (21_843, 14_197_122), "cifar10": (10, 50_000),
           "cifar100": (100, 50_000), "oxford_iiit_pet": (37, 3680), "oxford_flowers102": (102, 1020),
           "photos": (4, 60), FASHION_MNIST: (10, 60_000)}  # fmt: skip


class Schema:
    """A source of the right length and classes, whose images are all one."""

    def __init__(self, classes, length):
        self.label_names, self._length = tuple(f"class {i}" for i in range(classes)), length

    def __len__(self):
        return self._length

    def __getitem__(self, index):
        return {"image": np.full((256, 256, 3), 99, np.uint8), "label": index % len(self.label_names)}


SEGMENTED = {"cityscapes": (19, 2975), "ade20k": (150, 20_210)}


class Segmented(Schema):
    """The same with a class for each pixel."""

    def __getitem__(self, index):
        labels = np.arange(256 * 256, dtype=np.uint8).reshape(256, 256) % len(self.label_names)
        return {"image": np.full((256, 256, 3), 99, np.uint8), "segmentation": labels}


class Texts:
    """A source of documents or of texts in pairs, all alike, with two classes."""

    label_names = ("one", "two")

    def __init__(self, names):
        self._names = names

    def __len__(self):
        return 100

    def __getitem__(self, index):
        text = "It was late.\nNobody came.\nThe light went out, and all was still."
        return {"path": f"text {index}", "label": index % 2, **dict.fromkeys(self._names, text)}


@dataclasses.dataclass(frozen=True)
class Vocabulary(Bytes):
    """Stands for a tokenizer whose file is not on every machine."""

    vocab_size: int = 1024
    cls_id: int = 1
    sep_id: int = 2
    mask_id: int = 259


class Scenes(Schema):
    """A source of images with boxes."""

    field_names = frozenset({"image", "boxes"})

    def __getitem__(self, index):
        return {"image": np.full((64, 96, 3), 99, np.uint8), "boxes": np.float32([[10, 10, 60, 50, 1]])}


class Pairs(Schema):
    """A source of images with texts, and with classes where it is asked for some."""

    def __init__(self, classes, length):
        super().__init__(classes or 1, length)
        self.label_names = self.label_names[:classes]

    def __getitem__(self, index):
        return {"image": np.full((8, 8, 3), 99, np.uint8), "label": 0, "text": "a red heart"}


class Depths(Pairs):
    """The same with how far away each pixel is."""

    field_names = frozenset({"image", "label", "text", "depth"})

    def __getitem__(self, index):
        return {**super().__getitem__(index), "depth": np.ones((8, 8), np.float32)}


def build_stand_in(kind, section, where, **given):
    """Stands for `build_named`: data sets that are not on every machine become schemas of theirs."""
    if kind == "source" and section["name"] in ("documents", "text_pairs"):
        names = section.get("fields") or (["text"] if section["name"] == "documents" else ["source", "target"])
        return Texts(list(names))
    if kind == "source" and section["name"] in ("pairs", "webdataset"):
        few = section.get("split") == "test"  # all of whose texts are read for retrieval
        return Pairs(2 if section.get("label_key") else 0, 4 if few else 400_000_000)
    if kind == "source" and section["name"] == "manifest":
        return Depths(0, 5_000_000)
    if kind == "tokenizer" and section["name"] in ("bpe", "sentencepiece"):
        return Vocabulary()
    if kind == "source" and section["name"] == "coco":
        return Scenes(81, 117_266)
    if kind == "source" and section["name"] in ("tfds", "folder", "idx"):
        return Schema(*SETS[section.get("dataset") or section["root"]])
    if kind == "source" and section["name"] == "vtab":
        return Schema(TASKS[section["task"]].classes, 1000)
    if kind == "source" and section["name"] in SEGMENTED:
        return Segmented(*SEGMENTED[section["name"]])
    if kind == "source" and section["name"] == "composites" and "classes" in section:
        return Segmented(1 + len(section["classes"]), section["length"])
    if kind == "source" and section["name"] in ("composites", "sa1b"):
        section = {"name": "shapes", "length": 100}
    return build_named(kind, section, where, **given)
