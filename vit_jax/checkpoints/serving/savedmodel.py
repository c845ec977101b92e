"""TensorFlow's SavedModel, by jax.experimental.jax2tf: for TensorFlow Serving and what else reads one.

The StableHLO is inside it, as one operation, XlaCallModule, with the parameters as variables beside it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Shaped

from vit_jax.checkpoints.serving.stablehlo import unplaced
from vit_jax.errors import UserError

if TYPE_CHECKING:
    from vit_jax.checkpoints.serving.program import Program
    from vit_jax.checkpoints.serving.text_program import TextProgram

SIGNATURE = "serving_default"


def write(program: Program | TextProgram, folder: Path, platforms: Sequence[str]) -> dict[str, Any]:
    """Writes saved_model.pb and variables/ into a folder that is there.

    Returns:
        What export.json is to say beside what all formats say.

    Raises:
        UserError: TensorFlow is not installed, or the model cannot be lowered so.
    """
    if isinstance(program.symbolic(), Mapping):
        raise UserError("A SavedModel is written of images alone", "Use stablehlo or onnx for texts")
    tf = _tensorflow()
    from jax.experimental import jax2tf

    shape = "(" + ", ".join(map(str, program.shape)) + ")"
    converted = jax2tf.convert(
        program.__call__,
        polymorphic_shapes=[None, shape],
        with_gradient=False,
        native_serialization_platforms=tuple(platforms),
    )
    module = tf.Module()
    # Names of variables may not hold what paths of parameters do.
    module.parameters = [tf.Variable(np.asarray(x), trainable=False) for x in program.parameters.values()]
    names = list(program.parameters)
    signature = tf.TensorSpec(
        [side if isinstance(side, int) else None for side in program.shape], program.dtype, name="image"
    )

    @tf.function(autograph=False, input_signature=[signature])
    def serve(image: Any) -> dict[str, Any]:
        return converted(dict(zip(names, module.parameters, strict=True)), image)

    module.serve = serve
    try:
        with unplaced():
            tf.saved_model.save(module, str(folder), signatures={SIGNATURE: serve})
    except (NotImplementedError, ValueError, TypeError, jax.errors.JAXTypeError) as error:
        first = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise UserError(f"This model cannot be exported so: {first[:300]}", "Give a batch size") from error
    return {"platforms": list(platforms), "jax": jax.__version__, "tensorflow": tf.__version__}


def read(folder: Path) -> Callable[[Shaped[np.ndarray, "B H W C"]], Mapping[str, Any]]:
    """The signature "serving_default" of the model.

    Raises:
        UserError: TensorFlow is not installed, or the folder holds no such model.
    """
    tf = _tensorflow()
    if not (folder / "saved_model.pb").is_file():
        raise UserError(f"{folder / 'saved_model.pb'} is missing", "Export the model again")
    try:
        model = tf.saved_model.load(str(folder))
        model.signatures[SIGNATURE]
    except Exception as error:  # a damaged protobuf raises whatever its parser does
        raise UserError(f"{folder} is no SavedModel that TensorFlow reads", "Export the model again") from error

    return lambda images: model.signatures[SIGNATURE](image=tf.constant(images))  # which lives as long as the model


def _tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow
    except ImportError as error:
        raise UserError(
            "A SavedModel is written and read by TensorFlow", "pip install 'vit_jax[export-savedmodel]'"
        ) from error
    return tensorflow
