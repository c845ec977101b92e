"""Weights & Biases (https://docs.wandb.ai). Its own variables hold: WANDB_API_KEY, WANDB_MODE=offline, WANDB_ENTITY."""

import dataclasses
import os
import secrets
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from vit_jax.data.files import is_remote
from vit_jax.errors import UserError
from vit_jax.training.trackers import Beginning, Ending, library

_FINISH_SECONDS = 60.0  # that the end of a run waits for what is not yet uploaded; the rest stays in its folder


@dataclasses.dataclass(frozen=True)
class Wandb:
    """Runs in Weights & Biases; offline ones are kept in the workdir's `wandb/`, for `wandb sync`.

    Args:
        project: where the run is put.
        entity: whose project it is; None: that of the key, or WANDB_ENTITY.
        group: of runs that are shown together.
        run: what it is called; the name of the workdir by default.
    """

    project: str = "vit_jax"
    entity: str | None = None
    group: str | None = None
    run: str | None = None

    def check(self) -> None:
        wandb = library("wandb", "wandb", _wandb)
        mode = wandb.setup(wandb.Settings(silent=True)).settings.mode
        if mode in ("online", "shared") and not wandb.login(prompt=False):
            raise UserError(
                "config.trackers names 'wandb', and there is no key for Weights & Biases",
                "Run 'wandb login', set WANDB_API_KEY, or keep the run here with WANDB_MODE=offline",
            )

    def begin(self, beginning: Beginning) -> "_Run":
        wandb = _wandb()
        return _Run(
            wandb.init(
                project=self.project,
                entity=self.entity,
                group=self.group,
                name=self.run or beginning.workdir.name,
                # An id of our own: the run is the same one even if the service did not answer the first time.
                id=beginning.run_id or secrets.token_hex(4),
                resume="allow",
                config=dict(beginning.config),
                dir=None if is_remote(beginning.workdir) else os.fspath(beginning.workdir),
                settings=wandb.Settings(silent=True, console="off", finish_timeout=_FINISH_SECONDS),
            )
        )


class _Run:
    def __init__(self, run: Any):
        self._run, self.run_id = run, run.id
        self.where = run.dir if run.offline else run.url
        # Steps of ours, since its own only grow: a run that goes on from a checkpoint comes by some of them again.
        run.define_metric("*", step_metric="step")

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log({"step": step, **scalars})

    def close(self, ending: Ending) -> None:
        self._run.finish(exit_code={"finished": 0, "failed": 1, "stopped": 255}[ending])


def _wandb() -> ModuleType:
    import wandb

    return wandb


build = Wandb
