"""The train step: one traced function from (state, batch, scalars) to the next state, and what is noted of it."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Int, PRNGKeyArray, PyTree
from optax.microbatching import AccumulationType

from vit_jax.checkpoints.subtrees import merge, split
from vit_jax.data.batch import NotedBatch
from vit_jax.errors import UserError
from vit_jax.nn.constants import changing, constants_of
from vit_jax.tasks import Batch, Task
from vit_jax.training.parameters import norms_by_layer
from vit_jax.training.scalars import Scalars
from vit_jax.training.schedule_free import gradient_point
from vit_jax.training.sharding import place
from vit_jax.training.sharpness import SharpnessAware
from vit_jax.training.state import LOSS, ON_DEVICE, State, averaged, random_key

# Turns a batch as the host sends it (uint8 images) into what the loss gets; runs on the whole batch, on the device.
OnDevice = Callable[[Batch, PRNGKeyArray], Batch]

# {"first_bad": step of the first non-finite update or -1, "sums": (sum, weight) pairs since the last log line}
Monitor = dict[str, Any]

# (sum, weight) pairs of one update
Metrics = dict[str, tuple[Array, Array]]


def make_update(
    task: Task,
    tx: optax.GradientTransformationExtraArgs,
    *,
    on_device: OnDevice,
    frozen: PyTree,
    microbatch: int | None = None,
    gradient_norms: bool = False,
    sharpness: SharpnessAware | None = None,
    read: set[str] | None = None,
) -> Callable[[State, Batch, Scalars, Hashable], tuple[State, Metrics, Bool[Array, ""]]]:
    """Builds (state, batch, scalars, static) -> (next state, metrics, whether all is finite); traceable.

    Args:
        frozen: mask over the parameters; its leaves get neither gradient nor optimizer slot nor EMA.
        microbatch: examples at a time; None for the whole batch. The loss accumulates by mean, metrics by sum.
        read: receives the names of the arrays of a batch that the loss reads, while the update is traced.
        sharpness: takes the gradient that the optimizer gets, and whose norm is logged, elsewhere.
        gradient_norms: also log the norm of each layer's gradient.
    """
    if microbatch and task.whole_batch:
        raise UserError(f"This task cannot accumulate gradients: {task.whole_batch}", "Set config.microbatch=None")

    def update(state: State, batch: Batch, scalars: Scalars, static: Hashable) -> tuple[State, Metrics, Array]:
        count, seed = state["step"], scalars["seed"]
        size = jax.tree.leaves(batch)[0].shape[0]
        # The share of examples that stand in for unreadable ones, and what fields left out of each, whatever the task.
        counts = {k: v for k, v in batch.items() if k == "corrupt" or k.endswith("_dropped")}
        counted = {k: (v.sum(dtype=jnp.float32), jnp.float32(size)) for k, v in counts.items()}
        # Of all texts the share that was cut, whatever the fields' names.
        if cut := [v.sum(dtype=jnp.float32) for k, v in batch.items() if k.endswith("_cut")]:
            counted["cut"] = (jnp.stack(cut).sum(), jnp.float32(size * len(cut)))
        batch = on_device(batch, random_key(seed, count, ON_DEVICE))
        # One key per example travels with the batch, because optax.microbatch cuts whatever leads with the batch: each
        # microbatch draws its own masks, from the key of its first example.
        keys = jax.random.split(random_key(seed, count, LOSS), size)
        trained, fixed = split(state["params"], frozen)
        point = gradient_point(trained, state["opt_state"])
        # Whatever has no average stands in it as it is, but outside of what is differentiated.
        average = {}
        if "ema" in state:
            statistics = merge(state["model_state"], state.get("ema_model_state", {}))
            average = {"ema": merge(state["params"], state["ema"]), "ema_model_state": statistics}
        extra = {"static": static} if task.static is not None else {}

        def loss(trained: PyTree, rows: tuple[Batch, Array]) -> tuple[Array, tuple[Any, Any]]:
            examples, keys = rows
            rng = keys[0]
            variables = {"params": merge(trained, fixed), "model_state": state["model_state"], **average}
            value, (metrics, new) = task.loss(variables, NotedBatch(examples, read), rng, count, **extra)
            return value, (metrics, changing(new))

        gradient = jax.value_and_grad(loss, has_aux=True)
        if microbatch and microbatch < size:
            if jax.tree.leaves(changing(state["model_state"])):
                raise UserError(
                    "This model keeps statistics of whole batches, which microbatches would change",
                    "Set config.microbatch=None",
                )
            mean, total = AccumulationType.MEAN, AccumulationType.SUM
            gradient = optax.microbatch(gradient, 1, microbatch, ((mean, (total, mean)), mean))
        (value, (metrics, model_state)), gradients = gradient(point, (batch, keys))
        if sharpness is not None:
            _, gradients = gradient(sharpness.climbed(point, gradients), (batch, keys))
        model_state = {**model_state, **constants_of(state["model_state"])}

        updates, opt_state = tx.update(
            gradients, state["opt_state"], trained, rates=scalars["rates"] | scalars.get("fixed", {})
        )
        trained = optax.apply_updates(trained, updates)
        new_state = {
            "step": count + 1,
            "params": merge(trained, fixed),
            "model_state": model_state,
            "opt_state": opt_state,
        }
        if "ema" in state:
            new_state["ema"] = averaged(state["ema"], trained, scalars["ema"])
            if "ema_model_state" in state:
                new_state["ema_model_state"] = averaged(state["ema_model_state"], model_state, scalars["ema"])

        gradient_norm = optax.tree.norm(gradients)
        metrics = {**metrics, **counted, "gradient_norm": (gradient_norm, jnp.float32(1))}
        if gradient_norms:
            layers = norms_by_layer(gradients)
            metrics |= {f"gradient_norm/{name}": (norm, jnp.float32(1)) for name, norm in layers.items()}
        # A finite loss with non-finite updates would poison the parameters one step before the loss shows it.
        finite = jnp.isfinite(value) & jnp.isfinite(gradient_norm) & jnp.isfinite(optax.tree.norm(updates))
        return new_state, metrics, finite

    return update


def noted(monitor: Monitor, metrics: Metrics, finite: Bool[Array, ""], step: Int[Array, ""]) -> Monitor:
    """The monitor after an update, the `step`-th; traceable."""
    return {
        "first_bad": jnp.where((monitor["first_bad"] < 0) & ~finite, step, monitor["first_bad"]),
        "sums": jax.tree.map(jnp.add, monitor["sums"], metrics),
    }


def sums_of(monitor: Monitor) -> dict[str, list[float]]:
    """The sums as plain values, exactly."""
    return {name: [float(s), float(w)] for name, (s, w) in jax.device_get(monitor["sums"]).items()}


def with_sums(monitor: Monitor, sums: Mapping[str, Sequence[float]]) -> Monitor:
    """The monitor of a line of the log that `sums_of` interrupted; unchanged where that had other metrics."""
    if set(sums) != set(monitor["sums"]):
        return monitor
    filled = {
        name: tuple(place(np.asarray(v, x.dtype), x.sharding) for v, x in zip(sums[name], pair, strict=True))
        for name, pair in monitor["sums"].items()
    }
    return {**monitor, "sums": filled}


def fresh_monitor(monitor: Monitor) -> Monitor:
    """The same monitor with sums of zero, for the next line of the log; traceable."""
    return {"first_bad": monitor["first_bad"], "sums": jax.tree.map(jnp.zeros_like, monitor["sums"])}
