"""A linear layer on the features of a trunk that may be frozen, and then computed once."""

import dataclasses

import jax
import optax
from flax import linen as nn

from vit_jax.naming import build_model
from vit_jax.tasks import Task, chosen, model_outputs


@dataclasses.dataclass(frozen=True)
class FrozenTrunk(Task):
    model: nn.Module
    head: nn.Dense
    takes: tuple[str, ...] = ("features",)

    def init(self, rng, batch):
        found = self.model.init(rng, batch["image"], train=False)["params"]
        return {
            "params": {**found, "probe": self.head.init(rng, jax.numpy.zeros((1, 32)))["params"]},
            "model_state": {},
        }

    def loss(self, variables, batch, rng, step):
        taken = batch.get("features")
        features = self._features(variables, batch) if taken is None else taken
        logits = self.head.apply({"params": variables["params"]["probe"]}, features)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return losses.mean(), ({"loss": (losses.sum(), jax.numpy.float32(losses.size))}, {})

    def outputs(self, variables, batch, names, rng):
        def logits():
            return self.head.apply({"params": variables["params"]["probe"]}, self._features(variables, batch))

        return chosen(names, {"features": lambda: self._features(variables, batch), "logits": logits})

    def _features(self, variables, batch):
        trunk = {"params": {"encoder": variables["params"]["encoder"]}, "model_state": {}}
        return model_outputs(self.model, trunk, batch["image"], ("features",))["features"]


def build(*, model, data):
    return FrozenTrunk(build_model(model, num_classes=0)[0], nn.Dense(len(data.label_names)))
