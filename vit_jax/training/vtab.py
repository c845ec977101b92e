"""VTAB-1k as one run of runs: of each task settings are chosen on 800 and 200 images, then all 1,000 are trained on."""

import gc
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from vit_jax.checkpoints.json_file import parse_json
from vit_jax.data.vtab import TASKS, group_means, task_of
from vit_jax.errors import Diverged, UserError
from vit_jax.training.config import plain
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train
from vit_jax.training.run_files import finished
from vit_jax.training.workdir import write_json

FILE = "vtab.json"
_FINAL = "final"  # the folder of a task's run on all 1,000
_DIVERGED = "diverged.json"  # in a run's workdir: the config with which its loss did not stay finite, and how
# A config's plain values, from its arguments `task`, `lr` and `final`.
Values = Callable[[Mapping[str, Any]], dict[str, Any]]


def run_vtab(
    values: Values,
    workdir: epath.PathLike,
    tasks: Sequence[str] = tuple(TASKS),
    rates: Sequence[float] = (0.01,),
    said: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Runs what is not yet done and returns what is written to `vtab.json`, anew after each task; what it has of other
    tasks stays.

    The learning rate of a task is the one with the highest accuracy on its 200 images after training on its 800; of
    equal ones the smallest. One whose loss does not stay finite is not chosen, nor tried again. With a single rate
    nothing is to be chosen, and only the 1,000 are trained on.

    Args:
        values: of the config of a run.
        workdir: of all: `TASK/lr_RATE` and `TASK/final` are those of runs, which go on where they were stopped.
        tasks: names out of `vit_jax.data.vtab.TASKS`.
        rates: learning rates to choose from.
        said: takes a line before each run.

    Returns:
        `tasks`: of each its group, the accuracy on the test split, the rate, and accuracies on the 200 images by rate,
            None where the loss did not stay finite;
        `groups`: means over the tasks, see `vit_jax.data.vtab.group_means`.

    Raises:
        UserError: for an unknown task, no rates, a workdir of other runs, also of other tasks, a config that does not
            measure what counts, a task without a rate that can be trained with, and whatever a run raises.
    """
    for task in tasks:
        task_of(task)
    if not tasks or not rates or not all(rate > 0 for rate in rates):
        raise UserError("There are no tasks or no learning rates", "Give some, such as --rates 0.003 0.01 0.03")
    workdir = epath.Path(workdir)
    found = _measured(values, workdir, tasks)
    # All of a task's data is opened before the first is trained on: it would be missed after hours.
    for task in tasks:
        for final in (False, True) if len(rates) > 1 else (True,):
            experiment, name = build_experiment(values({"task": task, "lr": rates[0], "final": final})), _name(final)
            if name not in experiment.evaluators:
                raise UserError(
                    f"VTAB counts '{name}/accuracy', and the config has no evaluator {name!r} with final={final}",
                    "Add it to its 'evals'",
                )
    for number, task in enumerate(tasks, 1):
        tried = {}
        for rate in sorted(set(rates)) if len(rates) > 1 else ():
            said(f"{task} ({number} of {len(tasks)}): learning rate {rate:g} on 800 images")
            tried[rate] = _tried(values, task, rate, workdir / task / f"lr_{rate:g}", said)
        measured = [rate for rate, accuracy in tried.items() if accuracy is not None]
        if tried and not measured:
            raise UserError(f"The loss of {task} stays finite with none of the rates", "Give lower --rates")
        best = max(measured, key=tried.get) if tried else rates[0]
        said(f"{task} ({number} of {len(tasks)}): learning rate {best:g} on 1,000 images")
        found[task] = {
            "group": task_of(task).group,
            "accuracy": _accuracy(values, task, best, True, workdir / task / _FINAL),
            "rate": best,
            "tried": {f"{rate:g}": accuracy for rate, accuracy in tried.items()},
        }
        found = {name: found[name] for name in TASKS if name in found}
        groups = group_means({name: each["accuracy"] for name, each in found.items()})
        results = {"tasks": found, "groups": groups}
        write_json(workdir / FILE, results)
    return results


def _measured(values: Values, workdir: epath.Path, tasks: Sequence[str]) -> dict[str, Any]:
    """What `vtab.json` has of other tasks than these.

    Raises:
        UserError: it is damaged, or holds what was measured with another config.
    """
    path, found = workdir / FILE, {}
    if not path.exists():
        return found
    stored = parse_json(path.read_bytes(), str(path)).object("tasks")
    for task in stored:
        each = stored.object(task)
        if task in tasks:
            continue
        if task not in TASKS or each.number("accuracy") is None or each.number("rate") is None:
            raise stored.error(task, "is not what was measured of a task", "Move the file away")
        folder = workdir / task / _FINAL
        config = values({"task": task, "lr": each.number("rate"), "final": True})
        if (folder / "config.json").exists() and finished(folder, config) is None:
            raise UserError(
                f"{path} has {task}, which was measured with another config",
                "Use that one, or another --workdir: means are of runs that are alike",
            )
        found[task] = dict(each)
    return found


def _tried(values: Values, task: str, rate: float, workdir: epath.Path, said: Callable[[str], None]) -> float | None:
    """The accuracy on the 200 images, None where the loss does not stay finite, which is found out once."""
    config = json.loads(json.dumps(plain(values({"task": task, "lr": rate, "final": False}))))
    path = workdir / _DIVERGED
    noted = parse_json(path.read_bytes(), str(path)) if path.exists() else {}
    if noted and noted.object("config").items() == config.items():
        said(f"{task}: {noted.text('why')}")
        return None
    try:
        return _accuracy(values, task, rate, False, workdir)
    except Diverged as error:
        said(f"{task}: {error}")
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(path, {"why": str(error), "config": config})
        return None


def _name(final: bool) -> str:
    """Of the evaluator that counts."""
    return "test" if final else "val"


def _accuracy(values: Values, task: str, rate: float, final: bool, workdir: epath.Path) -> float:
    """What a run measured: when it was finished before, or else it is run to its end."""
    config = values({"task": task, "lr": rate, "final": final})
    summary = finished(workdir, config)
    if summary is None:
        summary = train(build_experiment(config), workdir)
        gc.collect()  # the arrays of a run are in circles of references
    return summary[f"{_name(final)}/accuracy"]
