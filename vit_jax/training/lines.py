"""A text file that grows by whole lines, on file systems without appending too."""

import os
import time
from collections.abc import Iterable

from etils import epath

from vit_jax.data.files import is_remote, write_whole

_UPLOAD_SECONDS = 30.0


class Lines:
    """Appends lines; what is written is there after a crash, on remote file systems after `flush`.

    Args:
        path: of the file.
        kept: the lines that it starts with, whatever was there.
    """

    def __init__(self, path: epath.Path, kept: Iterable[str]):
        self._path, self._file, self._lines = path, None, list(kept)
        self._upload()
        if not is_remote(path):
            self._file, self._lines = open(path, "a+"), []  # noqa: SIM115

    def removed(self) -> bool:
        """Whether a local file was removed or replaced by another since it was opened."""
        if self._file is None:
            return False
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return True

    def restore(self) -> list[str]:
        """Makes a file that was removed again, with all of its lines, which are returned."""
        with self._file as removed:
            removed.seek(0)
            lines = removed.read().splitlines()
        write_whole(self._path, "".join(line + "\n" for line in lines))
        self._file = open(self._path, "a+")  # noqa: SIM115
        return lines

    def write(self, line: str) -> None:
        if self._file is not None:
            self._file.write(line + "\n")
            self._file.flush()  # people and scripts read along
            return
        # The whole file again: a megabyte after ten thousand lines.
        self._lines.append(line)
        self._pending = True
        if time.monotonic() - self._uploaded > _UPLOAD_SECONDS:
            self._upload()

    def flush(self) -> None:
        if self._file is None and self._pending:
            self._upload()

    def close(self) -> None:
        self.flush()
        if self._file is not None:
            self._file.close()

    def _upload(self) -> None:
        write_whole(self._path, "".join(line + "\n" for line in self._lines))
        self._pending, self._uploaded = False, time.monotonic()
