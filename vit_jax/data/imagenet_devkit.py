"""What each validation image of ILSVRC2012 is, as the devkit or Kaggle's list says it."""

import csv
import io
import os
import re
import tarfile
import zlib
from collections.abc import Callable

from vit_jax.data.files import from_here, read_bytes
from vit_jax.data.matlab import read_table
from vit_jax.errors import UserError

_DEVKIT = "ILSVRC2012_devkit_t12"
_TRUTH, _META = "data/ILSVRC2012_validation_ground_truth.txt", "data/meta.mat"
_KAGGLE = "LOC_val_solution.csv"
_MOST = 2**27  # bytes of one of these files
_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})")
_HOW = "Fetch the devkit again"


def validation_synsets(root: str) -> dict[int, str]:
    """The synset of each validation image, by its number from 1.

    Args:
        root: the folder that holds ILSVRC2012_devkit_t12/, ILSVRC2012_devkit_t12.tar.gz or LOC_val_solution.csv.

    Raises:
        UserError: when none of them is there, or what is there cannot be read.
    """
    unpacked, packed, kaggle = (os.path.join(root, name) for name in (_DEVKIT, f"{_DEVKIT}.tar.gz", _KAGGLE))
    if os.path.isdir(unpacked):
        return _of_devkit(unpacked, lambda name: read_bytes(os.path.join(unpacked, name), _MOST))
    if os.path.isfile(packed):
        return _of_devkit(packed, lambda name: _packed(packed, name))
    if os.path.isfile(kaggle):
        return _of_kaggle(kaggle)
    raise UserError(
        f"{from_here(root)} has validation images without folders, and nothing that says what they are",
        f"Put {_DEVKIT}.tar.gz or {_KAGGLE} beside them",
    )


def _packed(path: str, name: str) -> bytes:
    """A file of the devkit in its archive."""
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            if member.isreg() and member.name.endswith(f"{_DEVKIT}/{name}") and member.size <= _MOST:
                return archive.extractfile(member).read(_MOST)
    raise OSError(None, f"it has no {name}")


def _of_devkit(path: str, read: Callable[[str], bytes]) -> dict[int, str]:
    try:
        truth = [int(line) for line in read(_TRUTH).split()]
        synset = _synsets(read(_META))
        return {number: synset[label] for number, label in enumerate(truth, 1)}
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise UserError(f"{path} could not be read: {getattr(error, 'strerror', None) or error}", _HOW) from error
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise UserError(f"{path} is not the devkit of ILSVRC2012", _HOW) from error


def _synsets(data: bytes) -> dict[int, str]:
    """The synset of each number that the ground truth counts by; those with children are above the classes."""
    table = read_table(data, "synsets")
    return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in table if row["num_children"] == 0}


def _of_kaggle(path: str) -> dict[int, str]:
    try:
        rows = list(csv.reader(io.StringIO(read_bytes(path, _MOST).decode())))[1:]
        return {int(_IMAGE.fullmatch(name)[1]): boxes.split()[0] for name, boxes in rows}
    except (OSError, ValueError, TypeError, IndexError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "it has other lines than ImageId,PredictionString"
        raise UserError(f"{path} could not be read: {reason}", "Fetch it again") from error
