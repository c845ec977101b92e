"""Where the files in a tar archive lie, so that they can be read by index without being unpacked."""

import errno
import io
import os
import tarfile
from typing import Any, BinaryIO, NamedTuple

from vit_jax.data.decode import MAX_FILE_BYTES, UnreadableImage
from vit_jax.data.files import from_here
from vit_jax.errors import UserError, shortened

_BLOCK = 512
# What tarfile raises for headers that are none; for numbers in them that are none or of 64 bits and more; and for
# thousands of headers that each announce the next.
_DAMAGE = (tarfile.TarError, ValueError, OverflowError, RecursionError)


class Member(NamedTuple):
    """A file in an archive.

    Args:
        name: with its folders.
        offset: of its first byte in the archive.
        size: in bytes.
    """

    name: str
    offset: int
    size: int


class _Section(io.RawIOBase):
    """A part of a file, as a file that is read alone."""

    def __init__(self, path: str, offset: int, size: int):
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115
        self._offset, self._size, self._at = offset, size, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._size - self._at))
        self._file.seek(self._offset + self._at)
        count = self._file.readinto(memoryview(buffer)[:wanted])
        self._at += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def members_within(path: str, inside: Member) -> tuple[list[Member], bool]:
    """The regular files of an archive that lies in another one, with their places in the outer one, and whether it is
    whole; see `members`.

    Args:
        path: of the outer archive.
        inside: the inner one.

    Raises:
        UserError: as `members`.
    """
    where = f"{path}, member {inside.name},"
    with _Section(path, inside.offset, inside.size) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                found, whole = _members(where, archive, file, inside.size)
        except _DAMAGE as error:
            raise UserError(f"{where} is no tar archive", "Fetch it again") from error
    return [Member(member.name, inside.offset + member.offset, member.size) for member in found], whole


def read_member(file: BinaryIO, offset: int, size: int) -> bytes:
    """The bytes of a file in an archive that is open.

    Raises:
        OSError: when they cannot be read, or the archive ends before.
    """
    file.seek(offset)
    data = file.read(size)
    if len(data) != size:
        raise OSError(errno.EIO, "it is cut short")
    return data


def read_image(path: str, member: Member) -> tuple[bytes, str]:
    """The bytes of an image in an archive, and where it is, for errors.

    Raises:
        UnreadableImage: when it cannot be read, or is larger than any image that `decode` would take.
    """
    where = f"{path}, member {member.name}"
    if member.size > MAX_FILE_BYTES:
        raise UnreadableImage(f"{where} has more bytes than an image", "Leave it out")
    try:
        with open(path, "rb") as file:
            return read_member(file, member.offset, member.size), where
    except OSError as error:
        raise UnreadableImage(f"{where} could not be read: {error.strerror or error}", "Check the path") from error


def members(path: str) -> tuple[list[Member], bool]:
    """The regular files of an archive in their order, and whether it is whole.

    Their headers alone are read. One that is cut short, or damaged in between, has the files before that place. Links,
    devices and sparse files are left out: what lies at their place is not what they are.

    Raises:
        UserError: for what cannot be read or is no archive, also a compressed one, and for a member whose name is
            absolute or leads through "..". Nothing is unpacked here, but an archive of such names was made to harm.
    """
    if not os.path.isfile(path):  # a pipe would be waited for
        raise UserError(f"{from_here(path)} is no file", "Check the path")
    if not os.path.getsize(path):
        return [], False
    try:
        with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            return _members(path, archive, file, os.path.getsize(path))
    except _DAMAGE as error:  # of its first header
        raise UserError(
            f"{path} is no tar archive, or a compressed one", "Give uncompressed .tar files, which are read by index"
        ) from error
    except OSError as error:
        raise UserError(f"{from_here(path)} could not be read: {error.strerror or error}", "Check the path") from error


def _members(path: str, archive: tarfile.TarFile, file: BinaryIO, size: int) -> tuple[list[Member], bool]:
    found: list[Member] = []
    end = 0
    while True:
        try:
            member = archive.next()
        except (*_DAMAGE, OSError):  # for one, less than the last header promises
            return _inside(found, size), False
        archive.members = []  # it would keep them all
        if member is None:
            break
        if member.size < 0 or member.offset < end:  # headers that would lead back, and round and round
            return _inside(found, size), False
        end = member.offset_data
        if member.name.startswith("/") or ".." in member.name.split("/"):
            raise UserError(
                f"{path} has a member {shortened(repr(member.name), 200)}, which leads out of it",
                "Do not use this archive, or make it anew from files you trust",
            )
        if member.isreg() and not member.issparse():
            found.append(Member(member.name, member.offset_data, member.size))
    # tarfile stops in silence at a damaged header, and where the file ends between two members. A whole archive goes on
    # with a block of zeros.
    file.seek(archive.offset)
    rest = file.read(_BLOCK)
    whole = len(rest) == _BLOCK and not any(rest)
    return _inside(found, size), whole


def _inside(found: list[Member], size: int) -> list[Member]:
    """Those that the file has to their last byte."""
    return [member for member in found if member.offset + member.size <= size]
