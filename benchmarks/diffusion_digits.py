"""What samples of digits are worth by their pixels alone: neighbours and a Frechet distance, without a network."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from benchmarks.runs import once
from vit_jax.checkpoints.load import load
from vit_jax.evaluators.feature_neighbours import squared_distances
from vit_jax.evaluators.frechet_distance import Moments, frechet_distance
from vit_jax.naming import build_named

_NEIGHBOURS = 5

Pixels = Float[np.ndarray, "N D"]
Labels = Int[np.ndarray, " N"]


def measured_digits(run: Path, settings: Mapping[str, Any], count: int, file: Path) -> dict[str, float]:
    """Of the first samples of a run, in equal numbers of all classes."""

    def measure() -> dict[str, float]:
        samples = load(run).sample(count, **settings)
        return _worth(_pixels(samples.images), samples.conditions["label"])

    return once(file, measure)


def digits_of() -> dict[str, dict[str, float]]:
    """The same of held-out digits, and of noise."""
    pixels, labels = _split("test")
    rng = np.random.default_rng(0)
    noise = rng.uniform(-1, 1, pixels.shape)
    return {"held-out digits": _worth(pixels, labels), "noise": _worth(noise, rng.integers(0, 10, len(noise)))}


def _worth(pixels: Pixels, labels: Labels) -> dict[str, float]:
    known, of = _split("train")
    nearest = np.argsort(squared_distances(pixels, known), axis=1)[:, :_NEIGHBOURS]
    votes = np.stack([np.bincount(row, minlength=10) for row in of[nearest]])
    distance = frechet_distance(Moments.of([pixels]).gaussian(), Moments.of([known]).gaussian())
    return {"accuracy": float((votes.argmax(axis=1) == labels).mean()), "frechet": distance}


@functools.cache
def _split(name: str) -> tuple[Pixels, Labels]:
    """scikit-learn's digits, in -1..1."""
    source = build_named("source", {"name": "digits", "split": name}, "the digits")
    examples = [source[i] for i in range(len(source))]
    return _pixels(np.stack([x["image"] for x in examples])), np.array([x["label"] for x in examples])


def _pixels(images: UInt8[np.ndarray, "N H W 3"]) -> Pixels:
    """In -1..1, one value a pixel."""
    return images.reshape(len(images), -1, images.shape[-1]).mean(axis=-1) / 127.5 - 1
