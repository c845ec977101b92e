"""What is exported of a checkpoint that reads texts: a pure function of its parameters and of rows of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Shaped

from vit_jax.checkpoints.channels import channels_of
from vit_jax.checkpoints.load import Loaded
from vit_jax.checkpoints.serving.program import named
from vit_jax.checkpoints.source import nested
from vit_jax.checkpoints.tokenized import tokenized
from vit_jax.checkpoints.transfer import flat_arrays
from vit_jax.data.batch import NotedBatch
from vit_jax.errors import UserError
from vit_jax.nn.part_in import part_in
from vit_jax.tasks import example_keys

_ROWS = ([0], [0])  # texts as tokens, of which any field has room for one; what they are does not matter


@dataclass(frozen=True)
class TextProgram:
    """Outputs of a checkpoint's task as one traceable function of flat parameters and rows of tokens.

    It takes of a field's arrays (the tokens; which of them are no padding; their segments) those that the outputs
    depend on, and holds of the parameters those that they depend on: of CLIP's two towers one, and the tokens alone.

    Args:
        loaded: the checkpoint.
        names: of the task's outputs that are made of texts; by default the features.
        batch_size: of the texts; None for any.

    Raises:
        UserError: a checkpoint that takes no texts, or an output that is not made of them.
    """

    loaded: Loaded
    names: tuple[str, ...] = ()
    batch_size: int | None = None
    preprocessing: ClassVar[str] = "none"  # of texts: they are tokens already

    def __post_init__(self):
        object.__setattr__(self, "names", tuple(self.names) or ("features",))
        if "samples" in self.names:
            raise UserError("Samples are drawn with a seed, which no exported program takes", "Use 'vit_jax generate'")
        if not self.inputs:
            raise UserError(f"{', '.join(self.names)} depends on no text", "Name another output")

    @property
    def parameters(self) -> dict[str, Shaped[np.ndarray, "..."]]:
        """The variables that the outputs depend on by their path, as 'params/text/...'."""
        kept = self._traced[0]
        return {name: value for name, value in flat_arrays(self.loaded.variables).items() if name in kept}

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the arrays that it takes."""
        return tuple(name for name in self._rows if name in self._traced[1])

    def symbolic(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The rows, with a symbol where their number is open."""
        return self._shaped(*export.symbolic_shape(str(self.batch_size or "batch")))

    def example(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """So many rows."""
        return self._shaped(self.batch_size or batch_size)

    def drawn(self, rng: np.random.Generator, count: int) -> dict[str, Shaped[np.ndarray, "B ..."]]:
        """Rows of made-up texts of all lengths, with all arrays of the field."""
        [field] = [field for field in self.loaded.fields.values() if field.is_text]
        room = max(1, field.length - 3)  # beside what says where one or two texts start and end
        texts = [
            rng.integers(0, field.tokenizer.vocab_size, rng.integers(1, room, endpoint=True)) for _ in range(count)
        ]
        return tokenized(self.loaded.fields, [text.tolist() for text in texts], self.loaded.path)

    def described(self) -> dict[str, Any]:
        """What export.json says of it."""
        rows, size = self.example(1), self.batch_size or "batch"
        outputs = jax.eval_shape(self.__call__, self.parameters, rows)
        return {
            "inputs": [_said(x, size) | {"name": name} for name, x in rows.items()],
            "outputs": {name: _said(x, size) for name, x in outputs.items()},
        }

    def _shaped(self, size: Any) -> dict[str, jax.ShapeDtypeStruct]:
        rows = {name: self._rows[name] for name in self.inputs}
        return {name: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype) for name, x in rows.items()}

    def __call__(
        self, parameters: Mapping[str, Shaped[Array, "..."]], rows: Mapping[str, Shaped[Array, "B ..."]]
    ) -> dict[str, Shaped[Array, "B ..."]]:
        """Outputs by name. Traced."""
        # What the outputs do not depend on is used by nobody, and has to be there: as one zero, which takes no memory.
        size, zero = next(iter(rows.values())).shape[0], np.zeros((), np.float32)
        stored = flat_arrays(self.loaded.variables)
        others = {name: np.broadcast_to(zero, x.shape) for name, x in stored.items() if name not in parameters}
        more = {name: jnp.zeros((size, *x.shape[1:]), x.dtype) for name, x in self._rows.items() if name not in rows}
        # Tokens index the embeddings, which NumPy's arrays do not take from a traced function.
        found = {name: jnp.asarray(x) for name, x in parameters.items()}
        variables = {"params": {}, "model_state": {}, **nested({**others, **found})}
        batch = NotedBatch({**more, **rows})
        keys = example_keys(np.uint32(0), batch)
        return named(self.loaded.task.outputs(variables, batch, frozenset(self.names), keys), self.names)

    @cached_property
    def _rows(self) -> dict[str, Shaped[np.ndarray, "2 ..."]]:
        return tokenized(self.loaded.fields, _ROWS, self.loaded.path)

    @cached_property
    def _traced(self) -> tuple[frozenset[str], frozenset[str]]:
        """Which parameters and arrays the outputs depend on."""
        arguments = (flat_arrays(self.loaded.variables), self._rows)
        kept = part_in(jax.make_jaxpr(self.__call__)(*arguments).jaxpr)
        names = [(place, name) for place, tree in enumerate(arguments) for name in sorted(tree)]
        found = [name for name, needed in zip(names, kept, strict=True) if needed]
        parameters, rows = ({name for at, name in found if at == place} for place in (0, 1))
        return frozenset(parameters), frozenset(rows)


def reads_texts(loaded: Loaded, names: Sequence[str]) -> bool:
    """Whether outputs of a checkpoint are those of texts: it takes no images, or one of them is not made of images."""
    if loaded.preprocess is None:
        return True
    if not names or not any(field.is_text for field in loaded.fields.values()):
        return False
    image = jax.ShapeDtypeStruct((1, *loaded.preprocess.image_size, channels_of(loaded.params) or 3), np.float32)
    rows = tokenized(loaded.fields, _ROWS, loaded.path)
    return not _gives(loaded, names, {"image": image}) and any(_gives(loaded, (name,), rows) for name in names)


def _gives(loaded: Loaded, names: Sequence[str], batch: Mapping[str, Any]) -> bool:
    """Whether the task gives all of these outputs for such a batch."""
    try:
        jax.eval_shape(lambda given: loaded.outputs(given, tuple(names)), dict(batch))
    except UserError:
        return False
    return True


def _said(x: Any, size: int | str) -> dict[str, Any]:
    return {"shape": [size, *x.shape[1:]], "dtype": x.dtype.name}
