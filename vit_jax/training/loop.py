"""The one train loop. It knows tasks only through their contract and reads top to bottom."""

import contextlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from vit_jax.checkpoints.store import Store, steps_in
from vit_jax.errors import UserError
from vit_jax.tasks import static_argument
from vit_jax.training.distributed import is_lead
from vit_jax.training.experiment import Experiment
from vit_jax.training.interrupt import Interrupt
from vit_jax.training.metrics import Progress, Writer, round_off
from vit_jax.training.prepare import prepare
from vit_jax.training.sharding import host_rows, put
from vit_jax.training.state import variables_of
from vit_jax.training.step import Monitor
from vit_jax.training.workdir import explains_full_disk, write_json


@explains_full_disk
def train(
    experiment: Experiment, workdir: epath.PathLike, devices: Sequence[jax.Device] | None = None
) -> dict[str, Any]:
    """Trains to the end, resuming what `workdir` holds, and returns what it writes to `summary.json`.

    Writes `config.json`, `metrics.jsonl`, `tensorboard/`, `checkpoints/<step>` and `summary.json`.

    Args:
        experiment: what to train, see `vit_jax.training.experiment.build_experiment`.
        workdir: local or on a remote file system.
        devices: all of them by default.

    Raises:
        UserError: anything that the caller can put right, before the first step where it can be known by then.
        Preempted: after SIGTERM, when the state is saved.
        KeyboardInterrupt: after Ctrl-C, likewise.
    """
    began, workdir, config = time.perf_counter(), epath.Path(workdir), experiment.config
    run = prepare(experiment, workdir, devices)
    state, monitor, measured = run.state, run.monitor, {}
    run.state = None  # the step donates its buffers
    lead = is_lead()
    writer, progress = Writer(workdir, run.start, lead), Progress(run.start, run.last, lead)
    throughput = run.throughput
    batches = experiment.pipeline.iterate(run.start, *host_rows(run.rows, config.batch_size))
    pending = None  # (step, monitor) of a line of the log that the device is still computing

    def write_line(step: int, monitor: Monitor) -> None:
        monitor = jax.device_get(monitor)
        speed = throughput.window(step)
        _check_finite(int(monitor["first_bad"]), run.store, workdir)
        scalars = {f"train/{k}": float(s) / max(float(w), 1e-9) for k, (s, w) in monitor["sums"].items()}
        scalars |= {"train/learning_rate": float(run.schedule(step - 1)), **speed}
        writer.write(step, scalars)
        progress.line(step, scalars)

    with contextlib.ExitStack() as closing:
        for part in (run, writer, progress, batches):
            closing.callback(part.close)
        with Interrupt() as interrupt:
            batch = put(next(batches), run.rows) if run.start < run.last else None
            for step in range(run.start + 1, run.last + 1):
                previous = monitor
                state, monitor = run.step(state, monitor, batch, static_argument(experiment.task, step - 1))
                # The device works on this step; meanwhile the host waits for the last one, writes its line of the
                # log, and fetches the next batch. One step ahead is enough to keep the device busy.
                jax.block_until_ready(previous)
                if pending is not None:
                    write_line(*pending)
                    pending = None
                if step < run.last:
                    with throughput.waiting(monitor):
                        batch = put(next(batches), run.rows)
                if step == run.start + 1:
                    jax.block_until_ready(monitor)
                    throughput.start(step)  # compilation is not counted
                progress.step(step)

                told = interrupt.reached()
                stop = step == run.last or told
                evaluate = run.evaluation.due(step, step == run.last)
                save = stop or run.policy.due(step)
                if stop or step % config.log_every == 0:
                    pending, monitor = (step, monitor), run.fresh_monitor(monitor)
                if not (evaluate or save):
                    continue
                # Here, and only here, the host waits for the step that it has just started.
                if pending is not None:
                    write_line(*pending)
                    pending = None
                with throughput.paused():
                    _check_finite(int(monitor["first_bad"]), run.store, workdir)
                    if evaluate:
                        measured = run.evaluation.run(variables_of(state, run.frozen, run.product), evaluate)
                        if measured:
                            writer.write(step, measured)
                            progress.line(step, measured)
                    if save:
                        writer.flush()
                        run.store.save(step, state, run.metadata, measured if evaluate else {})
                if told and step < run.last:
                    run.store.wait()
                    progress.close()
                    if lead:
                        print(f"Stopped and saved at step {step}; the same command goes on from there", file=sys.stderr)
                    raise interrupt.reason(step)
        if run.start == run.last:
            measured = run.evaluation.run(variables_of(state, run.frozen, run.product))
        run.store.wait()

    summary = {"step": run.last, **{k: round_off(v) for k, v in measured.items()}}
    summary["seconds"] = round(time.perf_counter() - began, 1)
    if lead:
        write_json(workdir / "summary.json", summary)
    return summary


def _check_finite(first_bad: int, store: Store, workdir: epath.Path) -> None:
    if first_bad >= 0:
        store.wait()
        steps = steps_in(workdir)
        kept = f"The checkpoint of step {steps[-1]} is kept" if steps else "No checkpoint was saved before"
        raise UserError(
            f"The loss or its gradient is not finite since step {first_bad}",
            f"{kept}; try a lower learning rate, config.optim.clip_norm or a longer warmup, in a new workdir",
        )
