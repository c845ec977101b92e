"""StableHLO: the program as `jax.export` serialises it, and its parameters beside it as safetensors.

Any JAX from the one that wrote it to half a year later reads the program, and other tools read the StableHLO in it. The
parameters are arguments: programs stay small, and what compiles is what `predict` compiles.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax import export
from jaxtyping import Array, Shaped

from vit_jax.checkpoints.safetensors import SafetensorsFile, write_safetensors
from vit_jax.errors import UserError

if TYPE_CHECKING:
    from vit_jax.checkpoints.serving.program import Program
    from vit_jax.checkpoints.serving.text_program import TextProgram

# Images, or arrays of texts by their names.
Given = Shaped[np.ndarray, "B H W C"] | Mapping[str, Shaped[np.ndarray, "B ..."]]

PROGRAM, PARAMETERS = "program.stablehlo", "parameters.safetensors"
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
HERE = {"gpu": ("cuda", "rocm")}  # what `jax.default_backend` calls platforms


def write(program: Program | TextProgram, folder: Path, platforms: Sequence[str]) -> dict[str, Any]:
    """Writes the program and its parameters into a folder that is there.

    Returns:
        What export.json is to say beside what all formats say.

    Raises:
        UserError: a program that cannot be lowered for these platforms, or not for any batch size.
    """
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in program.parameters.items()}
    lower = export.export(jax.jit(program.__call__), platforms=list(platforms))
    try:
        with unplaced():
            exported = lower(shapes, program.symbolic())
    except (
        NotImplementedError,
        ValueError,
        TypeError,
        jax.errors.JAXTypeError,
    ) as error:  # symbols where numbers are due
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        advice = "Give a batch size, or fewer platforms" if program.batch_size is None else "Give fewer platforms"
        raise UserError(f"This model cannot be exported so: {first[:300]}", advice) from error
    (folder / PROGRAM).write_bytes(exported.serialize())
    write_safetensors(folder / PARAMETERS, {name: np.asarray(x) for name, x in program.parameters.items()})
    return {"platforms": list(platforms), "jax": jax.__version__, "convention": exported.calling_convention_version}


def read(folder: Path) -> Callable[[Given], Mapping[str, Array]]:
    """The program, with its parameters on the device; it compiles at the first call, once for each shape.

    Raises:
        UserError: a file that is missing or damaged, or a program for other platforms.
    """
    for name in (PROGRAM, PARAMETERS):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing", "Export the model again, or fetch all of its files")
    try:
        exported = export.deserialize(bytearray((folder / PROGRAM).read_bytes()))
    except Exception as error:  # what a damaged flatbuffer raises is not documented
        raise UserError(f"{folder / PROGRAM} is damaged, or of a newer JAX", "Export the model again") from error
    backend = jax.default_backend()
    if not set(HERE.get(backend, (backend,))) & set(exported.platforms):
        raise UserError(
            f"{folder} is a program for {', '.join(exported.platforms)}, and here is {backend}",
            "Export it with --platforms for this one too",
        )
    file = SafetensorsFile(folder / PARAMETERS)
    parameters = jax.device_put({name: np.array(file[name]) for name in file.shapes})
    call = jax.jit(exported.call)
    return lambda given: call(parameters, given)


@contextlib.contextmanager
def unplaced() -> Iterator[None]:
    """Of the source files that a lowered program names, JAX writes the names alone: not where they lie here."""
    key = "jax_hlo_source_file_canonicalization_regex"
    before = getattr(jax.config, key)
    jax.config.update(key, r"^.*[/\\]")
    try:
        yield
    finally:
        jax.config.update(key, before)
