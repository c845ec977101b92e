"""The images below a folder: the one walk of training, `predict` and `contact-sheet`.

Symbolic links are followed, and no folder is entered twice: one that leads to another class, to a folder above it or
back to itself would count images twice or under two classes, and is refused by name.
"""

import collections
import os
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np

from vit_jax.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# What people keep images in and nothing here decodes.
_OTHER_IMAGES = (
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".ico", ".jfif", ".jp2", ".jpe", ".jxl", ".svg", ".tif", ".tiff",
)  # fmt: skip


class ImageTree:
    """One walk, in as many calls as are needed.

    Args:
        root: the folder that paths are relative to.
        suffixes: of what counts as an image, in lower case.
    """

    def __init__(self, root: str, suffixes: Sequence[str] = SUFFIXES):
        self.root, self.suffixes = root, tuple(suffixes)
        self._real = os.path.realpath(root)
        self._entered: dict[tuple[int, int], str] = {}
        self._other_images: collections.Counter[str] = collections.Counter()
        self._others = 0
        # Files that links lead to, and where the links are; those that are not links are kept as numbers alone, because
        # there may be millions.
        self._linked: list[tuple[tuple[int, int], str]] = []
        self._plain: list[tuple[int, np.ndarray, list[str]]] = []

    def images(self, folder: str = "") -> list[str]:
        """Paths, relative to the root, of all images below one folder of it, in the order of their normalised names.

        Hidden files and folders are passed over, and so is what is not a regular file. A link that leads nowhere counts
        as an image, to be reported as unreadable rather than left out in silence.

        Raises:
            UserError: for a folder that cannot be listed, and for a link that leads to a folder of this walk, to one
                above it, or to another place below the root.
        """
        return sorted(self._walk(folder), key=normalised)

    def passed_over(self) -> str:
        """What was found so far and is no image, as '3 .gif, 2 .tif and 9 other files'; '' for nothing."""
        counts = sorted(self._other_images.items(), key=lambda item: (-item[1], item[0]))
        parts = [f"{count} {suffix}" for suffix, count in counts]
        parts += [f"{self._others} other file{'s' * (self._others > 1)}"] if self._others else []
        return " and ".join([*([", ".join(parts[:-1])] if parts[1:] else []), *parts[-1:]])

    def twins(self) -> list[list[str]]:
        """Groups of paths, in order, that were found so far and are one file, because all or all but one are links."""
        groups: dict[tuple[int, int], list[str]] = {}
        for key, path in self._linked:
            groups.setdefault(key, []).append(path)
        wanted = np.array([inode for _, inode in groups], np.uint64)
        for device, inodes, paths in self._plain if groups else ():
            for k in np.flatnonzero(np.isin(inodes, wanted)):
                if links := groups.get((device, int(inodes[k]))):
                    links.append(paths[k])
        return sorted(sorted(paths, key=normalised) for paths in groups.values() if len(paths) > 1)

    def _walk(self, top: str) -> Iterator[str]:
        # A list and not recursion: folders may be nested more deeply than Python calls.
        waiting = [top]
        while waiting:
            folder = waiting.pop()
            device = self._enter(folder)
            paths, inodes = [], []
            for entry in self._entries(folder):
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.name.startswith("."):
                    continue
                is_link = entry.is_symlink()
                # What the listing says, for millions of files; a link is asked for, by functions that bear a circle.
                if os.path.isdir(entry.path) if is_link else entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
                elif is_image(entry, self.suffixes):
                    yield path
                    if is_link:
                        self._link(entry.path, path)
                    else:
                        paths.append(path)
                        inodes.append(entry.inode())
                elif (suffix := os.path.splitext(entry.name)[1].lower()) in _OTHER_IMAGES:
                    self._other_images[suffix] += 1
                else:
                    self._others += 1
            self._plain.append((device, np.array(inodes, np.uint64), paths))

    def _enter(self, folder: str) -> int:
        """Makes sure that no folder is entered twice. Returns its device."""
        path = os.path.join(self.root, folder)
        key = identity(path)
        if os.path.islink(path):
            self._check_link(path)
        if key in self._entered:
            raise UserError(
                f"{path} is the same folder as {os.path.join(self.root, self._entered[key])}",
                "Remove one of them: its images would count twice, or as two classes",
            )
        self._entered[key] = folder
        return key[0]

    def _check_link(self, path: str) -> None:
        real = os.path.realpath(path)
        if self._real == real or self._real.startswith(os.path.join(real, "")):
            raise UserError(
                f"The link {path} leads to {real}, which holds {self.root} itself", "Remove it: it goes in a circle"
            )
        inside = os.path.relpath(real, self._real).split(os.sep)
        if not any(part.startswith(".") for part in inside):  # also "..", outside
            raise UserError(
                f"The link {path} leads to {real}, which is below {self.root} as well",
                "Remove it: its images would count twice, or as two classes",
            )

    def _link(self, path: str, relative: str) -> None:
        try:
            status = os.stat(path)
        except OSError:  # reported when it is read
            return
        self._linked.append(((status.st_dev, status.st_ino), relative))

    def _entries(self, folder: str) -> list[os.DirEntry]:
        path = os.path.join(self.root, folder)
        try:
            with os.scandir(path) as entries:
                # Backwards, because the folders are taken from the end of a list.
                return sorted(entries, key=lambda entry: normalised(entry.name), reverse=True)
        except OSError as error:
            raise cannot_list(path, error) from error


def visible_folders(path: str) -> list[str]:
    """Names of the folders in a folder that are not hidden, in the order of their normalised names.

    Raises:
        UserError: when it cannot be listed.
    """
    try:
        with os.scandir(path) as entries:
            names = [e.name for e in entries if not e.name.startswith(".") and os.path.isdir(e.path)]
    except OSError as error:
        raise cannot_list(path, error) from error
    return sorted(names, key=normalised)


def identity(folder: str) -> tuple[int, int]:
    """Device and inode of a folder, the same whatever links lead to it.

    Raises:
        UserError: when it cannot be reached.
    """
    try:
        status = os.stat(folder)
    except OSError as error:
        raise cannot_list(folder, error) from error
    return status.st_dev, status.st_ino


def is_image(entry: os.DirEntry, suffixes: tuple[str, ...] = SUFFIXES) -> bool:
    """Whether it is a file with an image's name, or a link of such a name that leads nowhere."""
    if entry.name.startswith(".") or not entry.name.lower().endswith(suffixes):
        return False
    if not entry.is_symlink():
        return entry.is_file(follow_symlinks=False)
    return os.path.isfile(entry.path) or not os.path.exists(entry.path)


def normalised(path: str) -> str:
    """One spelling for accents: file systems differ in how they store them."""
    return unicodedata.normalize("NFC", path)


def cannot_list(path: str, error: OSError) -> UserError:
    """That a folder cannot be listed, and why."""
    return UserError(f"The folder {path} cannot be listed: {error.strerror or error}", "Check that it may be read")
