"""A model by itself, without an objective: what a published file without classes is.

A checkpoint of it gives evaluators and notebooks the outputs of the model. It cannot be trained: name the task that
the features are to serve.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NoReturn

from flax import linen as nn
from jaxtyping import Array, Int, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.naming import build_named
from vit_jax.nn.example_inputs import example_inputs
from vit_jax.tasks import Batch, DataInfo, Task, Variables, chosen, model_outputs
from vit_jax.tasks._text import text_outputs


@dataclasses.dataclass(frozen=True)
class Features(Task):
    """The outputs of a model of `batch["image"]` float [B, H, W, 3], or of `batch["text"]` int32 [B, L].

    Args:
        model: called as `model(images, train=...)`, or of texts as `vit_jax.tasks._text` says; returns a dict.
        model_spec: what rebuilds it from a checkpoint.
        objective: what its logits mean, where it has some.
    """

    model: nn.Module
    model_spec: Mapping[str, Any] = dataclasses.field(hash=False)
    objective: str = "softmax"

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        inputs = (batch["image"],) if "image" in batch else example_inputs(self.model, None)
        variables = self.model.init({"params": rng}, *inputs, train=False)
        return {"params": variables["params"], "model_state": {k: v for k, v in variables.items() if k != "params"}}

    def loss(self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]) -> NoReturn:
        raise UserError(
            "The task 'features' has no loss to train with", "Set config.task.name to one that has, such as 'classify'"
        )

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        del rng
        if "image" in batch:
            return chosen(names, model_outputs(self.model, variables, batch["image"], names))
        return chosen(names, text_outputs(self.model, variables["params"], batch))


def build(*, model: Mapping[str, Any], data: DataInfo) -> Features:
    """The model of a config's section, or of a published file."""
    section = dict(model) if "text" in data.fields else {"num_classes": 0, **model}
    kwargs = {key: value for key, value in section.items() if key != "name"}
    return Features(build_named("model", section, "config.model"), {"name": section["name"], "kwargs": kwargs})
