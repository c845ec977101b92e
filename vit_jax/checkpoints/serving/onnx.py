"""ONNX: the program and its parameters in one file, by the converter jax2onnx; it runs with onnxruntime.

What is converted is the same function as elsewhere, so that inputs and outputs keep names, order (NHWC) and shapes. The
converter knows many operations of JAX and not all: a model with another one is refused by its name.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from vit_jax.errors import UserError

if TYPE_CHECKING:
    from vit_jax.checkpoints.serving.program import Program
    from vit_jax.checkpoints.serving.stablehlo import Given
    from vit_jax.checkpoints.serving.text_program import TextProgram

MODEL = "model.onnx"
OPSET = 23
_MOST = 2**31 - 1  # bytes of one protobuf, which an ONNX file is
_GRAPH = 2**24  # bytes that are left for operations, names and constants, of which the largest ViT has less


def write(program: Program | TextProgram, folder: Path, platforms: Sequence[str]) -> dict[str, Any]:
    """Writes the model into a folder that is there.

    Returns:
        What export.json is to say beside what all formats say.

    Raises:
        UserError: jax2onnx is not installed, or cannot convert the model.
    """
    del platforms  # onnxruntime has its own
    try:
        with _quiet():
            from jax2onnx import to_onnx
    except ImportError as error:
        raise UserError("ONNX needs the package jax2onnx", "pip install 'vit_jax[export-onnx]'") from error
    if program.preprocessing == "resize":
        raise UserError(
            "An ONNX file resizes no images: jax2onnx knows no sums over sizes that are open",
            "Prepare them before it, and use preprocessing 'normalize'",
        )
    size = sum(x.nbytes for x in program.parameters.values())
    if size > _MOST - _GRAPH:
        raise UserError(
            f"The parameters have {size:,} bytes, and an ONNX file {_MOST:,} at most with all operations",
            "Use stablehlo",
        )
    parameters = jax.tree.map(np.asarray, program.parameters)
    names, given = list(jax.eval_shape(program.__call__, program.parameters, program.example(1))), program.symbolic()
    arrays = given if isinstance(given, Mapping) else {"image": given}

    def function(*rows: Any) -> tuple[Any, ...]:
        found = dict(zip(arrays, rows, strict=True)) if arrays is given else rows[0]
        return tuple(program(parameters, found).values())

    with _quiet():
        try:
            model = to_onnx(
                function,
                list(arrays.values()),
                model_name="vit_jax",
                opset=OPSET,
                input_names=list(arrays),
                output_names=names,
            )
        except Exception as error:  # what the converter raises for what it does not know is not documented
            first = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
            advice = "Give a batch size, or use stablehlo" if program.batch_size is None else "Use stablehlo"
            raise UserError(f"jax2onnx cannot convert this model: {first[:300]}", advice) from error
    try:
        whole = model.SerializeToString()
    except Exception as error:  # of protobuf's own kinds, which change with its version
        raise UserError(
            f"The model does not fit into an ONNX file, which has {_MOST:,} bytes at most", "Use stablehlo"
        ) from error
    (folder / MODEL).write_bytes(whole)
    return {"opset": OPSET}


def read(folder: Path) -> Callable[[Given], Mapping[str, np.ndarray]]:
    """The model in onnxruntime, on the CPU.

    Raises:
        UserError: onnxruntime is not installed, or the file is missing or damaged.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            "An ONNX file is run by the package onnxruntime", "pip install 'vit_jax[export-onnx]'"
        ) from error
    path = folder / MODEL
    if not path.is_file():
        raise UserError(f"{path} is missing", "Export the model again")
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors: what it optimises away is no news
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors are of a module that has no public name
        first = next(iter(str(error).strip().splitlines()), "")
        raise UserError(f"onnxruntime cannot read {path}: {first[:300]}", "Export the model again") from error
    names = [output.name for output in session.get_outputs()]
    image = session.get_inputs()[0].name

    def run(given: Given) -> dict[str, np.ndarray]:
        arrays = dict(given) if isinstance(given, Mapping) else {image: given}
        try:
            return dict(zip(names, session.run(names, arrays), strict=True))
        except Exception as error:  # such as an operation that its CPU kernels lack
            first = next(iter(str(error).strip().splitlines()), "")
            raise UserError(f"onnxruntime cannot run {path.name}: {first[:300]}", "Use stablehlo") from error

    return run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the converter's remarks on shapes that it leaves open, and on libraries that it could also convert."""
    loggers = [logging.getLogger(name) for name in ("onnx_ir", "jax2onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
