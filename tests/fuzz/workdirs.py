"""Damaged workdirs of a tiny run, read as the report, `load` and the start of a resumed run read them."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from tests.fuzz.harness import Target
from tests.fuzz.mutations import damaged_bytes, damaged_json
from tests.tiny import tiny_config, tiny_run
from vit_jax.checkpoints.load import load
from vit_jax.commands import report
from vit_jax.commands.page import html_table
from vit_jax.training.run_files import read_metrics
from vit_jax.training.workdir import start_step


def build(folder: Path) -> Target:
    changes = {"steps": 2, "log_every": 1, "optim__schedule__warmup_steps": 1, "checkpoint__every": 1,
               "optim__frozen": "['encoder/embedding/.*']"}  # fmt: skip
    # The compiler must not run under the harness's limit of memory.
    jax.block_until_ready(jax.numpy.zeros(()))
    whole, values = folder / "whole", tiny_config(**changes)
    tiny_run(whole, **changes)
    load(whole)  # nor must the threads that read start under it
    config, metrics, *_ = parts = [
        Path("config.json"),
        Path("metrics.jsonl"),
        Path("checkpoints/2/_CHECKPOINT_METADATA"),
    ]
    parts += [
        p.relative_to(whole)
        for folder in ("2", "frozen-*")
        for p in sorted((whole / "checkpoints").glob(f"{folder}/**/*"))
        if p.name in ("_METADATA", "_sharding") or p.match("frozen-*/_CHECKPOINT_METADATA")
    ]

    def mutate(rng: np.random.Generator, folder: Path) -> tuple[Path, Path]:
        workdir, part = folder / "run", parts[rng.choice(len(parts), p=_weights(len(parts)))]
        shutil.copytree(whole, workdir)
        path = workdir / part
        if part == metrics:
            lines = path.read_bytes().splitlines()
            for at in rng.choice(len(lines), size=rng.integers(1, 3), replace=False):
                lines[at] = damaged_json(rng, json.loads(lines[at]))
            data = b"\n".join(lines) + b"\n"
            path.write_bytes(damaged_bytes(rng, data) if rng.random() < 0.2 else data)
        else:
            path.write_bytes(damaged_json(rng, json.loads(path.read_bytes())))
        return workdir, part

    def use(given: tuple[Path, Path]) -> Any:
        workdir, part = given
        if part in (config, metrics):
            log = report.read_run(epath.Path(workdir))
            groups, shown = report.group_runs([log]), report.choose_metrics([log], None)
            html_table(*report.result_table(groups, shown)), html_table(*report.difference_table(groups))
            [report.curve([log], metric) for metric in shown]
            start_step(epath.Path(workdir), values, 2), read_metrics(epath.Path(workdir))
        else:
            return load(workdir).metadata
        return None

    def wrong(metadata: Any) -> str:
        return "" if metadata is None or isinstance(metadata["labels"], list) else f"labels {metadata['labels']!r:.100}"

    return Target(mutate, use, wrong)


def _weights(parts: int) -> list[float]:
    """A third each: config, metrics, checkpoint."""
    return [1 / 3, 1 / 3, *([1 / 3 / (parts - 2)] * (parts - 2))]
