"""Where numbers go: metrics.jsonl, TensorBoard events, other trackers and the terminal."""

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import jax
from etils import epath
from jaxtyping import PyTree
from tqdm import tqdm

from vit_jax.data.files import is_remote
from vit_jax.errors import Preempted
from vit_jax.training.lines import Lines
from vit_jax.training.run_files import read_metrics
from vit_jax.training.trackers import Ending, Tracker
from vit_jax.training.tracking import Tracking
from vit_jax.training.units import IMAGES, Units
from vit_jax.training.workdir import Upkeep

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

_NARROWEST = 9  # characters of a column of numbers, as many as 1.234e-05 has


class Writer:
    """Appends one JSON object a line to `metrics.jsonl` and mirrors it to TensorBoard and other trackers.

    As a context manager it tells them how the run ended.

    Args:
        workdir: where `metrics.jsonl` and `tensorboard/` are.
        step: the step that the run starts from; lines after it, left by an interrupted run, are dropped.
        active: False on all processes but one.
        trackers: services beside TensorBoard, by name.
        config: of the run, for them.
    """

    def __init__(
        self,
        workdir: epath.Path,
        step: int,
        active: bool = True,
        trackers: Mapping[str, Tracker] | None = None,
        config: Mapping[str, Any] | None = None,
    ):
        self._active = active
        if not active:
            return
        path = workdir / "metrics.jsonl"
        kept = [row for row in read_metrics(workdir) if row["step"] <= step] if path.exists() else []
        self._lines, self._upkeep = Lines(path, map(json.dumps, kept)), Upkeep(workdir)
        self._events = workdir / "tensorboard"
        # TensorBoard's files are written here and copied there where its writer cannot append.
        self._scratch = tempfile.TemporaryDirectory(prefix="vit_jax-") if is_remote(workdir) else None
        self._board = self._new_board(step + 1)
        self._tracking = Tracking(trackers or {}, workdir, config or {}, kept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        told = kind is not None and issubclass(kind, (Preempted, KeyboardInterrupt))
        self.close("finished" if kind is None else "stopped" if told else "failed")

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        if not self._active:
            return
        self._mend()
        self._lines.write(json.dumps({"step": step, **{k: round_off(v) for k, v in scalars.items()}}))
        self._show(step, scalars)
        self._tracking.write(step, scalars)

    def flush(self) -> None:
        """Before a checkpoint is saved: the lines up to its step must be there when a run goes on from it."""
        if not self._active:
            return
        self._mend()
        self._lines.flush()
        if self._scratch:
            self._board.flush()
            self._copy_board()

    def close(self, ending: Ending = "finished") -> None:
        if not self._active:
            return
        # Last: it may wait, and files that cannot be written are no reason to leave it out.
        with contextlib.ExitStack() as held:
            held.callback(self._tracking.close, ending)
            self._close_files()

    def _close_files(self) -> None:
        with contextlib.closing(self._upkeep), contextlib.closing(self._lines):
            self._mend()
            self._close_board()
        if self._scratch:
            self._copy_board()
            self._scratch.cleanup()

    def _copy_board(self) -> None:
        self._events.mkdir(parents=True, exist_ok=True)
        for file in os.scandir(self._scratch.name):
            with open(file.path, "rb") as copied:
                (self._events / file.name).write_bytes(copied.read())

    def _new_board(self, purge_step: int | None = None) -> "SummaryWriter":
        with _torch_hidden():
            from tensorboardX import SummaryWriter  # 0.3 s to import

        folder = self._scratch.name if self._scratch else os.fspath(self._events)
        return SummaryWriter(folder, purge_step=purge_step, flush_secs=30)

    def _close_board(self) -> None:
        try:
            self._board.close()
        except OSError:
            # A full disk. tensorboardX would try to write again, and print the error, when the interpreter ends.
            self._board.file_writer.event_writer._closed = True
            raise

    def _show(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)

    def _mend(self) -> None:
        """Writes again what somebody has removed from the workdir since it was written last."""
        self._upkeep.mend()
        if self._lines.removed():
            self._lines.restore()
            self._upkeep.say("metrics.jsonl", "it is here again, with all of its lines")
        if not self._scratch and not self._events.is_dir():
            self._close_board()
            self._board = self._new_board()
            for row in read_metrics(self._events.parent):
                self._show(row.pop("step"), row)
            self._upkeep.say("tensorboard", "it is here again, with all that metrics.jsonl holds")


@contextlib.contextmanager
def _torch_hidden() -> Iterator[None]:
    """Around importing tensorboardX, which imports torch where that is installed: 3 s and 200 MB for a type's name."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # the import system's own sign for "not there"
    try:
        yield
    finally:
        if hidden:
            del sys.modules["torch"]


def round_off(value: float) -> float:
    """Seven significant digits: what float32 holds, without its binary tail."""
    return float(f"{float(value):.7g}")


class Progress:
    """A bar on a terminal, plain lines elsewhere (a log file, a notebook's output, CI)."""

    def __init__(self, start: int, total: int, active: bool = True):
        self._start, self._total, self._began = start, total, time.perf_counter()
        self._active, self._bar = active, None
        self._widths: dict[str, int] = {}
        if active and sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True, leave=True)

    def step(self, step: int) -> None:
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def line(self, step: int, scalars: Mapping[str, float]) -> None:
        if not self._active:
            return
        text = f"step {step:{len(str(self._total))}}/{self._total}  {self._columns(scalars)}"
        if self._bar is not None:
            self._bar.write(text.rstrip(), file=sys.stderr)
            return
        done = max(step - self._start, 1)
        left = (time.perf_counter() - self._began) / done * (self._total - step)
        print(f"{text}  left {tqdm.format_interval(left)}", file=sys.stderr, flush=True)

    def _columns(self, scalars: Mapping[str, float]) -> str:
        """Names and numbers, each number as wide as the widest that its column has had."""
        silent = ("_std", "gradient_norm/")  # a deviation, or one of many layers
        shown = {k.removeprefix("train/"): v for k, v in scalars.items() if not any(part in k for part in silent)}
        # On one device the speed of a chip is the speed.
        alone = {k for k in shown if k.endswith("_per_chip") and shown[k] == shown.get(k.removesuffix("_per_chip"))}
        columns = []
        for name in (name for name in shown if name not in alone):
            number = f"{shown[name]:.4g}"
            self._widths[name] = max(self._widths.get(name, _NARROWEST), len(number))
            columns.append(f"{name} {number:<{self._widths[name]}}")
        return "  ".join(columns)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class Throughput:
    """How fast a run goes, and where its time goes, between two lines of the log.

    Args:
        batch_size: examples of a step.
        chips: that share them.
        flops: of one example in training; None where they are not known.
        peak: FLOP/s of one chip in the model's dtype; None where they are not known.
        began: when the run began (`time.perf_counter()`); now by default.
        units: in what the speed is said.
    """

    def __init__(
        self,
        batch_size: int,
        chips: int = 1,
        flops: float | None = None,
        peak: float | None = None,
        began: float | None = None,
        units: Units = IMAGES,
    ):
        self._batch_size, self._chips, self._units = batch_size, chips, units
        self._share_of_peak = flops / peak if flops and peak else None
        self._born = time.perf_counter() if began is None else began
        self._productive = 0.0
        self.start(0)

    def start(self, step: int) -> None:
        """Counts from here on."""
        self._step, self._waited, self._began = step, 0.0, time.perf_counter()

    @contextlib.contextmanager
    def waiting(self, running: PyTree[jax.Array]) -> Iterator[None]:
        """Around the fetching of a batch while the device computes `running`.

        It counts as waiting if the device ran out of work meanwhile: an upper bound, since the device was busy for a
        part of it.
        """
        began = time.perf_counter()
        yield
        if all(leaf.is_ready() for leaf in jax.tree.leaves(running)):
            self._waited += time.perf_counter() - began

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Around evaluation and saving, which do not count."""
        began = time.perf_counter()
        yield
        self._began += time.perf_counter() - began

    def window(self, step: int) -> dict[str, float]:
        """The numbers since the last window, when the result of `step` has just arrived.

        Returns:
            `images_per_second`, of data without images `examples_per_second`, with texts `tokens_per_second` too, each
            also `_per_chip`; `mfu` where it is known, `data_wait` (the share of time that the devices waited for data),
            and `productive`: the share of all time since the run began in which devices computed steps, and not
            compiled, evaluated, saved or waited.
        """
        now = time.perf_counter()
        done, seconds, waited = step - self._step, now - self._began, self._waited
        self.start(step)
        if done < 1 or seconds <= 0:
            return {}
        self._productive += max(seconds - waited, 0.0)
        speed = done * self._batch_size / seconds
        per_chip = speed / self._chips
        return {
            **self._units.per_second(speed),
            **self._units.per_second(per_chip, "_per_chip"),
            **({} if self._share_of_peak is None else {"mfu": per_chip * self._share_of_peak}),
            "data_wait": min(waited / seconds, 1.0),
            "productive": min(self._productive / max(now - self._born, 1e-9), 1.0),
        }
