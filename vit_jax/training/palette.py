"""A palette of colours for a run's images, as a checkpoint of its tokenizer: iGPT's (ICML 2020, section 3.2)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import Float, Float32, UInt8

from vit_jax.checkpoints.policy import Policy
from vit_jax.checkpoints.store import Store
from vit_jax.errors import UserError
from vit_jax.models.color_palette import ColorPalette
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.training.experiment import Experiment, build_experiment
from vit_jax.training.open_run import metadata_of
from vit_jax.training.workdir import write_config

_MOST_PIXELS = 2**17


def fitted(pixels: UInt8[np.ndarray, "n 3"], colors: int, seed: int = 0) -> Float32[np.ndarray, "colors 3"]:
    """The colours, in pixel values, to which pixels are near: k-means of scikit-learn, from dark to bright.

    Raises:
        UserError: for fewer different colours than are wanted.
    """
    from sklearn.cluster import KMeans

    rng = np.random.default_rng(seed)
    if len(pixels) > _MOST_PIXELS:
        pixels = pixels[rng.choice(len(pixels), _MOST_PIXELS, replace=False)]
    different, counts = np.unique(pixels, axis=0, return_counts=True)
    if len(different) < colors:
        raise UserError(f"The images have {len(different)} different colours, fewer than {colors}", "Ask for fewer")
    found = KMeans(colors, n_init=1, random_state=seed).fit(different.astype(np.float32), sample_weight=counts)
    centers = found.cluster_centers_.astype(np.float32)
    return centers[np.argsort(centers.sum(axis=1), kind="stable")]


def write_palette(
    values: Mapping[str, Any],
    workdir: Path,
    *,
    images: int = 1000,
    clusters: Float[np.ndarray, "colors 3"] | None = None,
) -> Float32[np.ndarray, "colors 3"]:
    """Writes a checkpoint of a config's palette, which `init_from` of a generator names.

    Args:
        values: a plain config whose model is `color_palette`.
        images: of training, which are looked at.
        clusters: colours in -1..1 that there are already, instead.

    Returns:
        The colours in -1..1.

    Raises:
        UserError: for another model, another number of colours, or a place that is taken.
    """
    experiment = build_experiment(values)
    model = experiment.task.model
    if not isinstance(model, ColorPalette):
        raise UserError("The config's model has no palette", "Set config.model.name=color_palette")
    if workdir.exists() and any(workdir.iterdir()):
        raise UserError(f"{workdir} is not empty", "Choose another place")
    if clusters is None:
        preprocess = experiment.fields["image"].preprocess
        found = fitted(_pixels(experiment, images), model.colors, experiment.config.seed)
        clusters = (found - np.float32(preprocess.mean)) / np.float32(preprocess.std)
    if clusters.shape != (model.colors, 3):
        raise UserError(
            f"There are {len(clusters)} colours, and the config asks for {model.colors}",
            f"Set config.model.colors={len(clusters)}",
        )
    batch = jax.eval_shape(experiment.on_device, _batch(experiment, 0), jax.random.key(0))
    shapes = init_shapes(experiment.task.init, jax.random.key(0), batch)
    assert list(shapes["params"]) == ["palette"] and not shapes["model_state"]
    store = Store(epath.Path(workdir), Policy())
    state = {"params": {"palette": np.float32(clusters)}, "model_state": {}}
    store.save(0, state, {**metadata_of(experiment, "params", ()), "log": {}})
    store.close()
    write_config(epath.Path(workdir), experiment.values)
    return np.float32(clusters)


def _batch(experiment: Experiment, step: int) -> dict[str, Any]:
    return experiment.pipeline.batch(step, slices=1, index=0)


def _pixels(experiment: Experiment, images: int) -> UInt8[np.ndarray, "n 3"]:
    """Those of so many images as training sees them."""
    steps = -(-images // experiment.config.batch_size)
    found = np.concatenate([_batch(experiment, step)["image"] for step in range(steps)])
    return found[:images].reshape(-1, 3)
