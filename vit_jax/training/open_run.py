"""What happens before the first step: mesh, state, compiled functions, and the place where a run goes on."""

import contextlib
import dataclasses
import importlib.metadata
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, UInt32

from vit_jax.checkpoints.base import Base, bases_of
from vit_jax.checkpoints.policy import Policy
from vit_jax.checkpoints.steps import absolute
from vit_jax.checkpoints.store import Store
from vit_jax.checkpoints.transfer import Report, check_sources, init_from
from vit_jax.checkpoints.vocabulary import check_vocabulary
from vit_jax.errors import UserError, printable
from vit_jax.naming import construct
from vit_jax.nn.trunk import trunk_of
from vit_jax.tasks import static_argument
from vit_jax.training.chips import peak_flops
from vit_jax.training.compiling import compile_aloud
from vit_jax.training.config import plain
from vit_jax.training.distributed import agreed, check_same, from_lead, is_lead
from vit_jax.training.encoding import check_tokenizer
from vit_jax.training.evaluation import Evaluation, intervals
from vit_jax.training.experiment import Experiment, Pipeline
from vit_jax.training.metrics import Throughput, read_metrics
from vit_jax.training.parameters import path_name
from vit_jax.training.patience import Patience
from vit_jax.training.program import Program, build_program
from vit_jax.training.remarks import opening
from vit_jax.training.resume import extensions, resume
from vit_jax.training.scalars import Scalars
from vit_jax.training.schedule_free import begun_at
from vit_jax.training.schedules import Extensions
from vit_jax.training.sharding import batch_sharding, check_batch, make_mesh, place, replicated
from vit_jax.training.state import State, variables_of
from vit_jax.training.step import Monitor, fresh_monitor, with_sums
from vit_jax.training.tracking import check_trackers
from vit_jax.training.units import units_of
from vit_jax.training.workdir import start_step, taken, write_config


@dataclasses.dataclass
class Run:
    """A run that is ready to go.

    Args:
        pipeline: its batches.
        start, last: it does the steps start + 1 ... last, or fewer where its evaluations say so.
        state, monitor: on the mesh.
        step: compiled (state, monitor, batch, scalars, static) -> (state, monitor); the state is donated.
        put_scalars, scalars: what a step takes beside its batch, see `vit_jax.training.program.Program`.
        fresh_monitor: compiled; the monitor for the next line of the log.
        product: which tree evaluation uses.
        finished: turns the state after the last step into the one that is saved and evaluated.
        owed: evaluators that were to run after step `start` and of which the log has nothing.
        patience: what the evaluations until step `start` say about going on.
        metadata: what every checkpoint carries.
        throughput: counts examples and seconds, from the beginning of `open_run` on.
        close: ends the saving and lets other runs into the workdir.
    """

    mesh: Mesh
    rows: NamedSharding
    pipeline: Pipeline
    start: int
    last: int
    state: State
    monitor: Monitor
    step: Callable[..., tuple[State, Monitor]]
    fresh_monitor: Callable[[Monitor], Monitor]
    put_scalars: Callable[[int], UInt32[Array, " n"]]
    scalars: Callable[[int], Scalars]
    product: str
    evaluation: Evaluation
    finished: Callable[[State], State]
    owed: Sequence[str]
    policy: Policy
    patience: Patience
    store: Store
    metadata: Mapping[str, Any]
    throughput: Throughput
    close: Callable[[], None]


