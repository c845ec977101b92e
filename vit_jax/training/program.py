"""What a run compiles: the first state and the step, with all shapes known before anything runs."""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Bool, PyTree, UInt32

from vit_jax.checkpoints.subtrees import split
from vit_jax.data.batch import NotedBatch
from vit_jax.nn.batch_axis import batch_split_like
from vit_jax.nn.platform import computing_on
from vit_jax.tasks import Batch, Task, Variables, static_argument
from vit_jax.training import cpu, optim, schedules
from vit_jax.training.config import RunConfig
from vit_jax.training.frozen_flops import spared_flops
from vit_jax.training.parameters import check_patterns, leaf_names
from vit_jax.training.precompute import Planned
from vit_jax.training.scalars import Scalars, as_uint32, put_scalars, scalars_at, unpacked
from vit_jax.training.schedules import Extensions
from vit_jax.training.sharding import batch_sharding, place, replicated, state_sharding, tensor_axes
from vit_jax.training.sharpness import sharpness_aware
from vit_jax.training.state import INIT, ON_DEVICE, State, fresh_average, init_state, random_key
from vit_jax.training.step import Metrics, Monitor, OnDevice, make_update, noted


@dataclasses.dataclass(frozen=True)
class Program:
    """The pieces of a run on a mesh.

    Args:
        params: shapes of the parameters.
        frozen: mask over the parameters.
        read: names of the arrays of a batch that the loss reads.
        scalars: what the update after `step` of them takes beside its batch, on the host; see `scalars_at`.
        state: shapes of the state, with `shardings` beside it.
        batch: shapes of a batch as the host sends it to a step.
        planned: what is computed before the first step, None where nothing is.
        fresh_average: the keys of the moving average as it starts, from a state; only where there is one.
        fresh_state: compiles and runs the initialisation; each leaf is made where it belongs.
        monitor: shapes of the monitor.
        fresh_monitor: a monitor with sums of zero, on the mesh.
        flops: of one example in a step, counted on paper but for what frozen parameters spare, see
            `vit_jax.training.frozen_flops`, which is traced when it is asked; None where nobody counts them, or where
            something is computed before the first step.
        step: jitted (state, monitor, batch, scalars, static) -> (state, monitor); the state is donated, the scalars are
            those of `put_scalars`.
        mesh: where it runs.
    """

    params: PyTree
    frozen: PyTree
    read: frozenset[str]
    scalars: Callable[[int], Scalars]
    state: PyTree
    shardings: PyTree
    batch: Mapping[str, jax.ShapeDtypeStruct]
    planned: Planned | None
    fresh_average: Callable[[State], State]
    fresh_state: Callable[[], State]
    monitor: PyTree
    fresh_monitor: Callable[[], Monitor]
    flops: Callable[[], float | None]
    step: Callable[..., tuple[State, Monitor]]
    mesh: Mesh

    def lower(self, static: Hashable = None) -> jax.stages.Lowered:
        """The step lowered from shapes alone, for devices that need not be there."""
        everywhere = replicated(self.mesh)
        state = jax.tree.map(_placed, self.state, self.shardings)
        monitor = jax.tree.map(lambda leaf: _placed(leaf, everywhere), self.monitor)
        return self.step.lower(state, monitor, *_of_host(self.batch, self.scalars(0), self.mesh), static)

    def put_scalars(self, step: int) -> UInt32[Array, " n"]:
        """The scalars of the update after `step` of them, on the mesh."""
        return put_scalars(self.scalars(step), self.mesh)


