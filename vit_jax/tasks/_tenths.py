"""What a network of noise does, by how much noise there is."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vit_jax.tasks import Metrics

_TENTHS = 10


def by_tenths(name: str, values: Float[Array, " B"], times: Int[Array, " B"], steps: int) -> Metrics:
    """Values by tenths of the `steps`, least noise first: `name_t0` to `name_t9`."""
    tenths, found = times * _TENTHS // steps, {}
    for i in range(_TENTHS):
        here = (tenths == i).astype(jnp.float32)
        found[f"{name}_t{i}"] = ((values * here).sum(), here.sum())
    return found
