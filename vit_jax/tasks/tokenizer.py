"""A tokenizer of images by itself, without an objective: what a published one is.

A checkpoint of it gives reconstructions, tokens and latents. It cannot be trained: tasks with an objective can take its
parameters.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NoReturn

from jaxtyping import Array, Int, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.tasks import Batch, DataInfo, Variables
from vit_jax.tasks._tokenizer import TokenizerTask, tokenizer_model


@dataclasses.dataclass(frozen=True)
class Tokenizer(TokenizerTask):
    """See `TokenizerTask`."""

    def loss(self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]) -> NoReturn:
        raise UserError(
            "The task 'tokenizer' has no loss to train with", "Set config.task.name to one that has, such as 'vqgan'"
        )


def build(*, model: Mapping[str, Any], data: DataInfo) -> Tokenizer:
    """The tokenizer of a config's section, or of a published file."""
    del data
    return Tokenizer(*tokenizer_model(model))
