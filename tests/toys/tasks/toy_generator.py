"""Images of classes, each a normal distribution around an image of its own: what a generator is, and no more."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vit_jax.errors import UserError
from vit_jax.ranges import Count, NonNegative
from vit_jax.tasks import Task, chosen


class Means(nn.Module):
    size: tuple[int, int]
    classes: int

    @nn.compact
    def __call__(self):
        return self.param("means", nn.initializers.zeros, (self.classes + 1, *self.size, 3))


@dataclasses.dataclass(frozen=True)
class ToySampling:
    """Guided by (1 + g) c - g u; the noise is the mean of that of so many steps."""

    guidance: NonNegative = 0.0
    temperature: NonNegative = 1.0
    steps: Count = 2
    cache: bool = True

    def __post_init__(self):
        if self.steps > 64:
            raise UserError(f"steps is {self.steps}, and an image has 64 places", "Ask for at most 64")


@dataclasses.dataclass(frozen=True)
class Generator(Task):
    means: Means
    classes: tuple[str, ...]
    sampling: ClassVar[type] = ToySampling
    answered_by: ClassVar[tuple[str, ...]] = ("samples",)

    def init(self, rng, batch):
        return {"params": {"decoder": self.means.init(rng)["params"]}, "model_state": {}}

    def loss(self, variables, batch, rng, step):
        means = self._means(variables)
        losses = jnp.square(batch["image"] - means[batch["label"]]).mean((1, 2, 3))
        null = jnp.square(batch["image"] - means[-1]).mean()
        return losses.mean() + null, ({"loss": (losses.sum(), jnp.float32(losses.size))}, {})

    def outputs(self, variables, batch, names, rng):
        labels = batch.get("label", jnp.full(rng.shape, len(self.classes)))  # the null class
        return chosen(names, {"samples": lambda: self.sample(variables, {"label": labels}, rng, ToySampling())})

    def conditions(self, prompts, settings):
        for prompt in prompts:
            if prompt not in (*self.classes, *map(str, range(len(self.classes)))):
                raise UserError(f"There is no class {prompt!r}", "Name another")
        numbers = [self.classes.index(p) if p in self.classes else int(p) for p in prompts]
        return {"label": np.array(numbers, np.int32)}

    def unprompted(self, indices):
        return {"label": (indices % len(self.classes)).astype(np.int32)}

    def sample(self, variables, conditions, keys, settings):
        means = self._means(variables)
        mean, null = means[conditions["label"]], means[-1]
        mean = mean + settings.guidance * (mean - null)
        # Products of no effect, twice as many without a "cache": something to count.
        times, same = settings.steps * (1 if settings.cache else 2), jnp.eye(mean.shape[2])
        mean = jax.lax.fori_loop(0, times, lambda i, x: jnp.einsum("bhwc,wv->bhvc", x, same), mean)
        noise = jax.vmap(lambda key: jax.random.normal(key, (settings.steps, *self.means.size, 3)).mean(0))(keys)
        return jnp.clip(0.5 + 0.5 * (mean + 0.25 * settings.temperature * noise), 0, 1)

    def sampling_costs(self, settings):
        return {"tokens": 64, "passes": settings.steps, "cache_bytes": 1024 if settings.cache else 0}

    def answers(self, outputs, fields):
        return self.shown(np.asarray(outputs["samples"]), {})

    def shown(self, samples, conditions):
        return list(np.round(255 * samples).astype(np.uint8))

    def _means(self, variables):
        return self.means.apply({"params": variables["params"]["decoder"]})


def build(*, model, data):
    return Generator(Means(data.image_size, len(data.label_names)), data.label_names)
