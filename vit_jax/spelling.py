"""The name that was meant, in every error about a wrong one."""

import difflib
from collections.abc import Iterable

from vit_jax.errors import UserError

# What other projects call something that has another name here; the distance between letters would not find it.
_ALSO_CALLED = {
    "bs": "batch_size",
    "clip": "clip_norm",
    "decay": "weight_decay",
    "dim": "width",
    "dir": "root",
    "dropout": "dropout_rate",
    "drop_path": "drop_path_rate",
    "grad_clip": "clip_norm",
    "heads": "num_heads",
    "hidden_size": "width",
    "huggingface": "hf",
    "image_folder": "folder",
    "imagefolder": "folder",
    "layers": "depth",
    "lr": "learning_rate",
    "path": "root",
    "res": "image_size",
    "resolution": "image_size",
    "size": "image_size",
    "stochastic_depth": "drop_path_rate",
    "warmup": "warmup_steps",
    "wd": "weight_decay",
    "workers": "num_workers",
}


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that names the closest of `known` to `name`, or all of them when nothing is close."""
    known = sorted(str(k) for k in known)
    other = _ALSO_CALLED.get(str(name).lower())
    close = other if other in known else closest(name, known)
    return f"Did you mean '{close}'?" if close else f"Known: {', '.join(known) or 'none'}"


def closest(name: str, known: Iterable[str], likeness: float = 0.5) -> str | None:
    """The one of `known` that is most like `name`; None where none is as like it as `likeness`, 1 for equal."""
    return next(iter(difflib.get_close_matches(str(name), sorted(known), n=1, cutoff=likeness)), None)


def unknown_key(where: str, key: str, known: Iterable[str]) -> UserError:
    """What to raise for a key that nothing reads.

    Args:
        where: the section's name, 'config.optim'.
        key: the key in it.
        known: the keys that the section may have.
    """
    return UserError(f"Unknown key '{where}.{key}'", nearest(key, known))
