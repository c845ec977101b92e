"""Measures one cell in a process of its own, see `benchmarks.gpu.cells`.

python -m benchmarks.gpu.measure '{"kind": "train", "config": "bench_b16:smoke", "changes": {}, "rounds": 3}' files out
python -m benchmarks.gpu.measure --machine out
"""

import functools
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.gpu.cells import FEED, INFERENCE, TRAIN
from benchmarks.gpu.kernels import top_kernels

_CLASSES = 1000
_PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "jax-cuda12-plugin",
    "jax-cuda13-plugin",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
)


def machine() -> dict[str, Any]:
    """The card as jax sees it, and the versions."""
    import jax

    device = jax.devices()[0]
    memory = (device.memory_stats() or {}).get("bytes_limit")
    found = {"device": device.device_kind, "platform": device.platform, "bytes_limit": memory}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def measured(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What the settings ask for, as JSON holds it."""
    kinds = {TRAIN: trained, INFERENCE: served, FEED: fed}
    return kinds[settings["kind"]](settings, folder)


def _values(settings: Mapping[str, Any]) -> dict[str, Any]:
    from vit_jax.planning.sweep import changed
    from vit_jax.training.config_file import load_config

    return changed(load_config(settings["config"]), settings["changes"])


def trained(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What `vit_jax bench` measures, and the kernels of its trace."""
    from vit_jax.commands.bench_model import measure_config

    rounds, profile = settings["rounds"], str(folder / "trace") if settings.get("profile") else None
    found = measure_config(_values(settings), _CLASSES, rounds, max(rounds // 5, 1), profile, inference=False)
    return found | {"kernels": top_kernels(folder / "trace")} if profile else found


def served(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Seconds of a batch through the model with smaller weights, and how far its features are from those without.

    Returns:
        `weights_bytes`, `features_error` (the length of the difference over that of the features, float32 weights
        being what is meant), and `batches`: of each batch size `seconds`, `images_per_second`, `temporaries_bytes`.
    """
    del folder
    import jax
    import numpy as np

    from benchmarks.gpu import weights
    from vit_jax.commands.bench_model import seconds_of, speeds
    from vit_jax.planning.rehearsal import rehearse
    from vit_jax.tasks import example_keys
    from vit_jax.training.state import variables_of

    rehearsal = rehearse(_values(settings), _CLASSES)
    task, prepare = rehearsal.task, rehearsal.inputs.on_device_eval()
    variables = variables_of(rehearsal.program.fresh_state())
    meant, state, batch = variables["params"], variables["model_state"], rehearsal.eval_batch()

    @jax.jit
    def infer(params: Any, state: Any, batch: Any) -> Any:
        keys = example_keys(rehearsal.config.seed, batch)
        names = frozenset(("features", "logits"))
        return task.outputs({"params": weights.usable(params), "model_state": state}, prepare(batch), names, keys)

    params = jax.jit(functools.partial(weights.small, weights=settings["weights"]))(meant)
    found = {"weights_bytes": weights.size(params), "batches": {}}
    for size in settings["batches"]:
        some = {name: jax.device_put(rows[:size]) for name, rows in batch.items()}
        program = infer.lower(params, state, some).compile()
        seconds = seconds_of(functools.partial(program, params, state, some), settings["rounds"], 2)
        memory = program.memory_analysis()
        found["batches"][str(size)] = {
            **speeds(seconds, size, rehearsal.units()),
            "temporaries_bytes": memory.temp_size_in_bytes,
        }
    # Of the last, smallest batch.
    features, whole = (np.asarray(infer(p, state, some)["features"], np.float32) for p in (params, meant))
    return found | {"features_error": float(np.linalg.norm(features - whole) / np.linalg.norm(whole))}


def fed(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """`vit_jax train` from JPEGs on this machine's disk.

    Returns:
        `images_per_second` of the run with its `data_wait`, the share of time that the device waited for data, both of
        the second half of its steps; `loader_images_per_second` of its pipeline alone; and how many `cpus` there are.
    """
    from vit_jax.training.experiment import build_experiment
    from vit_jax.training.loop import train

    values, rounds = _values(settings), settings["rounds"]
    root = folder / "jpegs"
    _write_jpegs(root, settings["images"])
    values["data"] = {**values["data"], "train": {"name": "folder", "root": str(root), "split": "train"}}
    values |= {"steps": 2 * rounds, "log_every": rounds, "evals": {}}
    batches = build_experiment(values).pipeline.iterate(0)
    try:
        next(batches)  # threads and processes start
        began = time.perf_counter()
        for _ in range(rounds):
            next(batches)
        alone = rounds * values["batch_size"] / (time.perf_counter() - began)
    finally:
        batches.close()
    workdir = folder / "run"
    shutil.rmtree(workdir, ignore_errors=True)
    train(build_experiment(values), workdir)
    last = json.loads((workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    shutil.rmtree(workdir / "checkpoints", ignore_errors=True)
    kept = {name: last[name] for name in ("images_per_second", "data_wait")}
    return {**kept, "loader_images_per_second": alone, "cpus": len(os.sched_getaffinity(0))}


def _write_jpegs(root: Path, count: int) -> None:
    """500x375 JPEGs in ten classes, those of `vit_jax bench data`; made once."""
    from vit_jax.commands.bench_data import photos

    done = root / "done"
    if done.exists() and done.read_text() == str(count):
        return
    for index, image in enumerate(photos(count)):
        file = root / "train" / str(index % 10) / f"{index}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image)
    done.write_text(str(count))


def _end_with(parent: int) -> None:
    """Ends this process when whoever started it is gone, however that ended: a device serves one cell at a time."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def main(arguments: list[str]) -> None:
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    what, *rest = arguments
    if what == "--machine":
        found = machine()
    else:
        folder = Path(rest.pop(0))
        folder.mkdir(parents=True, exist_ok=True)
        found = measured(json.loads(what), folder)
    Path(rest[0]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
