"""vit_jax: the Vision Transformer family in JAX and Flax Linen, from pretraining to probing and fine-tuning."""

import importlib
from typing import TYPE_CHECKING, Any

from vit_jax.errors import UserError

if TYPE_CHECKING:
    from vit_jax.checkpoints.create import create_model
    from vit_jax.checkpoints.load import Loaded, load
    from vit_jax.checkpoints.serving.exported import load_exported
    from vit_jax.models.names import list_models
    from vit_jax.models.vit import ViT

__version__ = "0.1.0"
__all__ = ["Loaded", "UserError", "ViT", "create_model", "list_models", "load", "load_exported"]

# Where a name is, which is resolved on first use, so that `import vit_jax` (and every data worker) starts without jax.
_LATER = {
    "Loaded": "vit_jax.checkpoints.load",
    "ViT": "vit_jax.models.vit",
    "create_model": "vit_jax.checkpoints.create",
    "list_models": "vit_jax.models.names",
    "load": "vit_jax.checkpoints.load",
    "load_exported": "vit_jax.checkpoints.serving.exported",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module 'vit_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
