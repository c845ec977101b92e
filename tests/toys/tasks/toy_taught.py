"""What `toy_frozen_trunk` learns of a frozen trunk, with a look at the image itself."""

import dataclasses

from flax import linen as nn

from tests.toys.tasks import toy_frozen_trunk
from vit_jax.naming import build_model


@dataclasses.dataclass(frozen=True)
class Taught(toy_frozen_trunk.FrozenTrunk):
    takes_beside: tuple[str, ...] = ("image",)

    def loss(self, variables, batch, rng, step):
        taken = batch.get("features")
        features = self._features(variables, batch) if taken is None else taken
        seen = features + batch["image"].mean((1, 2, 3))[:, None]
        return super().loss(variables, {**batch, "features": seen}, rng, step)


def build(*, model, data):
    return Taught(build_model(model, num_classes=0)[0], nn.Dense(len(data.label_names)))
