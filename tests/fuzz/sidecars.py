"""Damaged JSON files beside whole weights: config.json, preprocessor_config.json, the index of several files, and what
PEFT says of an adapter."""

import json
import os
from pathlib import Path

import numpy as np

from tests.fuzz import models
from tests.fuzz.harness import Target
from tests.fuzz.mutations import damaged_json
from vit_jax.checkpoints import peft
from vit_jax.checkpoints.safetensors import SafetensorsFile, write_safetensors
from vit_jax.checkpoints.source import open_source

_INDEX = "model.safetensors.index.json"


def build(folder: Path) -> Target:
    weights = models.write_all(folder)
    weights["shards"] = _in_two(weights["hf_vit"], folder / "shards")
    weights["adapter"] = _adapter(weights["hf_vit"], folder / "adapter")
    beside = {
        name: {path.name: json.loads(path.read_text()) for path in file.parent.glob("*.json")}
        for name, file in weights.items()
    }

    def mutate(rng: np.random.Generator, folder: Path) -> Path:
        name = str(rng.choice(list(weights)))
        damaged = str(rng.choice(list(beside[name])))
        for path in weights[name].parent.iterdir():
            if path.name == damaged:
                (folder / damaged).write_bytes(damaged_json(rng, beside[name][damaged]))
            else:
                os.link(path, folder / path.name)
        return folder

    return Target(mutate, lambda path: open_source(path).read(), models.nonfinite)


def _adapter(base: Path, folder: Path) -> Path:
    """A LoRA of PEFT beside a model."""
    folder.mkdir()
    shapes = SafetensorsFile(base).shapes
    module = next(name.removesuffix(".weight") for name in shapes if name.endswith("attention.query.weight"))
    outputs, inputs = shapes[f"{module}.weight"]
    factors = {"lora_A": np.full((2, inputs), 0.1, np.float32), "lora_B": np.full((outputs, 2), 0.1, np.float32)}
    tensors = {f"base_model.model.{module}.{name}.weight": value for name, value in factors.items()}
    write_safetensors(folder / peft.WEIGHTS, tensors)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "rank_pattern": {"query": 2}, "alpha_pattern": {"key": 1},
              "use_rslora": True, "modules_to_save": ["classifier"], "base_model_name_or_path": str(base)}  # fmt: skip
    (folder / peft.CONFIG).write_text(json.dumps(config))
    return folder / peft.WEIGHTS


def _in_two(file: Path, folder: Path) -> Path:
    folder.mkdir()
    for path in file.parent.glob("*.json"):
        os.link(path, folder / path.name)
    whole, places = SafetensorsFile(file), {}
    for number in range(2):
        part = {name: whole[name] for name in list(whole.shapes)[number::2]}
        write_safetensors(folder / f"part{number}.safetensors", part)
        places |= dict.fromkeys(part, f"part{number}.safetensors")
    (folder / _INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return folder / _INDEX
