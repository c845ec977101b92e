"""Images per second of a model's train and inference step, and how long they take to compile."""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from vit_jax.commands.arguments import add_config, read_config
from vit_jax.commands.table import table
from vit_jax.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser, False, "bench the model, task and optimizer of this config")
    parser.add_argument("--variant", metavar="SIZE/PATCH", help="without --config: a ViT, for example S/16, with AdamW")
    parser.add_argument("--image-size", type=int, metavar="N", help="pixels of a side (default: the config's, or 224)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images a step (default: the config's, or 16)")
    parser.add_argument("--classes", type=int, default=1000, metavar="N", help="outputs of the head (default 1000)")
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="timed steps (default 10)")
    parser.add_argument("--warmup", type=int, default=2, metavar="N", help="steps before those (default 2)")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Checks the arguments and times the model that they name, see `measure_config`."""
    for name in ("rounds", "classes", "batch_size", "image_size"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} is {value}", "It must be at least 1")
    if bool(arguments.config) == bool(arguments.variant):
        raise UserError("There is nothing to bench, or too much", "Give either --config or --variant")
    values = read_config(arguments, variant_config(arguments.variant))
    if arguments.batch_size:
        values["batch_size"] = arguments.batch_size
    if arguments.image_size:
        values["data"]["image_size"] = [arguments.image_size] * 2
    return measure_config(values, arguments.classes, arguments.rounds, max(arguments.warmup, 0))


def variant_config(variant: str | None) -> dict[str, Any]:
    """The plain config of a ViT that is trained with AdamW in float32."""
    return {
        "seed": 0,
        "steps": 1000,
        "batch_size": 16,
        "task": {"name": "classify"},
        "model": {"name": "vit", "variant": variant, "dtype": "float32"},
        "data": {"image_size": [224, 224], "train": {}, "transform": {}},
        "optim": {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.1, "schedule": {"name": "constant"}},
    }


def measure_config(values: Mapping[str, Any], classes: int, rounds: int, warmup: int) -> dict[str, Any]:
    """Times the two steps of a plain config.

    Returns:
        What `--json` writes: the machine, the model, and for "train" and "inference" the compile seconds and the
        median, minimum and maximum of images per second over `rounds` steps.
    """
    import jax
    import numpy as np

    from vit_jax.naming import build_named
    from vit_jax.tasks import DataInfo, static_argument
    from vit_jax.training.config import run_config
    from vit_jax.training.inputs import build_inputs
    from vit_jax.training.program import build_program
    from vit_jax.training.sharding import batch_sharding, check_batch, make_mesh, put
    from vit_jax.training.state import variables_of

    # Durations in epochs need the length of a data set, which is not read: any will do, since no schedule ends here.
    config = run_config(values).in_steps(examples=1_000_000)
    inputs = build_inputs(config.data)
    data = DataInfo(inputs.image_size, tuple(f"class {i}" for i in range(classes)))
    task = build_named("task", config.task, "config.task", model=config.model, data=data)
    mesh = make_mesh(config.mesh)
    check_batch(mesh, config.batch_size, config.microbatch)
    rng = np.random.default_rng(0)
    host = {
        "image": rng.integers(0, 256, (config.batch_size, *inputs.image_size, 3), np.uint8),
        "label": rng.integers(0, classes, config.batch_size).astype(np.int32),
    }

    shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in host.items()}
    program = build_program(config, task, inputs.prepare(classes), shapes, mesh)
    prepare_eval = inputs.prepare_eval()
    inference = jax.jit(lambda variables, batch: task.outputs(variables, prepare_eval(batch)))

    state, monitor = program.fresh_state(), program.fresh_monitor()
    batch = put(host, batch_sharding(mesh))
    variables = variables_of(state, program.frozen)
    results = {
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "devices": mesh.size,
        "jax": jax.__version__,
        "model": dict(config.model or {}),
        "batch_size": config.batch_size,
        "image_size": list(inputs.image_size),
        "parameters": int(sum(np.prod(leaf.shape, dtype=np.int64) for leaf in jax.tree.leaves(program.params))),
        "rounds": rounds,
    }

    began = time.perf_counter()
    compiled = inference.lower(variables, batch).compile()
    seconds = time.perf_counter() - began
    timed = _time(lambda: compiled(variables, batch), rounds, warmup)
    results["inference"] = {"compile_seconds": round(seconds, 2), **_speeds(timed, config.batch_size)}

    began = time.perf_counter()
    step = program.step.lower(state, monitor, batch, static_argument(task, 0)).compile()
    seconds = time.perf_counter() - began
    del variables  # the step donates the buffers

    def once() -> Any:
        nonlocal state
        state, metrics = step(state, monitor, batch)
        return state, metrics

    results["train"] = {"compile_seconds": round(seconds, 2), **_speeds(_time(once, rounds, warmup), config.batch_size)}
    _add_utilisation(results, task, inputs.image_size)
    return results


def _time(step: Callable[[], Any], rounds: int, warmup: int) -> list[float]:
    """Seconds of each of `rounds` calls."""
    import jax

    seconds = []
    for i in range(warmup + rounds):
        began = time.perf_counter()
        jax.block_until_ready(step())
        if i >= warmup:
            seconds.append(time.perf_counter() - began)
    return seconds


def _speeds(seconds: list[float], batch_size: int) -> dict[str, float]:
    speeds = [batch_size / s for s in seconds]
    return {
        "images_per_second": round(statistics.median(speeds), 3),
        "images_per_second_min": round(min(speeds), 3),
        "images_per_second_max": round(max(speeds), 3),
        "seconds_per_step": round(statistics.median(seconds), 6),
    }


def _add_utilisation(results: dict[str, Any], task: Any, image_size: tuple[int, int]) -> None:
    """Adds "flops_per_image" for a ViT, and the share of the bfloat16 peak where the device's peak is known."""
    from vit_jax.nn.flops import encoder_flops, peak_flops

    encoder = getattr(getattr(task, "model", None), "encoder", None)
    if encoder is None or not hasattr(encoder, "mlp_dim"):
        return
    (rows, columns), (height, width) = (
        [s // p for s, p in zip(image_size, encoder.patch_size, strict=True)],
        encoder.patch_size,
    )
    forward = encoder_flops(
        patches=rows * columns, tokens=rows * columns + int(encoder.class_token), patch_pixels=height * width,
        width=encoder.width, depth=encoder.depth, mlp_dim=encoder.mlp_dim,
    )  # fmt: skip
    peak = peak_flops(results["device"])
    for name, flops in (("inference", forward), ("train", 3 * forward)):
        results[name]["flops_per_image"] = flops
        if peak and results["model"].get("dtype") == "bfloat16":
            used = flops * results[name]["images_per_second"]
            results[name]["bfloat16_utilisation"] = round(used / (peak * results["devices"]), 4)


def show(results: Mapping[str, Any]) -> str:
    """The table of the terminal."""
    rows = []
    for name in ("train", "inference"):
        found = results[name]
        low, high = found["images_per_second_min"], found["images_per_second_max"]
        used = found.get("bfloat16_utilisation")
        rows.append([
            name, f"{found['images_per_second']:.1f}", f"{low:.1f} to {high:.1f}",
            f"{1e3 * found['seconds_per_step']:.1f} ms", f"{found['compile_seconds']:.1f} s",
            "" if used is None else f"{used:.1%}",
        ])  # fmt: skip
    header = ["step", "images/s", "range", "a step", "compile", "of bf16 peak"]
    if not any(row[-1] for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    devices = f"{results['devices']} {results['device']}"
    height, width = results["image_size"]
    model = results["model"].get("variant") or results["model"].get("name", "model")
    what = (
        f"{model}, {results['parameters']:,} parameters, batch {results['batch_size']} at {height}x{width}, {devices}"
    )
    return f"{what}, median of {results['rounds']}\n\n{table(header, rows)}"
