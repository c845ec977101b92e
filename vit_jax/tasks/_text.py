"""What tasks on a field of tokens named "text" have in common."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from vit_jax.data.tokenizers import Tokenizer
from vit_jax.errors import UserError
from vit_jax.nn.pool import mean_of_tokens
from vit_jax.tasks import Batch, DataInfo

_LAST = 4  # layers, whose concatenation is the best of BERT's features (arXiv:1810.04805, section 5.3, table 7)


def tokenizer_of(data: DataInfo) -> Tokenizer:
    """The tokenizer of the field "text".

    Raises:
        UserError: there is no such field, or it is not one of tokens.
    """
    tokenizer = getattr(data.fields.get("text"), "tokenizer", None)
    if tokenizer is None:
        raise UserError(
            "This task reads a field 'text' of tokens, which the data does not have",
            "Set config.data.fields.text with the name 'tokens', or that of another kind with a tokenizer",
        )
    return tokenizer


def options_of(model: nn.Module, batch: Batch) -> dict[str, Array]:
    """What a text model is called with beside the ids, if the batch has it: which tokens are no padding, and their
    segments if it knows any."""
    options = {"token_mask": batch["text_mask"]} if "text_mask" in batch else {}
    if model.text.num_segments and "text_segments" in batch:
        options["segments"] = batch["text_segments"]
    return options


def text_outputs(model: nn.Module, params: Any, batch: Batch) -> dict[str, Array]:
    """What a text model gives in evaluation, and `last_layers_token` and `last_layers_mean` [B, 4 D].

    They are what its last four blocks give, one after the other: for the first token of each text, and the mean of it
    over all tokens that are no padding. Of a model of fewer blocks they are what all give.
    """
    options = options_of(model, batch)
    found, state = model.apply({"params": params}, batch["text"], **options, mutable=["hidden"])
    layers = state["hidden"]["text"]["layers"][0][-_LAST:]
    tokens = jnp.concatenate([*layers], axis=-1).astype(jnp.float32)
    mean = mean_of_tokens(tokens, batch["text_mask"])
    return {**found, "last_layers_token": tokens[:, 0], "last_layers_mean": mean}
