"""The smallest pairs of images and texts, and the smallest runs on them: what tests of two towers start from."""

from pathlib import Path
from typing import Any

import numpy as np

from tests.tiny import tiny_config
from vit_jax.training.config import override

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "white": (240, 240, 240)}
FIELDS = {"image": {"name": "image"}, "text": {"name": "tokens", "length": 10}, "label": {"name": "classes"}}
TEXT = {"width": 16, "depth": 1, "num_heads": 2, "max_length": 10}
CLIP = {"name": "clip", "variant": "mu/4", "embed_dim": 8, "text": TEXT}
SIGLIP = {**CLIP, "name": "siglip", "project_image": "plain"}


def write_pairs(folder: Path, rows: int = 16) -> Path:
    """Images of one noisy colour each and its name, classes too."""
    rng = np.random.default_rng(0)
    label = np.arange(rows) % len(COLOURS)
    images = np.array(list(COLOURS.values()))[label][:, None, None] + rng.integers(-20, 15, (rows, 8, 8, 3))
    path = folder / "image_text.npz"
    names = np.array(list(COLOURS))
    np.savez(path, images=images.clip(0, 255).astype(np.uint8), labels=label, label_names=names, text=names[label])
    return path


def pairs_config(folder: Path, model: dict[str, Any] = CLIP, task: str = "clip", **overrides: Any) -> dict[str, Any]:
    """`tiny_config` with 8 pairs a batch and the nearest neighbours of images; whole sections may be given too."""
    source = {"name": "arrays", "path": str(write_pairs(folder)), "fields": ["text"]}
    config = tiny_config(batch_size=8) | {"task": {"name": task}, "model": model}
    config["evals"] = {"knn": {"name": "knn", "train": source, "k": 1}}
    config["data"] = {
        "image_size": [8, 8],
        "train": source,
        "eval": source,
        "fields": FIELDS,
        "transform": {"name": "supervised", "crop": "none", "flip": False},
    }
    config |= {k: overrides.pop(k) for k in list(overrides) if isinstance(overrides[k], dict)}
    return override(config, {k.replace("__", "."): str(v) for k, v in overrides.items()})
