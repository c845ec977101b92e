"""A trained toy generator of two classes, dark and bright."""

import jax
import numpy as np

from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

LEVELS = (60, 200)


def config(folder, **evals):
    """Sixteen images of 8x8 pixels, and evaluators of samples."""
    labels = np.arange(16) % 2
    images = np.array(LEVELS, np.uint8)[labels][:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3)
    np.savez(folder / "images.npz", images=images, labels=labels)
    source = {"name": "arrays", "path": str(folder / "images.npz")}
    return {
        "seed": 0, "steps": 30, "batch_size": 16, "log_every": 30, "task": {"name": "toy_generator"},
        "data": {
            "image_size": 8, "train": source, "eval": source, "num_threads": 0,
            "transform": {"name": "supervised", "crop": "none", "flip": False},
        },
        "optim": {"name": "adamw", "learning_rate": 0.1, "weight_decay": 0.0}, "evals": evals,
    }  # fmt: skip


def trained(folder, **evals):
    """The workdir of a run."""
    train(build_experiment(config(folder, **evals)), folder / "run", jax.devices()[:1])
    return folder / "run"