def _placed(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _of_host(
    batch: Mapping[str, jax.ShapeDtypeStruct], scalars: Scalars, mesh: Mesh
) -> tuple[dict[str, jax.ShapeDtypeStruct], jax.ShapeDtypeStruct]:
    """What a step gets from the host, as it lies on the mesh."""
    rows = batch_sharding(mesh)
    bits = jax.ShapeDtypeStruct((len(jax.tree.leaves(scalars)),), jnp.uint32, sharding=replicated(mesh))
    return {name: _placed(leaf, rows) for name, leaf in batch.items()}, bits


def build_program(
    config: RunConfig,
    task: Task,
    on_device: OnDevice,
    batch: Mapping[str, jax.ShapeDtypeStruct],
    mesh: Mesh,
    extensions: Extensions = (),
    precompute: Callable[..., Planned] | None = None,
) -> Program:
    """The program of a config whose durations are in steps, for batches of the given shapes.

    Args:
        precompute: plans what is computed of a batch's arrays before the first step and stands in their place, see
            `vit_jax.training.experiment.Experiment`.
    """
    # The optimizer needs the parameters' names, the state's shapes need the optimizer.
    prepared = jax.eval_shape(lambda batch: on_device(batch, random_key(config.seed, 0, ON_DEVICE)), batch)

    @functools.partial(jax.jit, inline=True)  # traced once: here for its shapes, and read into the first state then
    def variables(seed: UInt32[Array, ""]) -> Variables:
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), prepared)
        return task.init(random_key(seed, 0, INIT), NotedBatch(zeros))

    with tensor_axes() as axes:
        initial = variables.eval_shape(jax.ShapeDtypeStruct((), jnp.uint32))
    params = initial["params"]
    section = dict(config.optim)
    sharpness = sharpness_aware(section.pop("sam", None), section)
    locked = task.locked(params)
    frozen = optim.frozen_mask(params, section.pop("frozen", None) or (), locked)
    optim.check_locked(frozen, task.locked_when_loaded, config.init_from)
    optim.check_locked(frozen, locked, config.init_from, by="The task or config.lora")
    planned = None
    if precompute is not None:
        planned = precompute(initial, frozen, batch)
        batch = planned.batch(batch)
    tx, rates = optim.build(section, config.steps, split(params, frozen)[0], extensions, task.layers())
    ema_decay, averaged = None, None
    if config.average is not None:
        where = "config.ema.decay" if config.ema else "config.ema_decay"
        ema_decay = schedules.ema_decay(config.average.decay, config.steps, extensions, where)
        averaged = config.average.patterns
        check_patterns(averaged, leaf_names(split(params, frozen)[0]), "config.ema.match")

    def scalars(step: int) -> Scalars:
        return scalars_at(step, config.seed, rates, ema_decay)

    def initialise(seed: UInt32[Array, ""]) -> State:
        return init_state(variables(seed), tx, frozen, averaged)

    platform = mesh.devices.flat[0].platform
    state = jax.eval_shape(lambda found: init_state(found, tx, frozen, averaged), initial)
    shardings, everywhere = state_sharding(state, mesh, axes), replicated(mesh)
    read: set[str] = set()
    plain_update = make_update(
        task, tx, on_device=on_device, frozen=frozen, microbatch=config.microbatch,
        gradient_norms=config.gradient_norms,
        sharpness=sharpness,
        read=read,
    )  # fmt: skip

    names = scalars(0)

    def update(
        state: State, batch: Batch, bits: UInt32[Array, " n"], static: Hashable
    ) -> tuple[State, Metrics, Bool[Array, ""]]:
        with computing_on(platform), batch_split_like(batch_sharding(mesh)):
            return plain_update(state, batch, unpacked(bits, names), static)

    # Jitted by itself so that it is traced once: here for the shapes of what it measures, and read into the step then.
    update = jax.jit(update, static_argnums=3, inline=True)

    def step(
        state: State, monitor: Monitor, batch: Batch, bits: UInt32[Array, " n"], static: Hashable
    ) -> tuple[State, Monitor]:
        new_state, metrics, finite = update(state, batch, bits, static)
        return new_state, noted(monitor, metrics, finite, state["step"] + 1)

    # As they lie on the mesh: what is traced for other arguments would be traced again for these.
    arguments = jax.tree.map(_placed, state, shardings), *_of_host(batch, names, mesh)
    _, sums, _ = update.eval_shape(*arguments, static_argument(task, 0))
    sums = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), sums)
    monitor = {"first_bad": jax.ShapeDtypeStruct((), jnp.int32), "sums": sums}

    def flops() -> float | None:
        counted = None if planned else task.flops(batch)
        if not counted:
            return None
        average = {} if config.average is None else {"ema": params, "ema_model_state": initial["model_state"]}
        with computing_on(platform):
            counted -= spared_flops(task, {**initial, **average}, frozen, prepared)
        return counted if sharpness is None else 2 * counted  # of two gradients

    def fresh_state() -> State:
        # Accelerators compile it as they do everything: nothing was measured for them.
        options = cpu.INITIALISATION if platform == "cpu" else None
        return jax.jit(initialise, out_shardings=shardings, compiler_options=options)(as_uint32(config.seed))

    def fresh_monitor() -> Monitor:
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), sums)
        return jax.tree.map(lambda x: place(x, everywhere), {"first_bad": np.int32(-1), "sums": zeros})

    return Program(
        params=params,
        frozen=frozen,
        read=frozenset(read),
        scalars=scalars,
        state=state,
        shardings=shardings,
        batch=batch,
        planned=planned,
        fresh_average=lambda state: fresh_average(state, frozen, averaged),
        fresh_state=fresh_state,
        monitor=monitor,
        fresh_monitor=fresh_monitor,
        flops=flops,
        step=jax.jit(
            step,
            donate_argnums=0,
            static_argnums=4,
            out_shardings=(shardings, everywhere),
            compiler_options=cpu.step_options() if platform == "cpu" else None,
        ),
        mesh=mesh,
    )
