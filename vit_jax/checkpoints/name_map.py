"""Correspondence between our parameters and the tensors of somebody else's file, written once for both directions."""

import dataclasses
import difflib
import fnmatch
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import cv2
import numpy as np
from jaxtyping import Shaped

from vit_jax.checkpoints.json_file import shown
from vit_jax.errors import UserError

NDArray = Shaped[np.ndarray, "..."]
Shapes = Mapping[str, tuple[int, ...]]


def shape_of(tensors: Shapes, name: str, rank: int, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """The shape of a tensor, which has `rank` axes, none of them empty; `default` where it is missing.

    Raises:
        UserError: another rank, an empty axis, or missing without a default.
    """
    shape = tensors.get(name, default)
    if shape is None:
        raise UserError(f"There is no tensor {name!r}", "The file may be of another family, or incomplete")
    if name in tensors and (len(shape) != rank or 0 in shape):
        raise UserError(f"The tensor {name!r} has the shape {list(shape)[:8]}, not {rank} axes", _SIZE)
    return shape


@dataclasses.dataclass(frozen=True)
class Entry:
    """Some parameters of ours and the tensors of the file that hold the same numbers.

    `write(*read(*tensors))` gives the tensors back, bit for bit: both only split, join, reshape and transpose.

    Args:
        ours: flat names, 'encoder/block_00/mlp/fc1/kernel'.
        theirs: names in the file.
        read: one array for each of `theirs` -> one for each of `ours`.
        write: the inverse.
        copies: how often the file has each number.
        surplus: how many numbers more the file has than the parameter, where this one is made of them by more than that
            and cannot give them back (positions of another grid).
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    read: Callable[..., Sequence[NDArray]]
    write: Callable[..., Sequence[NDArray]]
    copies: int = 1
    surplus: int = 0


def transpose(x: Shaped[np.ndarray, "a b"]) -> Shaped[np.ndarray, "b a"]:
    """A transposed copy; in blocks, which takes a fifth of the time that NumPy does for matrices beyond the cache."""
    x = np.ascontiguousarray(x)
    return cv2.transpose(x) if x.dtype in (np.float32, np.float64) and x.size else np.ascontiguousarray(x.T)


def same(ours: str, theirs: str, shape: Sequence[int] | None = None, stored: Sequence[int] | None = None) -> Entry:
    """The same numbers in the same order; reshaped to `shape` here and to `stored` there where these are given."""

    def reshape(x: NDArray, to: Sequence[int] | None) -> NDArray:
        return x if to is None else x.reshape(to)

    return Entry((ours,), (theirs,), lambda x: [reshape(x, shape)], lambda x: [reshape(x, stored)])


def tied(ours: str, theirs: Sequence[str]) -> Entry:
    """One parameter that the file has under several names; another value under one of them is refused."""
    return repeated(same(ours, theirs[0]), theirs, "Only a model whose head is its embedding can be read")


def repeated(entry: Entry, theirs: Sequence[str], otherwise: str) -> Entry:
    """The parameter of an entry, which the file has under several names; another value under one of them is refused.

    Args:
        otherwise: what to do about such a file.
    """

    def read(first: NDArray, *others: NDArray) -> Sequence[NDArray]:
        for name, other in zip(theirs[1:], others, strict=True):
            if not np.array_equal(first, other):
                raise UserError(
                    f"The tensors {theirs[0]!r} and {name!r} differ, and the model has one parameter for both",
                    otherwise,
                )
        return entry.read(first)

    return Entry(entry.ours, tuple(theirs), read, lambda x: [*entry.write(x)] * len(theirs), len(theirs))


def linear(ours: str, theirs: str, kernel_shape: Sequence[int] | None = None, out_axes: int = 1) -> Entry:
    """PyTorch's weight [out, in] as a kernel [in, out], or as `kernel_shape` with the outputs in `out_axes` axes."""

    def read(w: NDArray) -> list[NDArray]:
        kernel = transpose(w.reshape(w.shape[0], -1))
        return [kernel if kernel_shape is None else kernel.reshape(kernel_shape)]

    def write(kernel: NDArray) -> list[NDArray]:
        inputs = int(np.prod(kernel.shape[:-out_axes]))
        return [transpose(kernel.reshape(inputs, -1))]

    return Entry((ours,), (theirs,), read, write)


def dense(ours: str, theirs: str) -> list[Entry]:
    """A PyTorch Linear with a bias as our `kernel` and `bias`."""
    return [linear(f"{ours}/kernel", f"{theirs}.weight"), same(f"{ours}/bias", f"{theirs}.bias")]


def norm(ours: str, theirs: str) -> list[Entry]:
    """A PyTorch norm as our `scale` and `bias`."""
    return [same(f"{ours}/scale", f"{theirs}.weight"), same(f"{ours}/bias", f"{theirs}.bias")]


def conv(ours: str, theirs: str) -> Entry:
    """PyTorch's convolution weight [out, in, h, w] as a kernel [h, w, in, out]."""
    return Entry(
        (ours,), (theirs,),
        lambda w: [np.ascontiguousarray(w.transpose(2, 3, 1, 0))],
        lambda kernel: [np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))],
    )  # fmt: skip


