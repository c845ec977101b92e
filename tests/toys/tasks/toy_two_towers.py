"""Images and texts of one batch find each other: two towers and a contrastive loss."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from vit_jax.tasks import Task


class Image(nn.Module):
    @nn.compact
    def __call__(self, image):
        return nn.Dense(8)(image.mean(axis=(1, 2)))


class Text(nn.Module):
    vocab_size: int

    @nn.compact
    def __call__(self, tokens):
        return nn.Dense(8)(nn.Embed(self.vocab_size, 8)(tokens).mean(axis=1))


@dataclasses.dataclass(frozen=True)
class TwoTowers(Task):
    image: nn.Module
    text: nn.Module
    whole_batch: str = "every text of a batch is compared with every image"

    def init(self, rng, batch):
        image = self.image.init(rng, batch["image"])["params"]
        return {"params": {"encoder": image, "text": self.text.init(rng, batch["tokens"])["params"]}, "model_state": {}}

    def loss(self, variables, batch, rng, step):
        found = self.outputs(variables, batch)
        logits = 10 * found["features"] @ found["text_features"].T
        same = batch["label"][:, None] == batch["label"][None]
        losses = -jnp.where(same, jax.nn.log_softmax(logits), 0).sum(1) / same.sum(1)
        return losses.mean(), ({"loss": (losses.sum(), jnp.float32(losses.size))}, {})

    def outputs(self, variables, batch):
        params, found = variables["params"], {}
        if "image" in batch:
            found["features"] = self.image.apply({"params": params["encoder"]}, batch["image"])
        if "tokens" in batch:
            found["text_features"] = self.text.apply({"params": params["text"]}, batch["tokens"])
        return {name: x / jnp.linalg.norm(x, axis=1, keepdims=True) for name, x in found.items()}


def build(*, model, data):
    return TwoTowers(Image(), Text(data.fields["tokens"].tokenizer.vocab_size))
