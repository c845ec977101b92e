"""The smallest run that has every part: what tests of training, checkpoints and commands start from.

Compiling is most of what a run costs. A test whose subject is not training takes a run that was made before
(`trained`), or a checkpoint that no run made (`untrained`).
"""

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from vit_jax.checkpoints.policy import Policy
from vit_jax.checkpoints.store import Store
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.training import open_run
from vit_jax.training.config import override
from vit_jax.training.experiment import Experiment, build_experiment
from vit_jax.training.loop import train
from vit_jax.training.workdir import write_config


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


def trained(workdir: Path, **overrides: Any) -> Path:
    """A workdir as `tiny_run` leaves it: a copy of one that was made for the first test of this process that asked."""
    shutil.copytree(_run(tuple(overrides.items())), workdir, dirs_exist_ok=True)
    return workdir


@functools.cache
def _folder() -> tempfile.TemporaryDirectory:
    """Kept as long as the process."""
    return tempfile.TemporaryDirectory(prefix="vit_jax-tiny-")


@functools.cache
def _run(overrides: tuple[tuple[str, Any], ...]) -> Path:
    workdir = Path(tempfile.mkdtemp(dir=_folder().name)) / "run"
    tiny_run(workdir, **dict(overrides))
    return workdir


def untrained(workdir: Path, config: dict[str, Any], step: int = 1, signed: bool = False) -> Path:
    """A checkpoint of a config's model, whose parameters and statistics are random numbers, and of no optimizer.

    Args:
        signed: of both signs, and biases of zero, so that answers differ from image to image.
    """
    experiment = build_experiment(config)
    rows = experiment.pipeline.batch(0, slices=1, index=0)
    batch = jax.eval_shape(experiment.on_device, rows, jax.random.key(0))
    shapes = init_shapes(experiment.task.init, jax.random.key(0), batch)
    rng = np.random.default_rng(0)
    # Positive, since some are variances; small, so that nothing saturates.

    def drawn(path: tuple, x: jax.ShapeDtypeStruct) -> jax.Array:
        values = rng.uniform(-1, 1, x.shape) if signed else rng.uniform(0.05, 0.2, x.shape)
        return jax.numpy.asarray(values * (not signed or path[-1].key != "bias"), x.dtype)

    state = jax.tree.map_with_path(drawn, shapes)
    workdir.mkdir(parents=True, exist_ok=True)
    store = Store(epath.Path(workdir), Policy())
    store.save(step, state, {**open_run.metadata_of(experiment, "params", ()), "log": {}})
    store.close()
    write_config(epath.Path(workdir), experiment.values)
    return workdir
