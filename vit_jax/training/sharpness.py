"""Sharpness-aware minimisation: a step takes the gradient of the loss that is highest nearby."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from vit_jax.errors import UserError
from vit_jax.naming import construct
from vit_jax.ranges import Positive


@dataclasses.dataclass(frozen=True)
class SharpnessAware:
    """SAM (Foret et al., arXiv:2010.01412, section 2), beside any optimizer.

    A step costs two gradients: one at the parameters, and one at rho times its direction from them, which is what the
    optimizer gets. Both are of the whole batch, also where they are accumulated over microbatches or computed on
    several devices; the paper's figures climb on each accelerator's part of the batch by itself.
    Both draw the same masks. The loss, metrics and running statistics of a step are those of the first.

    Args:
        rho: length of the climb, over all trained parameters together; the paper's default.
    """

    rho: Positive = 0.05

    def climbed(self, params: PyTree, gradients: PyTree) -> PyTree:
        """Where the second gradient is taken."""
        norm = optax.tree.norm(gradients)
        scale = jnp.where(norm > 0, self.rho / jnp.where(norm > 0, norm, 1), 0)
        return jax.tree.map(lambda p, g: p + scale.astype(p.dtype) * g, params, gradients)


def sharpness_aware(section: Mapping[str, Any] | None, optim: Mapping[str, Any]) -> SharpnessAware | None:
    """What `config.optim.sam` asks for.

    Args:
        optim: the rest of the section.

    Raises:
        UserError: unknown keys and values out of range, or groups of parameters that learn by turns or later than
            others: the gradient of one that waits would decide how far the others climb.
    """
    if section is None:
        return None
    if not isinstance(section, Mapping):
        raise UserError(f"config.optim.sam is {section!r}", "It must be a section such as dict(rho=0.05), or none")
    groups = optim.get("groups")
    listed = groups if isinstance(groups, (list, tuple)) else ()
    if any(isinstance(g, Mapping) and (g.get("every", 1) != 1 or g.get("from_step")) for g in listed):
        raise UserError(
            "config.optim.sam climbs with all parameters together, and some groups of config.optim do not learn in"
            " every step",
            "Remove it, or each 'every' and 'from_step'",
        )
    return construct(SharpnessAware, section, "config.optim.sam")
