"""Pictures and what is said of them in tar shards, as the library webdataset and img2dataset write them."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Int64

from vit_jax.data.columns import numbered
from vit_jax.data.decode import MAX_FILE_BYTES, UnreadableImage
from vit_jax.data.image_tree import SUFFIXES
from vit_jax.data.tar_index import Member, members, read_image, read_member
from vit_jax.data.text_files import text_paths
from vit_jax.errors import UserError, shortened
from vit_jax.naming import listed

_TEXTS = (".txt", ".json")
_MOST_TEXT = 2**24  # bytes
_MOST_SHARDS = 1_000_000
_BRACES = re.compile(r"\{(\d+\.\.\d+|[^{},]*(?:,[^{},]*)+)\}")


class TarSource:
    """Encoded images and their texts, read when they are asked for.

    Where they lie is kept in memory alone, and copied to workers: 48 bytes a pair, and its name.

    Args:
        shards: the archives.
        names: of each image, as the archive has it.
        places: of each pair the number of its shard; offset and size of the image; offset and size of the text; and
            whether the text is JSON.
        json_key: of the text in it.
        remarks: what whoever starts a run may want to know, a sentence each.
    """

    label_names: tuple[str, ...] = ()
    field_names = frozenset({"image", "text"})

    def __init__(
        self,
        shards: Sequence[str],
        names: Sequence[str],
        places: Int64[np.ndarray, "n 6"],
        json_key: str,
        remarks: Sequence[str] = (),
    ):
        self._shards, self._names, self._places = list(shards), list(names), places
        self._json_key = json_key
        self.remarks = tuple(remarks)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        shard, image_at, image_size, text_at, text_size, is_json = self._places[index].tolist()
        where = f"{self._shards[shard]}, member {self._names[index]}"
        if image_size > MAX_FILE_BYTES or text_size > _MOST_TEXT:
            raise UnreadableImage(f"{where} has more bytes than an image or a text", "Leave it out")
        try:
            with open(self._shards[shard], "rb") as file:
                image, text = (read_member(file, *of) for of in ((image_at, image_size), (text_at, text_size)))
            said = _from_json(text, self._json_key) if is_json else text.decode("utf-8-sig").strip()
        except OSError as error:
            raise UnreadableImage(f"{where} could not be read: {error.strerror or error}", "Check the path") from error
        except ValueError as error:  # UnicodeDecodeError is one
            reason = "has bytes that are not UTF-8" if isinstance(error, UnicodeDecodeError) else error
            raise UnreadableImage(f"{where} {reason}", "Mend it, or leave it out") from error
        if not said:
            raise UnreadableImage(f"{where} has an empty text", "Leave it out")
        return {"image": image, "text": said, "path": where}


class LabelledTarSource:
    """Encoded images and their classes, the images read when they are asked for.

    Args:
        shards: the archives.
        names: of each image, as the archive has it.
        places: of each image the number of its shard, its offset and size.
        labels: class index of each.
        label_names: of the classes.
        remarks: what whoever starts a run may want to know, a sentence each.
    """

    field_names = frozenset({"image", "label"})

    def __init__(
        self,
        shards: Sequence[str],
        names: Sequence[str],
        places: Int64[np.ndarray, "n 3"],
        labels: np.ndarray,
        label_names: Sequence[str],
        remarks: Sequence[str] = (),
    ):
        self._shards, self._names, self._places = list(shards), list(names), places
        self.labels, self.label_names, self.remarks = labels, tuple(label_names), tuple(remarks)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        shard, offset, size = self._places[index].tolist()
        image, where = read_image(self._shards[shard], Member(self._names[index], offset, size))
        return {"image": image, "label": int(self.labels[index]), "path": where}


def build(
    paths: str | Sequence[str],
    json_key: str = "caption",
    label: str | None = None,
    label_names: Sequence[str] | str | None = None,
) -> TarSource | LabelledTarSource:
    """Reads tar shards by index, without unpacking them: in each, an image and a text that have the same name up to the
    first dot, as 0001.jpg (.jpeg, .png, .webp) and 0001.txt, or 0001.json.

    The text is that of .txt, or where there is none what .json has under `json_key`: a text, or a list of several. Of
    several the field `tokens` shows one: in training any, in evaluation the first. A pair without a text that can be
    read is replaced in training, as one without such an image is, and refused in evaluation.

    The headers of all shards are read when the source is built, and kept in memory alone.

    Args:
        paths: a shard, or several, or patterns: "shards/{00000..00099}.tar", "{a,b}-*.tar". Files of this machine.
        json_key: of the text in the .json.
        label: for images with a class instead of a text: "cls" for 0001.cls, a whole number or a name; else the key of
            either in 0001.json. All of them are read when the source is built.
        label_names: the classes in order, or "imagenet1k" for ImageNet's; by default the names in alphabetical order,
            or the numbers.

    Raises:
        UserError: for shards that are missing, compressed, or no tar; for a member whose name leads out of its shard;
            and where there is no pair at all. Of shards that are cut short the rest is left out, and so are members
            without a partner: both are counted in a remark. With `label` also for labels that are missing or outside
            the classes.
    """
    expanded = [one for path in ([paths] if isinstance(paths, str) else paths) for one in _expanded(path)]
    shards = text_paths(expanded, "images", "shards/{00000..00099}.tar")
    names: list[str] = []
    places: list[tuple[int, ...]] = []
    values: list[Any] = []
    cut: list[str] = []
    alone: list[str] = []
    partners = _TEXTS if label is None else (".cls",) if label == "cls" else (".json",)
    for number, shard in enumerate(shards):
        found, whole = members(shard)
        if not whole:
            cut.append(shard)
        pairs = list(_pairs(found, shard, alone, partners))
        names += [image.name for image, _ in pairs]
        if label is None:
            for image, text in pairs:
                is_json = text.name.lower().endswith(".json")
                places.append((number, image.offset, image.size, text.offset, text.size, is_json))
        else:
            places += [(number, image.offset, image.size) for image, _ in pairs]
            values += _labels(shard, [member for _, member in pairs], label)
    if not names:
        damaged = f", of which {len(cut)} are cut short or damaged" if cut else ""
        raise UserError(
            f"No image with a {'text' if label is None else 'label'} is in {listed(shards, 1)}{damaged}",
            f"Name them alike: 0001.jpg and 0001{' or 0001'.join(partners)}",
        )
    remarks = []
    if cut:
        remarks.append(f"{len(cut)} of {len(shards)} tar shards are cut short or damaged, first {cut[0]}")
    if alone:
        remarks.append(f"{len(alone)} members of tar shards have no partner and are left out, first {alone[0]}")
    if label is None:
        return TarSource(shards, names, np.array(places, np.int64), json_key, remarks)
    labels, classes = numbered(listed(shards, 1), values, label_names, "image")
    return LabelledTarSource(shards, names, np.array(places, np.int64), labels, classes, remarks)


def _labels(shard: str, found: Sequence[Member], key: str) -> list[int | str]:
    """What members say of the class."""
    try:
        with open(shard, "rb") as file:
            return [_label(file, shard, member, key) for member in found]
    except OSError as error:
        raise UserError(f"{shard} could not be read: {error.strerror or error}", "Check the path") from error


def _label(file: BinaryIO, shard: str, member: Member, key: str) -> int | str:
    """What one of them says."""
    where = f"{shard}, member {member.name},"
    if member.size > _MOST_TEXT:
        raise UserError(f"{where} has more bytes than a label", "Leave it out")
    try:
        text = read_member(file, member.offset, member.size)
        value = text.decode("utf-8-sig").strip() if key == "cls" else json.loads(text)[key]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"{where} says no label{'' if key == 'cls' else f' {key!r}'}", "Mend it, or leave it out"
        ) from error
    if isinstance(value, str) and value.isdecimal() and value.isascii():
        value = int(value[:20])  # more than any number of classes, and enough to say so
    if type(value) not in (int, str) or value == "":
        raise UserError(f"{where} has a label that is neither a number nor a name", "Mend it, or leave it out")
    return value


def _expanded(pattern: str) -> list[str]:
    """The names that braces stand for: {00..11} for numbers, {a,b} for either."""
    found = [pattern]
    while not os.path.exists(pattern) and any(map(_BRACES.search, found)):
        parts = [_at_first_braces(name) for name in found]
        if sum(len(choices) for _, choices, _, _ in parts) > _MOST_SHARDS:
            raise UserError(f"{shortened(repr(pattern), 200)} is more than {_MOST_SHARDS} files", "Check its braces")
        found = [
            before + str(choice).zfill(digits) + after for before, choices, digits, after in parts for choice in choices
        ]
    return found


def _at_first_braces(name: str) -> tuple[str, Sequence[str | int], int, str]:
    """What stands before them, what they stand for, the digits of its numbers, and what stands behind them."""
    braces = _BRACES.search(name)
    if braces is None:
        return "", [name], 0, ""
    before, after = name[: braces.start()], name[braces.end() :]
    first, dots, last = braces[1].partition("..")
    if not (dots and first.isdecimal() and last.isdecimal()):
        return before, braces[1].split(","), 0, after
    low, high = int(first[:18]), int(last[:18])
    padded = first.startswith("0") or last.startswith("0")
    return before, range(low, high + 1), max(len(first), len(last)) * padded, after


def _pairs(
    found: Sequence[Member], shard: str, alone: list[str], partners: Sequence[str]
) -> Iterator[tuple[Member, Member]]:
    """The image and the first of its `partners` of each name; what has no partner goes to `alone`. Files of other kinds
    belong to the pair of their name: img2dataset writes a .json beside each .txt."""
    groups: dict[str, list[tuple[str, Member]]] = {}
    for member in found:
        folder, _, file = member.name.rpartition("/")
        if file.startswith("."):  # no name is left: of macOS's copies, say
            continue
        key, dot, suffix = file.partition(".")
        groups.setdefault(f"{folder}/{key}", []).append((f"{dot}{suffix}".lower(), member))
    for group in groups.values():
        images = [member for suffix, member in group if suffix in SUFFIXES]
        texts = sorted((partners.index(suffix), member) for suffix, member in group if suffix in partners)
        if images and texts:
            yield images[0], texts[0][1]
            rest = images[1:]
        else:
            rest = [member for _, member in group]
        alone.extend(f"{member.name} in {shard}" for member in rest)


def _from_json(text: bytes, key: str) -> str | list[str]:
    """The text, or texts, of a JSON object under a key.

    Raises:
        ValueError: with a reason that completes "the member ...".
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("has no JSON object beside it") from error
    value = value.get(key) if isinstance(value, dict) else None
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
        raise ValueError(f"has no text {key!r} in the JSON beside it")
    said = [one.strip() for one in values if one.strip()]
    return said[0] if len(said) == 1 else said