def open_run(
    experiment: Experiment,
    workdir: epath.Path,
    devices: Sequence[jax.Device] | None = None,
    extend: bool = False,
) -> Run:
    """Builds, checks, and restores or initialises; the workdir is written only when everything else fits."""
    began, config, task, lead = time.perf_counter(), experiment.config, experiment.task, is_lead()
    check_same({"config": plain(experiment.values), "workdir": os.fspath(absolute(workdir))})
    mesh = make_mesh(config.mesh, devices)
    check_batch(mesh, config.batch_size, config.microbatch)
    policy = construct(Policy, config.checkpoint, "config.checkpoint")
    if policy.best and policy.best.partition("/")[0] not in config.evals:
        raise UserError(
            f"config.checkpoint.best is {policy.best!r}, and config.evals has {', '.join(config.evals) or 'nothing'}",
            "Write the name of an evaluator and of a metric of it, such as 'val/accuracy'",
        )
    evaluated = intervals(config).get(policy.best.partition("/")[0], config.eval_every) if policy.best else None
    if policy.best and not (evaluated and policy.every and policy.every % evaluated == 0):
        raise UserError(
            "config.checkpoint.best needs an evaluation at every save",
            "Set config.checkpoint.every to a multiple of config.eval_every",
        )
    if policy.stop_after and config.recalibrate:
        raise UserError(
            "config.recalibrate changes what the last step has made, and config.checkpoint.stop_after compares what was"
            " evaluated before",
            "Set config.recalibrate=none; 'vit_jax evaluate --recalibrate' does it for any checkpoint",
        )
    last = min(config.steps, config.stop_at or config.steps)
    if not agreed(lambda: start_step(workdir, experiment.values, last)) and config.init_from:
        agreed(lambda: check_sources(config.init_from, experiment.metadata.get("fields")))

    if experiment.trackers:
        agreed(lambda: check_trackers(experiment.trackers, workdir) if lead else None)

    # One row of the first batch tells what the data looks like.
    row = experiment.pipeline.batch(0, config.batch_size, 0)
    raw = {k: jax.ShapeDtypeStruct((config.batch_size, *v.shape[1:]), v.dtype) for k, v in row.items()}
    program = build_program(config, task, experiment.on_device, raw, mesh, precompute=experiment.precompute)
    product = task.product or ("params" if config.average is None else "ema")
    evaluation = Evaluation(
        experiment.evaluators, task.outputs, experiment.on_device_eval, mesh, intervals(config), seed=config.seed,
        task=task,
    )  # fmt: skip
    placed = jax.tree.map(_placed, program.state, program.shardings)
    agreed(lambda: evaluation.check(variables_of(placed, product)))
    # A run that is stopped before its end goes on as if it had not been.
    recalibration = experiment.recalibration if last == config.steps else None
    if recalibration:
        agreed(lambda: recalibration.check(program.state))
    planned = program.planned
    experiment.fields.check_read(program.read | evaluation.read | (planned.reads if planned else set()))

    with contextlib.ExitStack() as held:
        agreed(lambda: held.enter_context(taken(workdir, active=lead)))
        # Only now: a run that was in the workdir until now may have saved.
        start = from_lead(agreed(lambda: start_step(workdir, experiment.values, last)))
        length: Extensions = ()
        patience = Patience(policy)
        monitor, frozen_in = program.fresh_monitor(), None
        bases: Sequence[Base] = ()
        hub: Sequence[str] = ()
        if start:
            abstract = jax.tree.map(_placed, program.state, program.shardings)
            resumed = resume(workdir, start, abstract, program.fresh_average, policy.checksums)
            start, state = resumed.step, resumed.state
            agreed(lambda: check_vocabulary(workdir, resumed.metadata.get("fields"), experiment.metadata.get("fields")))
            monitor, frozen_in = with_sums(monitor, resumed.metadata.get("log", {})), resumed.metadata.get("frozen_in")
            bases = [Base(**base) for base in resumed.metadata.get("bases", ())]
            hub = resumed.metadata.get("loaded_from", ())
            for row in agreed(lambda: _logged(workdir, start)):
                patience.saw(row["step"], row)
            if patience.ends():
                last = start
            length = agreed(lambda: extensions(resumed, config, experiment.values, extend))
            if length:
                program = build_program(config, task, experiment.on_device, raw, mesh, length, experiment.precompute)
        else:
            state, transferred = program.fresh_state(), None
            if config.init_from:
                state, transferred = _transfer(state, program, config.init_from)
                hub = [report.path for report in transferred[1] if report.path.startswith("hf://")]
            if policy.frozen == "base":
                bases = agreed(lambda: _bases(transferred, program, workdir))
        encoded = getattr(getattr(experiment.pipeline, "source", None), "header", None)
        agreed(lambda: check_tokenizer(encoded, task, variables_of(state), mesh))
        agreed(lambda: write_config(workdir, experiment.values) if lead else None)
        store = agreed(lambda: Store(workdir, policy, program.frozen, frozen_in, bases))
        held.callback(store.close)
        everywhere = replicated(mesh)
        if lead:
            for line in opening(experiment):
                print(printable(line), file=sys.stderr)
            size = sum(np.prod(x.shape, dtype=np.int64) for x in jax.tree.leaves(program.params))
            devices = f"{mesh.size} {mesh.devices.flat[0].platform} device{'s' if mesh.size > 1 else ''}"
            print(f"{size:,} parameters on {devices}, steps {start} to {last}, workdir {workdir}", file=sys.stderr)
        pipeline = experiment.pipeline
        if planned and start < last:
            pipeline = planned.computed(variables_of(state), workdir, mesh, config.seed)
        if start < last:
            said = compile_aloud(program.lower(static_argument(task, start)), "the step")
            if lead:
                print(printable(said), file=sys.stderr)
        return Run(
            mesh=mesh,
            rows=batch_sharding(mesh),
            pipeline=pipeline,
            start=start,
            last=last,
            state=state,
            monitor=monitor,
            step=program.step,
            fresh_monitor=jax.jit(fresh_monitor, out_shardings=everywhere).lower(monitor).compile(),
            put_scalars=program.put_scalars,
            scalars=program.scalars,
            product=product,
            evaluation=evaluation,
            finished=(lambda state: recalibration.state(state, product, mesh))
            if recalibration
            else lambda state: state,
            owed=_owed(workdir, start, evaluation.due(start, start == last)) if start else (),
            policy=policy,
            patience=patience,
            store=store,
            metadata=metadata_of(experiment, product, length) | ({"loaded_from": list(hub)} if hub else {}),
            throughput=_throughput(experiment, raw, mesh, began, program.flops),
            close=held.pop_all().close,
        )


