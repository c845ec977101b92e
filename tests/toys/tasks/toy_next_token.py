"""The next token of a text from the one before it: a table of bigrams."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from vit_jax.tasks import Task, chosen


@dataclasses.dataclass(frozen=True)
class NextToken(Task):
    table: nn.Embed
    answered_by: tuple[str, ...] = ("logits",)

    def init(self, rng, batch):
        return {"params": {"text": self.table.init(rng, batch["text"])["params"]}, "model_state": {}}

    def loss(self, variables, batch, rng, step):
        logits = jax.nn.log_softmax(self._logits(variables, batch)[:, :-1])
        losses = -jnp.take_along_axis(logits, batch["text"][:, 1:, None], 2)
        return losses.mean(), ({"loss": (losses.sum(), jnp.float32(losses.size))}, {})

    def outputs(self, variables, batch, names, rng):
        return chosen(names, {"logits": lambda: self._logits(variables, batch)})

    def forward_flops(self, batch):
        return 2.0 * batch["text"].shape[-1] * self.table.features

    def _logits(self, variables, batch):
        return self.table.apply({"params": variables["params"]["text"]}, batch["text"])


def build(*, model, data):
    size = data.fields["text"].tokenizer.vocab_size
    return NextToken(nn.Embed(size, size))
