"""The smallest run that has every part: what tests of training, checkpoints and commands start from."""

from pathlib import Path
from typing import Any

import jax

from vit_jax.training.config import override
from vit_jax.training.experiment import Experiment, build_experiment
from vit_jax.training.loop import train


def tiny_config(**overrides: Any) -> dict[str, Any]:
    """A plain config: mu/4 on 8x8 digits, six steps. Overrides are dotted keys with underscores for dots doubled."""
    config = {
        "seed": 3,
        "steps": 6,
        "batch_size": 16,
        "task": {"name": "classify"},
        "model": {"name": "vit", "variant": "mu/4", "pooling": "mean"},
        "data": {
            "image_size": [8, 8],
            "train": {"name": "digits", "split": "train", "per_class": 6},
            "eval": {"name": "digits", "split": "test", "per_class": 5},
            "transform": {"name": "supervised", "crop": "none", "rotate": 10.0, "flip": False},
        },
        "optim": {"name": "adamw", "learning_rate": 1e-2, "weight_decay": 0.1, "clip_norm": 1.0,
                  "schedule": {"name": "cosine", "warmup_steps": 2}},
        "evals": {"val": {"name": "classification"}},
        "log_every": 2,
    }  # fmt: skip
    return override(config, {k.replace("__", "."): str(v) for k, v in overrides.items()})


def tiny_run(workdir: Path, devices: int = 1, **overrides: Any) -> dict[str, Any]:
    """Trains `tiny_config` on so many devices and returns the summary."""
    return train(build_experiment(tiny_config(**overrides)), workdir, jax.devices()[:devices])


def tiny_experiment(**overrides: Any) -> Experiment:
    return build_experiment(tiny_config(**overrides))
