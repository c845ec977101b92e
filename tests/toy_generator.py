"""A trained toy generator of two classes, dark and bright."""

import contextlib
import functools
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest

import vit_jax.evaluators
import vit_jax.tasks
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

LEVELS = (60, 200)
EVALS = {
    "dark": {"name": "toy_sampled", "count": 40, "label": 0, "guidance": 0.5},
    "bright": {"name": "toy_sampled", "count": 70, "label": 1, "guidance": 0.5},
    "samples": {"name": "samples", "every": 15, "count": 6, "settings": {"temperature": 0.5}},
}
_FOLDER = tempfile.TemporaryDirectory()  # for as long as the tests run


@contextlib.contextmanager
def toys():
    """Modules of a package that its folder does not hold, as a paper adds them."""
    with pytest.MonkeyPatch.context() as patch:
        for package in (vit_jax.tasks, vit_jax.evaluators):
            folder = Path(__file__).parent / "toys" / package.__name__.rpartition(".")[2]
            patch.setattr(package, "__path__", [*package.__path__, str(folder)])
        yield


def config(folder, evals=EVALS):
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
    """The workdir of a run with such evaluators."""
    train(build_experiment(config(folder, evals)), folder / "run", jax.devices()[:1])
    return folder / "run"


@functools.cache
def workdir():
    """That of a run, made once."""
    return trained(Path(_FOLDER.name), **EVALS)
