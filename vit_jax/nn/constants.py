"""Arrays that a model draws once and never changes: a collection of its state beside the parameters.

They are saved, loaded and exported like running statistics, but nothing trains or averages them: they have no gradient,
no slot of an optimizer, no moving average, and an update hands them on as they are, whatever a loss returns.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array, PRNGKeyArray

COLLECTION = "constants"


def constant(module: nn.Module, name: str, make: Callable[..., Array], *shape: Any) -> Array:
    """A constant of a module, in its `compact` method; like `module.param`, with the same rng when it is made.

    Args:
        make: gets a key and `shape`.
    """

    def made() -> Array:
        rng: PRNGKeyArray = module.make_rng("params")
        return make(rng, *shape)

    return module.variable(COLLECTION, name, made).value


def constants_of(model_state: Mapping[str, Any]) -> dict[str, Any]:
    """The constants of a model's state, {} where it has none."""
    return {name: tree for name, tree in model_state.items() if name == COLLECTION}


def changing(model_state: Mapping[str, Any]) -> dict[str, Any]:
    """The rest of it: what training updates, such as running statistics."""
    return {name: tree for name, tree in model_state.items() if name != COLLECTION}
