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
from vit_jax.tasks import Batch, DataInfo, Task, Variables, chosen, model_outputs


@dataclasses.dataclass(frozen=True)
class Features(Task):
    """The outputs of a model of `batch["image"]` float [B, H, W, 3].

    Args:
        model: called as `model(images, train=...)`, returns a dict.
        model_spec: what rebuilds it from a checkpoint.
        objective: what its logits mean, where it has some.
    """

    model: nn.Module
    model_spec: Mapping[str, Any] = dataclasses.field(hash=False)
    objective: str = "softmax"

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        variables = self.model.init({"params": rng}, batch["image"], train=False)
        return {"params": variables["params"], "model_state": {k: v for k, v in variables.items() if k != "params"}}

    def loss(self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]) -> NoReturn:
        raise UserError(
            "The task 'features' has no loss to train with", "Set config.task.name to one that has, such as 'classify'"
        )

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        del rng
        return chosen(names, model_outputs(self.model, variables, batch["image"], names))


def build(*, model: Mapping[str, Any], data: DataInfo) -> Features:
    """The model of a config's section, or of a published file."""
    del data
    section = {"num_classes": 0, **model}
    kwargs = {key: value for key, value in section.items() if key != "name"}
    return Features(build_named("model", section, "config.model"), {"name": section["name"], "kwargs": kwargs})
