"""What one judge says of the images of a run, and how fast they are drawn: the figures of generation boards."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from benchmarks.runs import once
from vit_jax.checkpoints.load import Loaded, load
from vit_jax.checkpoints.sampling import settings_of
from vit_jax.training.evaluation import evaluate_loaded


def judged(run: Path, judge: Path, of: str, settings: Mapping[str, Any], count: int, file: Path) -> dict[str, float]:
    """Frechet distance, precision and recall, the share in which the judge sees the class that was asked for, and the
    number of parameters; kept in a file.

    Args:
        of: "samples", or an output of a tokenizer.
        settings: of the samples.
        count: of the samples.
    """

    def measure() -> dict[str, float]:
        loaded = load(run)
        config = loaded.metadata["config"]
        pictures = {"judge": str(judge), "of": of, "count": count, "settings": dict(settings)}
        compared = {**pictures, "train": config["data"]["train"]}
        evals = {
            "distance": {"name": "frechet", **compared},
            "near": {"name": "precision_recall", **compared},
            "seen": {"name": "judged_accuracy", **pictures},
        }
        found = evaluate_loaded(loaded, {**config, "evals": evals})
        # Names without the judge, of which there is one here.
        return {name.partition("(")[0]: value for name, value in found.items()} | {"parameters": parameters(loaded)}

    return once(file, measure)


def speed(run: Path, settings: Mapping[str, Any], count: int, file: Path) -> dict[str, Any]:
    """Images a second with the cache of the task and without, where it can do without, and what one costs."""

    def measure() -> dict[str, Any]:
        loaded = load(run)
        caches = (True, False) if hasattr(loaded.task.sampling, "cache") else (None,)
        found = {}
        for cache in caches:
            how = {**settings, **({} if cache is None else {"cache": cache})}
            # The first compiles; the fastest is the one that was disturbed least.
            entry = {"images_per_second": count / min([_seconds(loaded, count, i, how) for i in range(4)][1:])}
            entry |= loaded.task.sampling_costs(settings_of(loaded.task, how))
            found["without" if cache is False else "with"] = entry
        return found

    return once(file, measure)


def parameters(loaded: Loaded) -> int:
    """Without those of a tokenizer beside them."""
    own = {name: tree for name, tree in loaded.params.items() if name != "tokenizer"}
    return sum(leaf.size for leaf in jax.tree.leaves(own))


def _seconds(loaded: Loaded, count: int, seed: int, settings: Mapping[str, Any]) -> float:
    start = time.perf_counter()
    loaded.sample(count, seed=seed, **settings)
    return time.perf_counter() - start
