"""benchmarks/adapters.py: its configs are those of runs, and LoRA's is small enough."""

import jax
import numpy as np

from benchmarks.adapters import WAYS, changed
from vit_jax.training.config import load_config
from vit_jax.training.experiment import build_experiment
from vit_jax.training.parameters import first_match, leaf_names


def test_the_ways_train_what_their_rows_say():
    trained = {}
    for way, changes in WAYS.items():
        values = changed(load_config("digits_finetune:init=base"), changes, 1, 1e-3)
        values["data"]["image_size"] = [16, 16]
        experiment = build_experiment(values)
        image = jax.ShapeDtypeStruct((1, 16, 16, 3), np.float32)
        params = jax.eval_shape(experiment.task.init, jax.random.key(0), {"image": image})["params"]
        frozen = [*values["optim"].get("frozen", ()), *(f"{name}/.*" for name in experiment.task.locked(params))]
        sizes = dict(zip(leaf_names(params), map(np.size, jax.tree.leaves(params)), strict=True))
        trained[way] = sum(size for name, size in sizes.items() if first_match(frozen, name) < 0)
    whole, lora, everywhere, head, shallow, deep = trained.values()
    assert lora - head == 3 * 2 * 4 * 2 * 64  # three blocks, queries and values, rank 4, from 64 to 64
    # Of each block four kernels from 64 to 64 and two between 64 and 256; and the patches' one.
    assert everywhere - head == 3 * (4 * 128 + 2 * 320) + 4 * 4 * 3 + 64
    assert lora < everywhere < 0.03 * whole
    assert (shallow - head, deep - head) == (20 * 64, 3 * 20 * 64)
