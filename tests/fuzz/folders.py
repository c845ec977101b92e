"""Folders of images as strangers pack them: odd names, links anywhere, pipes, other kinds of files, deep nesting."""

import contextlib
import io
import os
from pathlib import Path

import cv2
import numpy as np

from tests.fuzz.harness import Target
from vit_jax.commands.image_files import expand
from vit_jax.data.decode import UnreadableImage, decode
from vit_jax.data.sources import folder as folders
from vit_jax.errors import UserError

_FOLDERS = (
    "a", "b", "a ", " ", "train", "val", "test", "training", "validation", ".hidden", "\x1b[2J", "a\nb", "e\u0301", "é",
    os.fsdecode(b"\xff"), "c.png", "-x", "~", "x" * 255,
)  # fmt: skip
_FILES = (
    "0.png", "1.PNG", "2.jpg", "3.webp", "x.tif", "x.gif", "x.txt", ".png", ".hidden.png", "é.png", "e\u0301.png",
    "\x1b]0;x\x07.png", "n\n.png", os.fsdecode(b"\xfe.png"), "noext",
)  # fmt: skip


def build(folder: Path) -> Target:
    image = cv2.imencode(".png", np.zeros((3, 4, 3), np.uint8))[1].tobytes()
    outside = folder / "outside"
    (outside / "deep").mkdir(parents=True)
    for name in ("o.png", "deep/p.png"):
        (outside / name).write_bytes(image)
    targets = (
        "..",
        ".",
        "../..",
        "../a",
        "../b",
        "../../a",
        "0.png",
        "gone.png",
        "/dev/zero",
        "/dev/null",
        "self",
        "/",
    )
    targets = (*targets, str(outside), str(outside / "deep"), str(outside / "o.png"), str(folder))

    def mutate(rng: np.random.Generator, case: Path) -> tuple[Path, str, int]:
        root = case / "root"
        root.mkdir()
        made = [root]
        for _ in range(int(rng.integers(1, 8))):
            parent = made[int(rng.integers(len(made)))] if rng.random() < 0.6 else root
            path = parent / str(_FOLDERS[int(rng.integers(len(_FOLDERS)))])
            if not path.exists() and len(str(path)) < 900:
                path.mkdir()
                made.append(path)
        for _ in range(int(rng.integers(1, 20))):
            parent = made[int(rng.integers(len(made)))]
            name = _FILES[int(rng.integers(len(_FILES)))]
            path = parent / name
            if os.path.lexists(path):
                continue
            match rng.integers(12):
                case 0:
                    os.mkfifo(path)
                case 1 | 2:
                    path.symlink_to(targets[int(rng.integers(len(targets)))])
                case 3:
                    (parent / f"link{len(made)}").is_symlink() or (parent / f"link{len(made)}").symlink_to(
                        targets[int(rng.integers(len(targets)))]
                    )
                case 4:
                    path.write_bytes(image[: int(rng.integers(len(image)))])
                case _:
                    path.write_bytes(image)
        return root, str(rng.choice(["train", "test", "val"])), int(rng.integers(3))

    def use(given: tuple[Path, str, int]) -> folders.FolderSource:
        root, split, seed = given
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                expand([str(root)])
        except UserError as error:
            if not str(error).isprintable():
                raise ValueError("an error that is not printable") from error
        source = folders.build(str(root), split, seed=seed)
        for k in range(len(source)):
            try:
                decode(source[k]["image"])
            except UnreadableImage:  # training replaces it
                continue
        return source

    def wrong(source: folders.FolderSource) -> str:
        real: dict[str, int] = {}
        for path, label in zip(source.paths, source.labels, strict=True):
            file = os.path.realpath(os.path.join(source.root, path))
            twice = os.path.exists(file) and real.setdefault(file, int(label)) != label
            if twice and not any("in several classes" in remark for remark in source.remarks):
                return f"{file} is in two classes without a remark"
        names = source.label_names
        blank = any(name != name.strip() or not name for name in names) or len(set(names)) < len(names)
        return f"has the classes {names}" if blank else ""

    return Target(mutate, use, wrong)
