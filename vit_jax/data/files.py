"""Whole files, local or in a bucket."""

import errno
import os
import re
import resource
import stat

from etils import epath

from vit_jax.errors import UserError

_OTHER_FILES = 256  # what a process may have open besides: libraries, checkpoints, pipes


def is_remote(path: str | os.PathLike) -> bool:
    """Whether it is a URL such as gs://bucket/name."""
    return re.match(r"[a-z][a-z0-9+.-]*://", os.fspath(path)) is not None


def from_here(path: str | os.PathLike) -> str:
    """`path` for an error that says it is missing: with the directory that a relative one starts from."""
    path = os.fspath(path)
    return path if os.path.isabs(path) or is_remote(path) else f"{path} in {os.getcwd()}"


def read_bytes(path: str | os.PathLike, most: int | None = None) -> bytes:
    """All of a file.

    Only regular files are read: opening a pipe would wait for whoever writes into it, and a device has no end.

    Args:
        path: of the file; links are followed.
        most: bytes that it may have; any number by default.

    Raises:
        OSError: when it cannot be read, is not a regular file, or has more than `most` bytes; its `strerror` says
            which.
    """
    if is_remote(path):
        return _bounded(epath.Path(path).read_bytes(), most, path)
    if "\0" in os.fspath(path):
        raise OSError(errno.EINVAL, "its name holds a zero byte", os.fspath(path))
    # NONBLOCK, or the opening of a pipe would already wait.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is a pipe, socket or device, not a file", os.fspath(path))
        if most is not None and status.st_size > most:
            raise _too_large(most, path)
        # Some files of /proc say that they have no bytes and go on for ever.
        return _bounded(file.read(-1 if most is None else most + 1), most, path)


def write_whole(path: epath.PathLike, content: bytes | str) -> None:
    """Writes a whole file or nothing, over one that is there; text as UTF-8.

    Raises:
        OSError: when it cannot be written.
    """
    path, content = epath.Path(path), content.encode() if isinstance(content, str) else content
    if is_remote(path):  # an object appears when it is complete
        path.write_bytes(content)
        return
    partial = path.parent / (path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def allow_open(count: int, what: str) -> None:
    """Lets this process have `count` more files open at once than it might until now.

    Many systems begin with 1024, and let a process raise that itself up to a limit which only an administrator raises.

    Args:
        what: what is made of them, for the error.

    Raises:
        UserError: when the system does not let it have so many.
    """
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if now == resource.RLIM_INFINITY:
        return
    if most != resource.RLIM_INFINITY and count + _OTHER_FILES > most:
        raise UserError(
            f"{what} is {count} files, and a process here may have {most} open",
            f"Allow {count + _OTHER_FILES} ('ulimit -Hn', or the container's limit), or write it in fewer files",
        )
    wanted = now + count
    if most != resource.RLIM_INFINITY:
        wanted = min(wanted, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _bounded(data: bytes, most: int | None, path: str | os.PathLike) -> bytes:
    if most is not None and len(data) > most:
        raise _too_large(most, path)
    return data


def _too_large(most: int, path: str | os.PathLike) -> OSError:
    return OSError(errno.EFBIG, f"it has more than {most} bytes", os.fspath(path))
