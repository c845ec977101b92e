"""How far what lies half-way between two images of one class is from images."""

from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from benchmarks.runs import once
from vit_jax.checkpoints.load import Loaded, load
from vit_jax.evaluators.frechet_distance import Gaussian, Moments, frechet_distance
from vit_jax.evaluators.judge import judge
from vit_jax.inspection.interpolation import interpolate, spaces_of
from vit_jax.training.config import run_config
from vit_jax.training.evaluation import inputs_of

_AT_ONCE = 50  # pairs


def midpoints(run: Path, judging: Path, count: int, steps: int, file: Path) -> dict[str, float]:
    """Frechet distances, on the features of a judge, of so many midpoints to all test images, by the name of the space;
    and of as many samples of the same sampler.

    Args:
        steps: of DDIM, without guidance, both of the way to noise and of the way back.
    """

    def measure() -> dict[str, float]:
        loaded, by = load(run), judge(str(judging))
        images, labels = test_images(loaded)
        real = Moments.of([by.images(images)]).gaussian()
        a, b = pairs(labels, count)
        found: dict[str, list[np.ndarray]] = {name: [] for name in spaces_of(loaded)}
        for start in range(0, count, _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            prompts = [loaded.labels[i] for i in labels[a[some]]]
            between = interpolate(
                loaded, images[a[some]], images[b[some]], [0.5], prompts=prompts, settings={"steps": steps}
            )
            for name, rows in between.items():
                found[name].append(rows[:, 0])
        made = {f"midpoints in {name}": np.concatenate(parts) for name, parts in found.items()}
        made["samples"] = loaded.sample(count, sampler="ddim", steps=steps).images
        made["images"] = images[a]
        return {name: _distance(by.images(x), real) for name, x in made.items()}

    return once(file, measure)


def test_images(loaded: Loaded) -> tuple[UInt8[np.ndarray, "N H W 3"], Int[np.ndarray, " N"]]:
    """Images and labels of a run's `data.eval`, as the model sees them."""
    config = run_config(loaded.metadata["config"])
    images, labels = [], []
    with inputs_of(loaded, config).eval_pipeline(config.batch_size, "midpoints").iterate() as batches:
        for batch in batches:
            kept = batch["valid"] > 0
            images.append(batch["image"][kept])
            labels.append(batch["label"][kept])
    return np.concatenate(images), np.concatenate(labels)


def pairs(labels: Int[np.ndarray, " N"], count: int) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Numbers of two different images of one class, so many times."""
    rng = np.random.default_rng(0)
    first = rng.permutation(np.arange(count) % len(labels))
    second = np.empty_like(first)
    for i, at in enumerate(first):
        others = np.flatnonzero(labels == labels[at])
        second[i] = rng.choice(others[others != at])
    return first, second


def _distance(features: np.ndarray, real: Gaussian) -> float:
    return frechet_distance(Moments.of([features]).gaussian(), real)
