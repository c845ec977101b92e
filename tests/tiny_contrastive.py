"""The smallest runs of SimCLR and MoCo v3: what their tests start from."""

from pathlib import Path
from typing import Any

import jax

from tests.tiny import tiny_config
from vit_jax.training.config import override
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

VIT = {"name": "vit", "variant": "mu/4", "pooling": "token", "num_heads": 4, "posemb": "sincos2d_moco", "gelu": "exact"}
RESNET = {"name": "resnet", "variant": "18", "depths": [1, 1], "width": 8, "stem": "cifar"}
TASKS = {
    "simclr": {"name": "simclr", "temperature": 0.5, "head_out": 8},
    "moco_v3": {"name": "moco_v3", "hidden": 32, "out": 8},
}


def contrastive_config(task: str, model: dict[str, Any] = VIT, **overrides: Any) -> dict[str, Any]:
    """`tiny_config` with 8 digits of 8x8 pixels a batch in two views, without evaluation; whole sections may be given too."""
    config = tiny_config(batch_size=8) | {"task": TASKS[task], "model": model, "evals": {}}
    view = {"area": [0.5, 1.0], "brightness": 0.4, "contrast": 0.4, "hue": 0.1, "blur": 0.0}
    config["data"] = config["data"] | {"transform": {"name": "two_views", **view, "second": {"solarize": 0.2}}}
    if task == "moco_v3":
        config["ema_decay"] = {"name": "cosine", "start": 0.9, "end": 1.0}
        if model["name"] == "vit":
            config["optim"]["frozen"] = ["encoder/embedding/.*"]
    config |= {k: overrides.pop(k) for k in list(overrides) if isinstance(overrides[k], dict)}
    return override(config, {k.replace("__", "."): str(v) for k, v in overrides.items()})


def contrastive_run(workdir: Path, task: str, model: dict[str, Any] = VIT, devices: int = 1, **overrides: Any) -> dict:
    """Trains it on so many devices and returns the summary."""
    return train(build_experiment(contrastive_config(task, model, **overrides)), workdir, jax.devices()[:devices])
