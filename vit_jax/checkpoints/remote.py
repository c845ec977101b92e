"""What differs where a path is not on a local file system."""

import os
import sys

from etils import epath


def is_remote(path: epath.PathLike) -> bool:
    """Whether it lies on an object store: no appending, no renaming, no locks."""
    return "://" in os.fspath(path)


def forget_listings(path: epath.PathLike) -> None:
    """Has the next look at a remote path see what other processes wrote: fsspec's clients remember what they listed."""
    scheme = os.fspath(path).partition("://")[0]
    client = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}.get(scheme)
    if client in sys.modules:  # else TensorFlow's client is in use, which remembers nothing, or none yet
        epath.backend.fsspec_backend.fs(path).invalidate_cache()
