"""The one train loop. It knows tasks only through their contract and reads top to bottom."""

import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath

from vit_jax.checkpoints.steps import steps_in
from vit_jax.checkpoints.store import Store
from vit_jax.errors import Diverged, UserError
from vit_jax.tasks import static_argument
from vit_jax.training.distributed import is_lead
from vit_jax.training.experiment import Experiment
from vit_jax.training.interrupt import Interrupt
from vit_jax.training.kept import keep_in
from vit_jax.training.metrics import Progress, Writer, round_off
from vit_jax.training.open_run import open_run
from vit_jax.training.remarks import RunningRemarks
from vit_jax.training.sharding import host_rows, put
from vit_jax.training.state import State, variables_of
from vit_jax.training.step import Monitor, sums_of
from vit_jax.training.workdir import explains_full_disk, write_json


@explains_full_disk
def train(
    experiment: Experiment,
    workdir: epath.PathLike,
    devices: Sequence[jax.Device] | None = None,
    *,
    extend: bool = False,
) -> dict[str, Any]:
    """Trains to the end, resuming what `workdir` holds, and returns what it writes to `summary.json`.

    The end is the last step, or where evaluations have not become better for as long as `checkpoint.stop_after` says.

    Writes `config.json`, `metrics.jsonl`, `tensorboard/`, `checkpoints/<step>`, `pictures/` (where an evaluator keeps
    some) and `summary.json`, which names under `failed` the evaluators that could not measure at the end.

    Args:
        experiment: what to train, see `vit_jax.training.experiment.build_experiment`.
        workdir: local or on a remote file system.
        devices: all of them by default.
        extend: the run may be made longer than it was laid out: what is left of its schedules is stretched then.

    Raises:
        UserError: anything that the caller can put right, before the first step where it can be known by then. After
            the last step: an evaluator that failed, when everything else is written.
        Preempted: after SIGTERM, when the state is saved.
        KeyboardInterrupt: after Ctrl-C, when the state is saved.
    """
    began, workdir, config = time.perf_counter(), epath.Path(workdir), experiment.config
    run = open_run(experiment, workdir, devices, extend)
    state, monitor, measured = run.state, run.monitor, {}
    failed: dict[str, UserError] = {}  # what ended an evaluator, the last time that it ran
    run.state = None  # the step donates its buffers
    lead = is_lead()
    with contextlib.ExitStack() as opened:  # a log that is damaged does not leave the workdir taken
        opened.callback(run.close)
        writer = opened.enter_context(Writer(workdir, run.start, lead, experiment.trackers, experiment.values))
        progress = opened.enter_context(contextlib.closing(Progress(run.start, run.last, lead)))
        batches = run.pipeline.iterate(run.start, *host_rows(run.rows, config.batch_size))
        opened.callback(batches.close)
        closing = opened.pop_all()
    throughput, remarks = run.throughput, RunningRemarks(experiment.task, lead)
    pending = None  # (step, monitor) of a line of the log that the device is still computing

    def arguments(done: int) -> tuple[dict[str, jax.Array], jax.Array]:
        """What the update after `done` of them takes from the host."""
        return put(next(batches), run.rows), run.put_scalars(done)

    def write_line(step: int, monitor: Monitor) -> None:
        monitor = jax.device_get(monitor)
        speed = throughput.window(step)
        _check_finite(int(monitor["first_bad"]), run.store, workdir)
        # What nothing was counted of has no average.
        averages = {k: float(s) / float(w) for k, (s, w) in monitor["sums"].items() if w}
        scalars = {f"train/{k}": value for k, value in averages.items()}
        rates = {f"train/{name}": float(rate) for name, rate in run.scalars(step - 1)["rates"].items()}
        scalars |= {**rates, **speed}
        writer.write(step, scalars)
        progress.line(step, scalars)
        remarks.say(step, averages)

    def measure(step: int, names: Sequence[str], state: State, known: Mapping[str, float]) -> dict[str, float]:
        """Runs evaluators; `known` is what others have measured after the same step."""
        for name in names:
            failed.pop(name, None)
        pictures = keep_in(workdir, step) if lead else None
        measured = {**known, **run.evaluation.run(variables_of(state, run.product), names, failed, pictures)}
        run.store.record(step, measured, failed)
        if lead:
            for name in failed.keys() & set(names):
                print(f"vit_jax: after step {step}: {failed[name]}", file=sys.stderr)
        return measured

    def save_state(step: int, state: State, monitor: Monitor) -> None:
        writer.flush()
        run.store.save(step, state, {**run.metadata, "log": sums_of(monitor)})

    def write_measured(step: int, measured: dict[str, float]) -> None:
        if measured:
            writer.write(step, measured)
            progress.line(step, measured)

    with closing:
        # Where the run ends, and of what is measured then the evaluators that have their line of the log.
        end, logged = run.last, set(run.evaluation.due(run.start, last=True)) - set(run.owed)
        if run.owed and run.start < run.last:
            measured = measure(run.start, run.owed, state, {})
            write_measured(run.start, measured)
            run.patience.saw(run.start, measured)
            if run.patience.ends():
                end, logged = run.start, run.evaluation.due(run.start, last=False)
        with Interrupt() as interrupt:
            batch, scalars = arguments(run.start) if run.start < end else (None, None)
            for step in range(run.start + 1, end + 1):
                previous = monitor
                state, monitor = run.step(state, monitor, batch, scalars, static_argument(experiment.task, step - 1))
                # The device works on this step; meanwhile the host waits for the last one, writes its line of the
                # log, and fetches the next batch. One step ahead is enough to keep the device busy.
                jax.block_until_ready(previous)
                if pending is not None:
                    write_line(*pending)
                    pending = None
                if step < run.last:
                    with throughput.waiting(monitor):
                        batch, scalars = arguments(step)
                if step == run.start + 1:
                    jax.block_until_ready(monitor)
                    throughput.start(step)  # compilation is not counted
                progress.step(step)

                told = interrupt.reached()
                last = step == run.last
                # A run that is told to stop goes on later as if it had not been: its sums travel with the checkpoint,
                # and what it owes is measured then.
                evaluate = [] if told and not last else run.evaluation.due(step, last)
                save = last or told or run.policy.due(step)
                if last or step % config.log_every == 0:
                    pending = (step, monitor)
                if step % config.log_every == 0:
                    monitor = run.fresh_monitor(monitor)
                if not (evaluate or save):
                    continue
                # Here, and only here, the host waits for the step that it has just started.
                if pending is not None:
                    write_line(*pending)
                    pending = None
                jax.block_until_ready(monitor)  # the step's own time counts
                with throughput.paused():
                    _check_finite(int(monitor["first_bad"]), run.store, workdir)
                    if last:
                        state = run.finished(state)
                    if save:  # before anything is measured: what was trained is not to be lost by that
                        save_state(step, state, monitor)
                    if evaluate:
                        measured = measure(step, evaluate, state, {})
                        write_measured(step, measured)
                        run.patience.saw(step, measured)
                        if not last and run.patience.ends():
                            end, logged = step, evaluate
                            if not save:
                                save_state(step, state, monitor)
                if told and not last:
                    run.store.wait()
                    progress.close()
                    if lead:
                        print(f"Stopped and saved at step {step}; the same command goes on from there", file=sys.stderr)
                    raise interrupt.reason(step)
                if step == end:
                    break
        if end == run.start or end < run.last:  # no step knew that it was the last one
            known = measured if end > run.start else {}
            rest = [name for name in run.evaluation.due(end, last=True) if not known or name not in logged]
            measured = measure(end, rest, state, known)
            write_measured(end, {k: v for k, v in measured.items() if k.partition("/")[0] not in logged})
        run.store.wait()
        if lead and run.patience.over and end < config.steps:
            progress.close()
            print(run.patience.said(end), file=sys.stderr)

    summary = {"step": end, **{k: round_off(v) for k, v in measured.items()}}
    summary["seconds"] = round(time.perf_counter() - began, 1)
    if lead:
        write_json(workdir / "summary.json", summary | ({"failed": sorted(failed)} if failed else {}))
    if failed:
        raise next(iter(failed.values()))
    return summary


def _check_finite(first_bad: int, store: Store, workdir: epath.Path) -> None:
    if first_bad >= 0:
        store.wait()
        steps = steps_in(workdir)
        kept = f"The checkpoint of step {steps[-1]} is kept" if steps else "No checkpoint was saved before"
        raise Diverged(
            f"The loss or its gradient is not finite since step {first_bad}",
            f"{kept}; try a lower learning rate, config.optim.clip_norm or a longer warmup, in a new workdir",
        )
