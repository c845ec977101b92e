"""vit_jax: the Vision Transformer family in JAX and Flax Linen, from pretraining to probing and fine-tuning."""

from typing import TYPE_CHECKING, Any

from vit_jax.errors import UserError

if TYPE_CHECKING:
    from vit_jax.checkpoints.load import load

__version__ = "0.1.0"
__all__ = ["UserError", "load"]


def __getattr__(name: str) -> Any:
    # Resolved on first use, so that `import vit_jax` (and every data worker) starts without jax.
    if name == "load":
        from vit_jax.checkpoints.load import load

        return load
    raise AttributeError(f"module 'vit_jax' has no attribute {name!r}")
