"""Whole files, local or in a bucket."""

import os

from etils import epath


def is_remote(path: str | os.PathLike) -> bool:
    """Whether it is a URL such as gs://bucket/name."""
    return "://" in os.fspath(path)


def read_bytes(path: str | os.PathLike) -> bytes:
    """All of a file.

    Raises:
        OSError: when it cannot be read.
    """
    if is_remote(path):
        return epath.Path(path).read_bytes()
    with open(path, "rb") as file:
        return file.read()