def convolution(ours: str, theirs: str) -> list[Entry]:
    """A PyTorch convolution, or a transposed one, with a bias as our `kernel` and `bias`."""
    return [conv(f"{ours}/kernel", f"{theirs}.weight"), same(f"{ours}/bias", f"{theirs}.bias")]


def fused(ours: Sequence[str], theirs: str, parts: Sequence[Entry] | None = None) -> Entry:
    """Several parameters that the file keeps as one tensor, joined along its first axis in equal parts.

    Args:
        parts: for each of `ours` the entry that takes its part; by default the part as it is.
    """
    parts = parts or [same(name, theirs) for name in ours]

    def read(x: NDArray) -> list[NDArray]:
        return [part.read(piece)[0] for part, piece in zip(parts, np.split(x, len(parts)), strict=True)]

    def write(*arrays: NDArray) -> list[NDArray]:
        return [np.concatenate([part.write(array)[0] for part, array in zip(parts, arrays, strict=True)])]

    return Entry(tuple(ours), (theirs,), read, write)


@dataclasses.dataclass(frozen=True)
class NameMap:
    """All entries of one model; a bijection between its parameters and the file's tensors.

    What a model keeps beside its parameters goes by names that begin with its collection:
    'batch_stats/encoder/norm1/mean'.

    Args:
        entries: each parameter and each tensor in exactly one of them.
        ignored: patterns of tensors that hold no parameter, such as '*.num_batches_tracked'.
        training: patterns of those that only training needs, such as averages that codes are made of, or how often they
            were used: they are left out too, and said to be.
    """

    entries: Sequence[Entry]
    ignored: tuple[str, ...] = ()
    training: tuple[str, ...] = ()

    def below(self, ours: str = "", theirs: str = "") -> Self:
        """The same of a model that is a part of another one, or of a file.

        Args:
            ours: what stands before all names here, "tokenizer/".
            theirs: what stands before all names there.
        """

        def under(prefix: str, names: Iterable[str]) -> tuple[str, ...]:
            return tuple(prefix + name for name in names)

        entries = [
            dataclasses.replace(entry, ours=under(ours, entry.ours), theirs=under(theirs, entry.theirs))
            for entry in self.entries
        ]
        return dataclasses.replace(
            self, entries=entries, ignored=under(theirs, self.ignored), training=under(theirs, self.training)
        )

    def left_out(self, tensors: Iterable[str]) -> list[str]:
        """Those that only training needs."""
        return sorted(name for name in tensors if any(fnmatch.fnmatchcase(name, each) for each in self.training))

    def check(self, tensors: Iterable[str], path: Any) -> None:
        """Every tensor of the file is read once, and every tensor that is read is there.

        Raises:
            UserError: names a missing or a surplus tensor, and the nearest one.
        """
        passed_over = (*self.ignored, *self.training)
        there = {name for name in tensors if not any(fnmatch.fnmatchcase(name, pattern) for pattern in passed_over)}
        wanted = [name for entry in self.entries for name in entry.theirs]
        missing, surplus = [name for name in wanted if name not in there], sorted(there - set(wanted))
        if missing:
            raise UserError(
                f"{path} has no tensor {shown(missing[0])}" + _more(missing), _nearest(missing[0], surplus or there)
            )
        if surplus:
            raise UserError(
                f"{path} has a tensor {shown(surplus[0])} that this model does not" + _more(surplus),
                _nearest(surplus[0], wanted),
            )

    def check_sizes(self, stored: Shapes, wanted: Shapes, path: Any) -> None:
        """Every tensor holds as many numbers as the parameters that it becomes, before one of them is read.

        Args:
            stored: of the file's tensors.
            wanted: of the model's parameters, by flat name.
        """
        for entry in self.entries:
            there = sum(math.prod(stored[name]) for name in entry.theirs)
            here = sum(math.prod(wanted.get(name, ())) for name in entry.ours)
            if entry.ours and there - entry.surplus != here * entry.copies:
                names = " and ".join(map(shown, entry.theirs))
                shapes = " and ".join(shown(list(stored[name])) for name in entry.theirs)
                needed = ", ".join(f"{name} {list(wanted.get(name, ()))}" for name in entry.ours[:3])
                raise UserError(f"{path} has {names} of shape {shapes} where the model needs {needed}", _SIZE)

    def read(self, tensors: Callable[[str], NDArray], shapes: Shapes, path: Any) -> Iterator[tuple[str, NDArray]]:
        """Our parameters, one after the other.

        Args:
            tensors: gives a tensor of the file by name.
            shapes: of the model's parameters, by flat name.

        Raises:
            UserError: a tensor does not have the shape that the model needs, or a parameter is left without one.
        """
        left = set(shapes)
        for entry in self.entries:
            arrays = [tensors(name) for name in entry.theirs]
            names = " and ".join(repr(name) for name in entry.theirs)
            stored = " and ".join(str(list(array.shape)) for array in arrays)
            try:
                ours = entry.read(*arrays)
            except (ValueError, IndexError, TypeError) as error:  # a reshape, split or transpose that does not fit
                raise UserError(f"{path} has {names} of shape {stored}, which the model cannot take", _SIZE) from error
            for name, array in zip(entry.ours, ours, strict=True):
                if name not in shapes:
                    raise UserError(f"{path} has {names} for {name}, which the model does not have", _SIZE)
                if array.shape != tuple(shapes[name]):
                    raise UserError(
                        f"{path} has {names} of shape {stored}, which makes {name} {list(array.shape)} where the model "
                        f"needs {list(shapes[name])}",
                        _SIZE,
                    )
                left.discard(name)
                yield name, array
        if left:
            raise UserError(f"{path} has nothing for the parameter {min(left)}" + _more(left), _SIZE)

    def write(self, params: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """The file's tensors from our flat parameters."""
        tensors = {}
        for entry in self.entries:
            arrays = entry.write(*(np.asarray(params[name]) for name in entry.ours))
            tensors |= dict(zip(entry.theirs, arrays, strict=True))
        unwritten = set(params) - {name for entry in self.entries for name in entry.ours}
        if unwritten:
            raise UserError(
                f"This format has no place for {min(unwritten)}" + _more(unwritten), "Choose another format"
            )
        return tensors


_LONG = 200  # characters; no library has names as long
_SIZE = "Check that the file and its config belong together"


def _more(names: Iterable[str]) -> str:
    count = len(list(names)) - 1
    return f" (and {count} more)" if count else ""


def _nearest(name: str, known: Iterable[str]) -> str:
    some = [other for other in itertools.islice(known, 2000) if len(other) < _LONG]  # it takes a while
    close = difflib.get_close_matches(name, some, n=1, cutoff=0.5) if len(name) < _LONG else []
    return f"The nearest is {shown(close[0])}" if close else "The file may be of another family, or incomplete"