def _throughput(
    experiment: Experiment,
    batch: Mapping[str, jax.ShapeDtypeStruct],
    mesh: Mesh,
    began: float,
    flops: Callable[[], float | None],
) -> Throughput:
    execution = getattr(trunk_of(experiment.task.model), "execution", None)
    in_half = getattr(execution, "dtype", None) == jnp.bfloat16
    peak = peak_flops(mesh.devices.flat[0].device_kind) if in_half else None
    of_example = flops() if peak else None
    size, units = experiment.config.batch_size, units_of(batch, experiment.fields)
    return Throughput(size, mesh.size, of_example, peak, began, units)


def _placed(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _transfer(
    state: State, program: Program, sources: str | Mapping[str, str]
) -> tuple[State, tuple[Mapping[str, Any], Sequence[Report]]]:
    """The state with parameters and model state from other checkpoints, and these with what became of them; a moving
    average starts from them too."""
    fresh, shardings = ({"params": s["params"], **s["model_state"]} for s in (state, program.shardings))
    found, reports = agreed(lambda: init_from(fresh, sources))
    if is_lead():
        print(*reports, sep="\n", file=sys.stderr)

    def replace(path: tuple, leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
        value = found.get(path_name(path))
        return leaf if value is None else place(value.astype(leaf.dtype), sharding)

    model_state = jax.tree.map_with_path(replace, fresh, shardings)
    params = model_state.pop("params")
    state = {**state, "params": params, "model_state": model_state}
    state["opt_state"] = begun_at(params, state["opt_state"])
    return state | program.fresh_average(state) if "ema" in state else state, (found, reports)


def _bases(
    transferred: tuple[Mapping[str, Any], Sequence[Report]] | None, program: Program, workdir: epath.Path
) -> tuple[Base, ...]:
    """Where the frozen parameters are that steps need not hold."""
    found, reports = transferred or ({}, ())
    names = {path_name(p) for p, frozen in jax.tree_util.tree_leaves_with_path(program.frozen) if frozen}
    values = {name: value for name in names if (value := found.get(f"params/{name}")) is not None}
    return bases_of([(report.path, report.names) for report in reports], values, workdir)


def _owed(workdir: epath.Path, step: int, due: Sequence[str]) -> list[str]:
    """Evaluators that were to run after `step`, of which the log has nothing: the state is saved before they run."""
    known = {key.partition("/")[0] for row in _logged(workdir, step) if row["step"] == step for key in row}
    return [name for name in due if from_lead(int(name not in known))]


def _logged(workdir: epath.Path, step: int) -> list[dict[str, Any]]:
    """The lines of the log until a step, in the process that writes it."""
    rows = read_metrics(workdir) if is_lead() and (workdir / "metrics.jsonl").exists() else []
    return [row for row in rows if row["step"] <= step]


def metadata_of(experiment: Experiment, product: str, length: Extensions) -> dict[str, Any]:
    """What a checkpoint of a run says about itself, but for its log."""
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {
        "config": plain(experiment.values),
        "model": plain(experiment.task.model_spec),
        "task": None,
        "fields": None,
        "product": product,
        "length": {"steps": experiment.config.steps, "extensions": [list(e) for e in length]},
        "versions": {p: importlib.metadata.version(p) for p in packages},
        **experiment.metadata,
        **({} if experiment.config.lora is None else {"lora": plain(experiment.config.lora)}),
    }
