"""Services that follow a run: they get the log, and never hold up or end the run, whatever becomes of them."""

import dataclasses
import json
import threading
import time

import jax
import pytest
from etils import epath

from tests.tiny import tiny_experiment
from vit_jax import UserError
from vit_jax.training import tracking
from vit_jax.training.config import differences
from vit_jax.training.loop import train
from vit_jax.training.metrics import Progress, Writer, read_metrics
from vit_jax.training.trackers import build_trackers
from vit_jax.training.tracking import Tracking, known_ids


@dataclasses.dataclass
class Service:
    """Keeps what it is told; fails the first `failures` times that it is asked for anything, but to begin if it `begins`."""

    failures: int = 0
    begins: bool = False
    hangs: threading.Event | None = None
    begun: list = dataclasses.field(default_factory=list)
    rows: list = dataclasses.field(default_factory=list)
    endings: list = dataclasses.field(default_factory=list)
    where = "a service"

    def check(self):
        pass

    def begin(self, beginning):
        if not self.begins:
            self._answer()
        self.begun.append(beginning)
        self.run_id = beginning.run_id or "r1"
        return self

    def write(self, step, scalars):
        self._answer()
        self.rows.append((step, dict(scalars)))

    def close(self, ending):
        self.endings.append(ending)

    def _answer(self):
        if self.hangs:
            self.hangs.wait()
        if self.failures:
            self.failures -= 1
            raise ConnectionError("no route\nto host")


@pytest.mark.long
def test_a_run_and_its_continuation_are_one_run_of_a_service(tmp_path, capsys):
    """The whole log, under one id, in order; and one line for people."""
    service, late = Service(), Service()
    first = dataclasses.replace(tiny_experiment(stop_at=4), trackers={"service": service})
    train(first, tmp_path, jax.devices()[:1])
    assert f"vit_jax: service follows this run as r1: {service.where}\n" in capsys.readouterr().err
    assert service.begun[0].run_id is None and service.begun[0].config["steps"] == 6
    again = Service()
    second = dataclasses.replace(tiny_experiment(), trackers={"service": again, "late": late})
    train(second, tmp_path, jax.devices()[:1])
    assert [b.run_id for b in again.begun] == ["r1"] and service.endings == again.endings == ["finished"]
    log = [(row.pop("step"), row) for row in read_metrics(tmp_path)]

    def rounded(rows):
        return [(step, {k: pytest.approx(v, rel=1e-6) for k, v in row.items()}) for step, row in rows]

    assert log == rounded(service.rows + again.rows)
    assert log == rounded(late.rows)  # what the log had before it came, too
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"service": "r1", "late": "r1"}


@pytest.mark.parametrize("begins", [False, True])
def test_what_a_service_does_not_take_is_sent_again(tmp_path, capsys, begins):
    """Whether it fails from the beginning, or when it has begun."""
    service = Service(failures=3, begins=begins)
    tracking = Tracking({"service": service}, epath.Path(tmp_path), {})
    for step in range(5):
        tracking.write(step, {"loss": step / 2})
    tracking.close("stopped")
    assert service.rows == [(step, {"loss": step / 2}) for step in range(5)] and service.endings == ["stopped"]
    said = capsys.readouterr().err
    assert said.count("did not answer (ConnectionError: no route); the run goes on") == 1


def test_a_service_that_stays_away(tmp_path, capsys):
    tracking = Tracking({"service": Service(failures=9999)}, epath.Path(tmp_path), {})
    tracking.write(1, {"loss": 1.0})
    tracking.close("finished")
    assert "service has not taken 1 lines of the log; metrics.jsonl has them" in capsys.readouterr().err
    assert known_ids(epath.Path(tmp_path)) == {}


def test_a_service_that_hangs_holds_up_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tracking, "_CLOSING_SECONDS", 0.2)
    service, began = Service(hangs=threading.Event()), time.perf_counter()
    with Writer(epath.Path(tmp_path), 0, trackers={"service": service}) as writer:
        writer.write(1, {"loss": 1.0})
    assert 0.2 <= time.perf_counter() - began < 5 and len(read_metrics(tmp_path)) == 1
    assert "service has not taken everything after" in capsys.readouterr().err
    service.hangs.set()


@pytest.mark.parametrize(
    ("error", "ending"), [(None, "finished"), (KeyboardInterrupt(), "stopped"), (UserError("no"), "failed")]
)
def test_a_service_is_told_how_a_run_ended(tmp_path, error, ending):
    service = Service()
    try:
        with Writer(epath.Path(tmp_path), 0, trackers={"service": service}):
            if error:
                raise error
    except type(error or OSError()):
        pass
    assert service.endings == [ending]


def test_sections_of_trackers():
    wandb = build_trackers("wandb")["wandb"]
    assert wandb.project == "vit_jax" and list(build_trackers(["wandb", "mlflow"])) == ["wandb", "mlflow"]
    assert build_trackers({"mlflow": {"experiment": "e"}, "wandb": None})["mlflow"].experiment == "e"
    assert build_trackers(None) == {}
    with pytest.raises(UserError, match="no tracker named 'wanbd'.*wandb"):
        build_trackers(["wanbd"])
    with pytest.raises(UserError, match=r"config\.trackers\.wandb.*projct.*project"):
        build_trackers({"wandb": {"projct": "x"}})
    with pytest.raises(UserError, match=r"config\.trackers\.wandb is 3, not a section"):
        build_trackers({"wandb": 3})
    assert differences({"trackers": {"wandb": {"project": "a"}}}, {}) == []  # a run may go on with others


def test_a_damaged_file_of_ids_is_said_before_the_run(tmp_path):
    (tmp_path / "trackers.json").write_text('["r1"]')
    experiment = dataclasses.replace(tiny_experiment(), trackers={"service": Service()})
    with pytest.raises(UserError, match="trackers.json is damaged"):
        train(experiment, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["trackers.json"]


def test_lines_for_people_stand_in_columns(capsys):
    """On one device without the speed of a chip, which is the speed."""
    progress = Progress(0, 2000)
    speed = {"images_per_second": 123.456, "images_per_second_per_chip": 123.456}
    for step, loss in ((50, 2.30259), (1500, 0.0000123456)):
        progress.line(step, {"train/loss": loss, "train/loss_std": 1.0, **speed})
    progress.line(2000, {"images_per_second": 200.0, "images_per_second_per_chip": 25.0})
    first, second, third = capsys.readouterr().err.splitlines()
    assert first.startswith("step   50/2000  loss 2.303      images_per_second 123.5      left ")
    assert second.startswith("step 1500/2000  loss 1.235e-05  images_per_second 123.5      left ")
    assert third == "step 2000/2000  images_per_second 200        images_per_second_per_chip 25         left 00:00"
