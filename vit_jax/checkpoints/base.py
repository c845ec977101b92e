"""Frozen parameters that a run does not save: they are those of a checkpoint that it started from, its base.

The metadata name where each lies and a checksum of it, so that a step without its base, or beside another one, cannot
be read. What adapters learn is a few per cent of a model, and so is a checkpoint of it.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from vit_jax.checkpoints.digests import Digests, differing, digests_of, text_digest
from vit_jax.data.files import is_remote
from vit_jax.errors import UserError

# A checkpoint's path -> its parameters, flat.
Reading = Callable[[str], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Base:
    """A checkpoint of which a run's own lack the parameters; as metadata have it.

    Args:
        path: of the checkpoint as it was found: a step directory or a file, or its address.
        relative: the same seen from the run's workdir, for who moves both; None for an address.
        names: from the name of each parameter in the run to its name there.
        checksums: of the parameters, by their names in the run.
    """

    path: str
    relative: str | None
    names: Mapping[str, str]
    checksums: Digests

    @property
    def digest(self) -> str:
        return f"{text_digest(self.checksums):08x}"

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def problem_with_bases(bases: Any) -> bool:
    """Whether this is not what `Base.to_json` makes, several times."""

    def fits(base: Any) -> bool:
        if not isinstance(base, Mapping) or set(base) != {f.name for f in dataclasses.fields(Base)}:
            return False
        names, sums = base["names"], base["checksums"]
        return (
            isinstance(base["path"], str)
            and isinstance(base["relative"], str | None)
            and isinstance(names, Mapping)
            and isinstance(sums, Mapping)
            and set(names) == set(sums)
            and all(isinstance(there, str) for there in names.values())
            and all(isinstance(regions, Mapping) for regions in sums.values())
        )

    return not (isinstance(bases, list) and all(map(fits, bases)))


def bases_of(
    origins: Sequence[tuple[str, Mapping[str, str]]], frozen: Mapping[str, Any], workdir: epath.PathLike
) -> tuple[Base, ...]:
    """The bases of a run that starts.

    Args:
        origins: `path` and `names` of each base; of a name that several gave, the last one counts.
        frozen: name -> value of the parameters that never change and were loaded.

    Raises:
        UserError: none of them was loaded.
    """
    bases, taken = [], set()
    for path, origin in reversed(origins):
        names = {name: there for name, there in origin.items() if name in frozen and name not in taken}
        taken |= names.keys()
        if names:
            local = not (is_remote(path) or is_remote(workdir))
            relative = os.path.relpath(path, os.path.abspath(workdir)) if local else None
            bases.append(Base(path, relative, names, _checksums({name: frozen[name] for name in names})))
    if not bases:
        raise UserError(
            "config.checkpoint.frozen is 'base', and no frozen parameter comes from config.init_from as it is",
            "Name the checkpoint there, or leave config.checkpoint.frozen out",
        )
    return tuple(bases[::-1])


def read_bases(
    bases: Sequence[Base], step_path: epath.Path, reading: Reading, moved: str | None = None
) -> dict[str, jax.Array]:
    """Flat name -> value of the parameters that a step lacks.

    Args:
        bases: of its metadata.
        step_path: where the step lies.
        reading: opens a checkpoint.
        moved: where the base lies now, where that is another place.

    Raises:
        UserError: a base is not there, or is another one.
    """
    found: dict[str, jax.Array] = {}
    if moved is not None and len(bases) != 1:
        raise UserError(f"{step_path} has {len(bases)} bases, of which none can be named", "Leave the base out")
    for base in bases:
        path = _place(base, step_path) if moved is None else moved
        try:
            flat = reading(path)
        except RecursionError as error:  # a file of a stranger can say anything
            raise UserError(
                f"The bases of {step_path} lead back to it", "It is damaged or forged: use another copy"
            ) from error
        there = {name: flat[other] for name, other in base.names.items() if other in flat}
        if len(there) < len(base.names) or differing(there, base.checksums):
            own = f"{text_digest(_checksums(there)):08x}"
            raise UserError(
                f"{step_path} was trained on a base with the digest {base.digest}, and {path} has {own}",
                "Name the checkpoint that it was trained on with base= (--base), or put it there, where train looks",
            )
        found |= there
    return found


def _checksums(flat: Mapping[str, Any]) -> Digests:
    """Of each whole array, however it lies on devices."""
    return digests_of({name: np.asarray(value) for name, value in flat.items()})


def _place(base: Base, step_path: epath.Path) -> str:
    """Where a base lies: where it did, or beside the run as it did."""
    if is_remote(base.path):
        return base.path
    beside = None if base.relative is None else os.path.normpath(step_path.parent.parent / base.relative)
    for path in (base.path, beside):
        if path is not None and os.path.exists(path):
            return path
    raise UserError(
        f"{step_path} holds what was trained beside a base that is no longer at {base.path}",
        f"Name where it is now with base= (--base), or put it or a link to it there, where train looks; "
        f"its digest is {base.digest}",
    )
