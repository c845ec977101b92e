"""Images and texts of one batch find each other: two towers and a contrastive loss."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from vit_jax.tasks import Task, chosen


class Text(nn.Module):
    vocab_size: int

    @nn.compact
    def __call__(self, tokens):
        return nn.Dense(8)(nn.Embed(self.vocab_size, 8)(tokens).mean(axis=1))


@dataclasses.dataclass(frozen=True)
class TwoTowers(Task):
    text: Text
    image: nn.Module = nn.Dense(8)
    whole_batch: str = "every text of a batch is compared with every image"
    answered_by: tuple[str, ...] = ("features",)

    def init(self, rng, batch):
        image = self.image.init(rng, batch["image"].mean((1, 2)))["params"]
        return {"params": {"encoder": image, "text": self.text.init(rng, batch["tokens"])["params"]}, "model_state": {}}

    def loss(self, variables, batch, rng, step):
        logits = 10 * self._image(variables, batch) @ self._text(variables, batch).T
        same = batch["label"][:, None] == batch["label"][None]
        losses = -jnp.where(same, jax.nn.log_softmax(logits), 0).sum(1) / same.sum(1)
        return losses.mean(), ({"loss": (losses.sum(), jnp.float32(losses.size))}, {})

    def outputs(self, variables, batch, names, rng):
        of = {"features": self._image, "text_features": self._text}
        return chosen(names, {name: functools.partial(make, variables, batch) for name, make in of.items()})

    def answers(self, outputs, fields):
        return [f"mostly feature {row.argmax()}" for row in outputs["features"]]

    def _image(self, variables, batch):
        return unit(self.image.apply({"params": variables["params"]["encoder"]}, batch["image"].mean((1, 2))))

    def _text(self, variables, batch):
        return unit(self.text.apply({"params": variables["params"]["text"]}, batch["tokens"]))


def unit(x):
    return x / jnp.linalg.norm(x, axis=1, keepdims=True)


def build(*, model, data):
    return TwoTowers(Text(data.fields["tokens"].tokenizer.vocab_size))
