"""What a checkpoint is worth: one file per measurement, each seeing a task only through its named outputs."""

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import numpy as np
from jaxtyping import Array, PyTree

from vit_jax.data.pipeline import EvalPipeline

# Makes a pipeline for an evaluator from optional `source` and `transform` sections and a seed.
PipelineFactory = Callable[..., EvalPipeline]


class Evaluator(Protocol):
    """A frozen dataclass made by the `build(pipeline, **kwargs)` of its module, with `pipeline` a PipelineFactory."""

    needs: tuple[str, ...]
    """Names of the task outputs that `measure` reads."""

    def measure(self, outputs: Mapping[str, Array], batch: Mapping[str, Array]) -> PyTree:
        """What is kept of a batch; traced into the same compiled function as the model."""
        ...

    def metrics(self, run: Callable[[EvalPipeline], Iterator[PyTree[np.ndarray]]]) -> dict[str, float]:
        """The numbers; `run(pipeline)` gives what `measure` kept of each batch, on the host."""
        ...
