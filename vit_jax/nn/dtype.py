"""Compute dtypes by the names that configs and checkpoints hold."""

import jax.numpy as jnp
from jaxtyping import DTypeLike

from vit_jax.errors import UserError
from vit_jax.naming import nearest

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def compute_dtype(name: str) -> DTypeLike:
    """The dtype of this name; raises a `UserError` for one in which a model does not compute."""
    if name not in _DTYPES:
        raise UserError(f"A model cannot compute in '{name}'", nearest(name, _DTYPES))
    return _DTYPES[name]
