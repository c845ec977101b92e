"""MLflow (https://mlflow.org/docs/latest/ml/tracking). Its own variables hold, such as MLFLOW_TRACKING_TOKEN."""

import dataclasses
import os
import re
import time
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from vit_jax.errors import UserError
from vit_jax.training.config import flatten
from vit_jax.training.trackers import Beginning, Ending, library

_PARAMETERS = 100  # that it takes at a time
_LONGEST = 500  # characters of a parameter's value that every version keeps


@dataclasses.dataclass(frozen=True)
class Mlflow:
    """Runs of an experiment in MLflow.

    Args:
        experiment: made where it is not there.
        uri: of a server, or of another store that the installed MLflow can open; MLFLOW_TRACKING_URI by default.
        run: what it is called; the name of the workdir by default.
    """

    experiment: str = "vit_jax"
    uri: str | None = None
    run: str | None = None

    def check(self) -> None:
        library("mlflow", "mlflow", _mlflow)
        if not (self.uri or os.environ.get("MLFLOW_TRACKING_URI")):
            raise UserError(
                "config.trackers names 'mlflow', and nothing says where it keeps its runs",
                "Set MLFLOW_TRACKING_URI or config.trackers.mlflow.uri, for instance to http://localhost:5000",
            )
        try:
            self._client()
        except Exception as error:  # whatever its stores raise: a scheme, a missing package
            raise UserError(
                f"MLflow cannot open the store {self.uri or os.environ['MLFLOW_TRACKING_URI']}: "
                f"{(str(error).splitlines() or [type(error).__name__])[0]}",
                "Set MLFLOW_TRACKING_URI or config.trackers.mlflow.uri to another one",
            ) from None

    def begin(self, beginning: Beginning) -> "_Run":
        client = self._client()
        if beginning.run_id:
            client.update_run(beginning.run_id, status="RUNNING")
            return _Run(client, client.get_run(beginning.run_id).info)
        found = client.get_experiment_by_name(self.experiment)
        experiment = found.experiment_id if found else client.create_experiment(self.experiment)
        info = client.create_run(experiment, run_name=self.run or beginning.workdir.name).info
        parameters = [
            _mlflow().entities.Param(_allowed(key), str(value)[:_LONGEST])
            for key, value in flatten(beginning.config).items()
        ]
        for start in range(0, len(parameters), _PARAMETERS):
            client.log_batch(info.run_id, params=parameters[start : start + _PARAMETERS])
        return _Run(client, info)

    def _client(self) -> Any:
        return _mlflow().MlflowClient(self.uri)


class _Run:
    def __init__(self, client: Any, info: Any):
        self._client, self.run_id = client, info.run_id
        self.where = f"{client.tracking_uri}, experiment {info.experiment_id}"

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        now, metric = int(time.time() * 1000), _mlflow().entities.Metric
        self._client.log_batch(self.run_id, [metric(_allowed(k), float(v), now, step) for k, v in scalars.items()])

    def close(self, ending: Ending) -> None:
        status = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}[ending]
        self._client.set_terminated(self.run_id, status)


def _allowed(name: str) -> str:
    """A name with what MLflow refuses in one, such as the `*` of a pattern, replaced; it is a path to it."""
    return re.sub("/+", "/", re.sub(r"[^\w\-. /]", "_", name)).strip("/")[:250] or "_"


def _mlflow() -> ModuleType:
    import mlflow
    import mlflow.entities

    return mlflow


build = Mlflow
