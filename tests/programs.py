"""Several runs of one experiment in a test compile what they share once.

A run traces, lowers and reads its programs anew although JAX has kept them on disk, which takes a third of what
compiling them took. Where a test stops a run and goes on, or does so again, the second may take the first one's. That
another process, which compiles for itself, goes on with the same bits is in `tests/training/test_resume.py`.
"""

import dataclasses
from typing import Any

import pytest
from jax.sharding import Mesh

from vit_jax.tasks import Task
from vit_jax.training import open_run
from vit_jax.training.config import RunConfig


def share_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """For runs of the same `Experiment`, or of copies with another `stop_at`, on the same devices."""
    build_program, evaluation = open_run.build_program, open_run.Evaluation
    known: dict[Any, tuple[Any, Any]] = {}

    def once(key: Any, held: Any, make: Any) -> Any:
        if key not in known:
            known[key] = held, make()  # held, so that nothing else gets its id
        return known[key][1]

    def program(config: RunConfig, task: Task, *args: Any, **kwargs: Any) -> Any:
        mesh = next(value for value in args if isinstance(value, Mesh))
        same = repr(dataclasses.replace(config, stop_at=None)), id(task), mesh, len(args)
        return once(same, task, lambda: build_program(config, task, *args, **kwargs))

    def evaluations(evaluators: Any, outputs: Any, on_device: Any, mesh: Mesh, *args: Any, **kwargs: Any) -> Any:
        make = lambda: evaluation(evaluators, outputs, on_device, mesh, *args, **kwargs)  # noqa: E731
        return once((id(evaluators), mesh), evaluators, make)

    monkeypatch.setattr(open_run, "build_program", program)
    monkeypatch.setattr(open_run, "Evaluation", evaluations)
