"""The board of whole models, at several sizes of images."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from vit_jax.commands import board
from vit_jax.commands.bench_model import variant_config
from vit_jax.errors import UserError
from vit_jax.planning.rehearsal import Rehearsal, rehearse
from vit_jax.tasks import example_keys, static_argument
from vit_jax.training.sharding import batch_sharding, put
from vit_jax.training.state import variables_of

_CLASSES = 1000


def config_of(model: str, image_size: int, batch_size: int, dtype: str) -> dict[str, Any]:
    """The plain config of a model "NAME:VARIANT" that is trained with AdamW.

    Raises:
        UserError: for another form.
    """
    name, _, variant = model.partition(":")
    if not name or not variant:
        raise UserError(f"--models has {model!r}", "Write NAME:VARIANT, for example vit:S/16")
    values = variant_config(variant)
    values["model"] |= {"name": name, "dtype": dtype}
    values["batch_size"] = batch_size
    values["data"]["image_size"] = [image_size] * 2
    return values


def rows_of(
    models: Sequence[str],
    sizes: Sequence[int],
    *,
    batch_size: int,
    dtype: str,
    rounds: int,
    warmup: int,
    free: int | None,
    topology: str | None,
) -> list[dict[str, Any]]:
    """Measures each model at each size, see `vit_jax.commands.board.measure`; with a topology, "plan" has what
    `vit_jax plan` says of the train step there."""
    rows = []
    for side in sizes:
        configs = {model: config_of(model, side, batch_size, dtype) for model in models}
        made = {model: rehearse(values, _CLASSES) for model, values in configs.items()}
        programs = {model: _programs(rehearsal) for model, rehearsal in made.items()}
        measured = board.measure(programs, rounds, warmup, free, f"{side}x{side}")
        for model, rehearsal in made.items():
            flops = rehearsal.forward_flops()
            row = {
                "name": model,
                "image_size": [side, side],
                "pixels": side**2,
                "parameters": sum(leaf.size for leaf in jax.tree.leaves(rehearsal.program.params)),
                "flops": None if flops is None else batch_size * flops,
                **measured[model],
            }
            if topology is not None:
                row["plan"] = _planned(configs[model], topology)
            print(_line(row), file=sys.stderr, flush=True)
            rows.append(row)
    return rows


def growth(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The exponents of each model."""
    models = dict.fromkeys(row["name"] for row in rows)
    return {model: board.exponents([row for row in rows if row["name"] == model], "pixels") for model in models}


def _programs(rehearsal: Rehearsal) -> dict[str, board.Program]:
    task, program = rehearsal.task, rehearsal.program
    rows = batch_sharding(rehearsal.mesh)
    on_device_eval = rehearsal.inputs.on_device_eval()
    names = frozenset(task.answered_by or ("features",))

    def infer(variables: Any, batch: Any) -> Any:
        return task.outputs(variables, on_device_eval(batch), names, example_keys(rehearsal.config.seed, batch))

    seen = put(rehearsal.eval_batch(), rows)
    forward = board.compiled(jax.jit(infer).lower(variables_of(program.state), seen))
    training = board.compiled(program.lower(static_argument(task, 0)))

    def start_forward() -> Any:
        variables = variables_of(program.fresh_state())
        return lambda: forward(variables, seen)

    def start_training() -> Any:
        state, monitor = program.fresh_state(), program.fresh_monitor()
        batch, scalars = put(rehearsal.batch(), rows), program.put_scalars(0)

        def once() -> Any:
            nonlocal state
            state, metrics = training(state, monitor, batch, scalars)
            return state, metrics

        return once

    return {"forward": board.Program(forward, start_forward), "training": board.Program(training, start_training)}


def _planned(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    from vit_jax.planning.plan import cache_folder, plan
    from vit_jax.planning.topology import topology

    found = plan(values, _CLASSES, topology(name), cache_folder())
    return {key: found[key] for key in ("peak_bytes", "hbm_bytes", "step_seconds", "mfu", "fits")}


def _line(row: Mapping[str, Any]) -> str:
    return f"{row['name']} at {row['image_size'][0]}x{row['image_size'][1]}: " + ", ".join(
        f"{mode} {board.milliseconds(row[mode])}" for mode in board.MODES
    )
