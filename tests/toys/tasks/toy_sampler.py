"""Images of one normal distribution: its mean and deviation are learned, and samples are drawn from it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vit_jax.tasks import Task, chosen


class Normal(nn.Module):
    size: tuple[int, int]

    @nn.compact
    def __call__(self):
        mean = self.param("mean", nn.initializers.zeros, (*self.size, 3))
        return mean, jnp.exp(self.param("log_deviation", nn.initializers.zeros, ()))


@dataclasses.dataclass(frozen=True)
class Sampler(Task):
    normal: Normal
    answered_by: tuple[str, ...] = ("samples",)

    def init(self, rng, batch):
        return {"params": {"decoder": self.normal.init(rng)["params"]}, "model_state": {}}

    def loss(self, variables, batch, rng, step):
        losses = self._losses(variables, batch)
        return losses.mean(), ({"loss": (losses.sum(), jnp.float32(losses.size))}, {})

    def outputs(self, variables, batch, names, rng):
        return chosen(
            names, {"loss": lambda: self._losses(variables, batch), "samples": lambda: self._draw(variables, rng)}
        )

    def answers(self, outputs, fields):
        return list(fields["image"].preprocess.to_pixels(np.asarray(outputs["samples"])))

    def _losses(self, variables, batch):
        mean, deviation = self.normal.apply({"params": variables["params"]["decoder"]})
        return (jnp.square((batch["image"] - mean) / deviation) / 2 + jnp.log(deviation)).mean((1, 2, 3))

    def _draw(self, variables, keys):
        mean, deviation = self.normal.apply({"params": variables["params"]["decoder"]})
        return mean + deviation * jax.vmap(lambda key: jax.random.normal(key, mean.shape))(keys)


def build(*, model, data):
    return Sampler(Normal(data.image_size))
