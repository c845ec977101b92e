"""Cut-outs and photos to put them on: what the source `composites` makes scenes of."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from vit_jax.data import geometry
from vit_jax.data.corpora.emoji import arts
from vit_jax.data.decode import decode_rgba, read_file
from vit_jax.data.files import read_bytes
from vit_jax.data.image_tree import is_image
from vit_jax.errors import UserError

# Of 1,631 emoji 275 are held out, and of 31 photos 8: the same shares of others.
_HELD_OUT = {"cutouts": 275 / 1631, "photos": 8 / 31}
_SHORT_SIDE = 512  # of photos: smaller ones stay as they are
_LEAST = 0.1  # of its pixels, for a picture to be a cut-out: dots and dashes are none
_LEFT_OUT = ("Component", "Flags")  # tones of skin, and rectangles in which there is nothing to cut out


class _Picture(NamedTuple):
    """Args:
    folder: "cutouts" or "photos".
    name: of the file that is written.
    identity: by which it is held out: the same for one emoji in every art.
    row: of the manifest.
    make: its bytes.
    """

    folder: str
    name: str
    identity: str
    row: dict[str, Any]
    make: Callable[[], bytes]


def write(folders: Sequence[Path], output: Path) -> list[str]:
    """Writes cut-outs, with their transparency, to SPLIT/cutouts/*.png, and photos, shrunk to a short side of 512
    pixels, to SPLIT/photos/*.png, where SPLIT is "train" or "test"; and a manifest cutouts.jsonl of `{"path", "text",
    "category", "split"}`.

    An image of a folder that is transparent somewhere is a cut-out of the category that the folder's name says, any
    other is a photo. Of the package emoji-datasource-ART, the emoji with at least a tenth of solid pixels are
    cut-outs, flags left out. Held out are about a sixth of the cut-outs and a quarter of the photos, by a hash of
    their names: of version 16.0.0 275 of 1,631 emoji, the same in every art.

    Args:
        folders: of images, each read without the folders in it, and of the unpacked package, or one in which it lies.
        output: where the files go.

    Returns:
        What was written, a line for each kind.

    Raises:
        UserError: for a folder with no images, an image that cannot be read, and where no cut-out is found.
    """
    found: list[_Picture] = []
    for folder in folders:
        packages = arts([folder], required=False)
        of = [_emoji(place, art) for art, place in packages.items()] or [_images(folder)]
        found += [picture for pictures in of for picture in pictures]
    kinds = {kind: [picture for picture in found if picture.folder == kind] for kind in _HELD_OUT}
    if not kinds["cutouts"]:
        raise UserError(
            f"No images with transparency are in {' or '.join(map(str, folders))}", "Give cut-outs: PNG with alpha"
        )
    return [_written(kind, pictures, output) for kind, pictures in kinds.items() if pictures]


def _written(kind: str, pictures: Sequence[_Picture], output: Path) -> str:
    rows, held_out, names = [], _held_out([p.identity for p in pictures], _HELD_OUT[kind]), Counter()
    for picture in pictures:
        split = "test" if picture.identity in held_out else "train"
        # Two folders may have a file of one name.
        names[picture.name] += 1
        name = picture.name + (f"_{names[picture.name]}" if names[picture.name] > 1 else "") + ".png"
        path = output / split / kind / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture.make())
        rows.append({"path": f"{split}/{kind}/{name}", **picture.row, "split": split})
    if kind == "cutouts":
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (output / "cutouts.jsonl").write_text("".join(lines), encoding="utf-8")
    splits = Counter(row["split"] for row in rows)
    return f"{output / '*' / kind}: {len(rows):,} {kind} ({splits['train']:,} train, {splits['test']:,} test)"


def _held_out(identities: Sequence[str], share: float) -> set[str]:
    order = sorted(set(identities), key=lambda name: hashlib.sha256(f"0 {name}".encode()).digest())
    return set(order[: round(share * len(order))])


def _emoji(folder: Path, art: str) -> list[_Picture]:
    path = folder / "emoji.json"
    try:
        entries = [
            (e["unified"], e["image"], e["name"] or e["short_name"], e["category"])
            for e in json.loads(read_bytes(path).decode("utf-8"))
            if e["category"] not in _LEFT_OUT and e[f"has_img_{art}"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} could not be read: {error}", "Unpack its package again") from error
    found = []
    for code, image, name, category in entries:
        if image != f"{str(code).lower()}.png":
            raise UserError(f"The picture of {code} in {path} is {image!r:.100}", "Unpack its package again")
        data = read_file(folder / "img" / art / "64" / image)
        if (decode_rgba(data, str(image))[..., 3] > 127).mean() >= _LEAST:
            row = {"text": str(name).lower(), "category": category}
            found.append(_Picture("cutouts", f"{art}_{str(code).lower()}", str(code), row, lambda data=data: data))
    return found


def _images(folder: Path) -> list[_Picture]:
    with os.scandir(folder) as entries:
        paths = sorted(Path(entry.path) for entry in entries if is_image(entry))
    if not paths:
        raise UserError(f"{folder} holds no images", "Give a folder with images in it, or an unpacked package")
    found = []
    for path in paths:
        pixels = decode_rgba(read_file(path), str(path))
        if pixels[..., 3].min() == 255:
            photo = pixels[..., :3]
            if min(photo.shape[:2]) > _SHORT_SIDE:
                photo = geometry.resize_short_side(np.ascontiguousarray(photo), _SHORT_SIDE)
            found.append(_Picture("photos", path.stem, path.name, {}, lambda photo=photo: _png(photo[..., ::-1])))
        elif (pixels[..., 3] > 127).mean() >= _LEAST:
            row = {"text": path.stem.replace("_", " ").replace("-", " "), "category": folder.name}
            bgra = pixels[..., [2, 1, 0, 3]]
            found.append(_Picture("cutouts", path.stem, path.name, row, lambda bgra=bgra: _png(bgra)))
    return found


def _png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", np.ascontiguousarray(pixels))[1].tobytes()
