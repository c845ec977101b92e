"""The mean of an image's tokens or latents, by its class."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax.tasks import chosen
from vit_jax.tasks._image_tokens import TokenGenerator, tokenizer_of


class Means(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, labels):
        return self.param("means", nn.initializers.zeros, (self.classes + 1,))[labels]


@dataclasses.dataclass(frozen=True)
class Histogram(TokenGenerator):
    def init(self, rng, batch):
        variables = {"params": self.model.init(rng, jnp.zeros(1, jnp.int32))["params"], "model_state": {}}
        return self._with_tokenizer(rng, variables)

    def loss(self, variables, batch, rng, step):
        of = self._latents if self.tokenizer.vocab_size is None else self._indices
        seen = of(variables, batch)
        seen = seen.reshape(len(seen), -1).mean(1)
        errors = jnp.square(self.model.apply(self._own(variables), self._labels(batch)) - seen)
        count = jnp.float32(len(seen))
        return errors.mean(), ({"loss": (errors.sum(), count), "seen": (seen.sum(), count)}, {})

    def outputs(self, variables, batch, names, rng):
        return chosen(names, {"features": jax.nn.one_hot(self._labels(batch), 2)})


def build(*, model, data, tokenizer):
    del model
    module, size = tokenizer_of(tokenizer, data)
    return Histogram(Means(len(data.label_names)), None, module, size, data.label_names)
