"""What the scripts of experiments have in common: runs that are made once, and tables of what they measured."""

import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from vit_jax.commands.main import in_a_line
from vit_jax.commands.table import table
from vit_jax.data.files import write_whole
from vit_jax.training.config import load_config, override
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train
from vit_jax.training.run_files import finished

Table = tuple[Sequence[str], Sequence[Sequence[str]]]  # a header and rows


def once(file: Path, make: Callable[[], Any]) -> Any:
    """What `make` gives, kept in a file; it is called when the file is not there."""
    if not file.exists():
        made = make()
        write_whole(file, json.dumps(made, indent=2, ensure_ascii=False) + "\n")  # Ctrl-C leaves no half of it
    return json.loads(file.read_text(encoding="utf-8"))


def fit(run: Path, spec: str, changes: Mapping[str, str] | None = None) -> dict[str, float]:
    """Trains a config, with some keys changed, where that has not been done; returns what it measured last.

    Raises:
        UserError: the folder has a run of another config.
    """
    return fit_config(run, override(load_config(spec), changes or {}))


def fit_config(run: Path, values: Mapping[str, Any]) -> dict[str, float]:
    """The same of a plain config."""
    if finished(run, values) is None:  # also where an evaluator failed, which is asked again
        print(f"\n{run.name}", flush=True)
        train(build_experiment(values), run)
    return summary(run)


def summary(run: Path) -> dict[str, float]:
    """What a run measured last."""
    return json.loads((run / "summary.json").read_text())


def write_tables(workdir: Path, tables: Sequence[Table], everything: Any) -> None:
    """Prints tables and writes them to `table.md`, and all figures to `results.json`."""
    text = "\n".join(
        "".join("| " + " | ".join(row) + " |\n" for row in (header, ["---"] * len(header), *rows))
        for header, rows in tables
    )
    (workdir / "table.md").write_text(text, encoding="utf-8")
    (workdir / "results.json").write_text(json.dumps(everything, indent=2) + "\n", encoding="utf-8")
    for header, rows in tables:
        print("\n" + table(header, rows))


def spread(values: Sequence[float], percent: bool = True) -> str:
    """Mean and standard deviation, shares in per cent."""
    return spread_of([{"": value} for value in values], "", *((1, 100.0) if percent else (2, 1.0)))


def spread_of(runs: Sequence[Mapping[str, float]], key: str, digits: int, factor: float = 1.0) -> str:
    """Mean and standard deviation of what runs measured; "" where none did."""
    values = [factor * run[key] for run in runs if key in run]
    if not values:
        return ""
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.pstdev(values):.{digits}f}" if len(values) > 1 else mean


def as_command(main: Callable[[], None]) -> NoReturn:
    """Runs a script and ends the process as `vit_jax` does: what the caller can put right and Ctrl-C are a line."""
    sys.exit(in_a_line(main))
