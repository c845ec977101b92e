"""What other processes have written to a bucket."""

import os
import sys

from etils import epath


def forget_listings(path: epath.PathLike) -> None:
    """Has the next look at a remote path see what other processes wrote: fsspec's clients remember what they listed."""
    scheme = os.fspath(path).partition("://")[0]
    client = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}.get(scheme)
    if client in sys.modules:  # else TensorFlow's client is in use, which remembers nothing, or none yet
        epath.backend.fsspec_backend.fs(path).invalidate_cache()
