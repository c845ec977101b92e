"""Where the files in a tar archive lie, so that they can be read by index without being unpacked."""

import os
import tarfile
from typing import NamedTuple

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
        with tarfile.open(path, "r:") as archive:
            return _members(path, archive)
    except _DAMAGE as error:  # of its first header
        raise UserError(
            f"{path} is no tar archive, or a compressed one", "Give uncompressed .tar files, which are read by index"
        ) from error
    except OSError as error:
        raise UserError(f"{from_here(path)} could not be read: {error.strerror or error}", "Check the path") from error


def _members(path: str, archive: tarfile.TarFile) -> tuple[list[Member], bool]:
    found: list[Member] = []
    end, size = 0, os.path.getsize(path)
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
    with open(path, "rb") as file:
        file.seek(archive.offset)
        rest = file.read(_BLOCK)
    whole = len(rest) == _BLOCK and not any(rest)
    return _inside(found, size), whole


def _inside(found: list[Member], size: int) -> list[Member]:
    """Those that the file has to their last byte."""
    return [member for member in found if member.offset + member.size <= size]
