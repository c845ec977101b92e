"""Examples per second of a model's train and inference step and of its data, memory, and how long compiling takes."""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from vit_jax.commands.arguments import add_config, read_config
from vit_jax.commands.table import table
from vit_jax.errors import UserError

if TYPE_CHECKING:
    from vit_jax.training.units import Units


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser, False, "bench the model, task and optimizer of this config")
    parser.add_argument("--variant", metavar="SIZE/PATCH", help="without --config: a ViT, for example S/16, with AdamW")
    parser.add_argument("--image-size", type=int, metavar="N", help="pixels of a side (default: the config's, or 224)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="examples a step (default: the config's, or 16)")
    parser.add_argument("--classes", type=int, default=1000, metavar="N", help="outputs of the head (default 1000)")
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="timed steps (default 10)")
    parser.add_argument("--warmup", type=int, default=2, metavar="N", help="steps before those (default 2)")
    parser.add_argument("--profile", metavar="DIR", help="write a trace of three train steps, which xprof reads")


def results(arguments: argparse.Namespace) -> dict[str, Any]:
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
    return measure_config(values, arguments.classes, arguments.rounds, max(arguments.warmup, 0), arguments.profile)


def variant_config(variant: str | None) -> dict[str, Any]:
    """The plain config of a ViT that is trained with AdamW in float32."""
    return {
        "seed": 0,
        "steps": 1000,
        "batch_size": 16,
        "task": {"name": "classify"},
        "model": {"name": "vit", "variant": variant, "dtype": "float32"},
        "data": {"image_size": [224, 224], "train": {}, "transform": {"name": "supervised", "crop": "none"}},
        "optim": {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.1, "schedule": {"name": "constant"}},
    }


def measure_config(
    values: Mapping[str, Any],
    classes: int,
    rounds: int,
    warmup: int,
    profile: str | None = None,
    inference: bool = True,
) -> dict[str, Any]:
    """Times the two steps of a plain config, and its data pipeline where its data is there.

    Args:
        inference: False to compile and time the train step alone.

    Returns:
        What `--json` writes: the machine, the model, "loader", and for "train" and "inference" the compile seconds,
        peak bytes of a device, the median, minimum and maximum of images (or of data without them, examples, and where
        there is text tokens) per second over `rounds` steps, the seconds of
        a step with their standard deviation, and MFU in bfloat16 where the device's peak is known; "train" has
        as "plan" what `vit_jax plan` says of the same compiled step, where the device is in its table.
    """
    import jax
    import numpy as np

    from vit_jax.planning.plan import figures
    from vit_jax.planning.rehearsal import rehearse
    from vit_jax.tasks import example_keys, static_argument
    from vit_jax.training import chips
    from vit_jax.training.cpu import keep_freed_memory
    from vit_jax.training.sharding import batch_sharding, put
    from vit_jax.training.state import variables_of

    keep_freed_memory()
    rehearsal = rehearse(values, classes)
    config, task, program, mesh = rehearsal.config, rehearsal.task, rehearsal.program, rehearsal.mesh
    on_device_eval = rehearsal.inputs.on_device_eval()
    names, units = frozenset(task.answered_by or ("features",)), rehearsal.units()

    def infer(variables: Any, batch: Any) -> Any:
        return task.outputs(variables, on_device_eval(batch), names, example_keys(config.seed, batch))

    state, monitor = program.fresh_state(), program.fresh_monitor()
    batch, seen = (put(made, batch_sharding(mesh)) for made in (rehearsal.batch(), rehearsal.eval_batch()))
    variables = variables_of(state)
    results = {
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "devices": mesh.size,
        "jax": jax.__version__,
        "model": dict(config.model or {}),
        "batch_size": config.batch_size,
        "image_size": list(rehearsal.inputs.image_size or ()),
        "parameters": int(sum(np.prod(leaf.shape, dtype=np.int64) for leaf in jax.tree.leaves(program.params))),
        "rounds": rounds,
        "implementations": rehearsal.implementations(),
        "loader": _loader(rehearsal, rounds),
    }

    if inference:
        began = time.perf_counter()
        compiled = jax.jit(infer).lower(variables, seen).compile()
        seconds = time.perf_counter() - began
        timed = seconds_of(lambda: compiled(variables, seen), rounds, warmup)
        results["inference"] = speeds(timed, config.batch_size, units) | _costs(compiled, seconds)

    began = time.perf_counter()
    scalars = program.put_scalars(0)
    step = program.step.lower(state, monitor, batch, scalars, static_argument(task, 0)).compile()
    seconds = time.perf_counter() - began
    del variables, seen  # the step donates the buffers

    def once() -> Any:
        nonlocal state
        state, metrics = step(state, monitor, batch, scalars)
        return state, metrics

    timed = seconds_of(once, rounds, warmup)
    results["train"] = speeds(timed, config.batch_size, units) | _costs(step, seconds)
    if chip := chips.chip_of(results["device"]):
        planned = figures(step, rehearsal, chip)
        results["train"]["plan"] = {name: planned[name] for name in ("peak_bytes", "step_seconds", "mfu", "kernels")}
    if profile:
        results["profile"] = _trace(once, profile)
    _add_utilisation(results, {"inference": rehearsal.forward_flops(), "train": rehearsal.training_flops()})
    return results


def _loader(rehearsal: Any, rounds: int) -> dict[str, Any]:
    """Examples per second of the training pipeline alone, or why there are none."""
    config = rehearsal.config
    try:
        source = rehearsal.inputs.train_source()
        pipeline = rehearsal.inputs.train_pipeline(source, config.batch_size, config.seed)
    except UserError as error:
        return {"skipped": str(error)}
    batches = pipeline.iterate(0)
    try:
        next(batches)  # threads and processes start
        seconds = seconds_of(lambda: next(batches), max(rounds, 1), 0)
    finally:
        getattr(batches, "close", lambda: None)()
    return _rounded(rehearsal.units().per_second(config.batch_size * len(seconds) / sum(seconds)))


def _trace(step: Callable[[], Any], folder: str) -> str:
    """Writes a trace of three steps, without Python's own calls, which would be most of it."""
    import jax

    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    jax.profiler.start_trace(folder, profiler_options=options)
    try:
        for i in range(3):
            with jax.profiler.StepTraceAnnotation("train", step_num=i):
                jax.block_until_ready(step())
    finally:
        jax.profiler.stop_trace()
    return folder


def _costs(compiled: Any, seconds: float) -> dict[str, Any]:
    """Compile time, and the most memory that a device held: as it says, or else as the compiler planned it."""
    import jax

    from vit_jax.planning.memory import peak_bytes

    measured = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return {
        "compile_seconds": round(seconds, 2),
        "peak_bytes": measured or peak_bytes(compiled),
        "peak_bytes_from": "device" if measured else "compiler",
    }


def seconds_of(step: Callable[[], Any], rounds: int, warmup: int) -> list[float]:
    """Seconds of each of `rounds` calls."""
    import jax

    seconds = []
    for i in range(warmup + rounds):
        began = time.perf_counter()
        jax.block_until_ready(step())
        if i >= warmup:
            seconds.append(time.perf_counter() - began)
    return seconds


def _rounded(rates: Mapping[str, float]) -> dict[str, float]:
    return {name: round(rate, 3) for name, rate in rates.items()}


def speeds(seconds: list[float], batch_size: int, units: "Units") -> dict[str, float]:
    rates = [batch_size / s for s in seconds]
    return {
        **_rounded(units.per_second(statistics.median(rates))),
        **_rounded(units.per_second(min(rates), "_min")),
        **_rounded(units.per_second(max(rates), "_max")),
        "seconds_per_step": round(statistics.median(seconds), 6),
        "seconds_per_step_std": round(statistics.pstdev(seconds), 6),
    }


def _add_utilisation(results: dict[str, Any], counted: Mapping[str, float | None]) -> None:
    """Adds "flops_per_image" or "flops_per_example" where the model counts its own, and "mfu" in bfloat16 where the
    device's peak is known."""
    from vit_jax.training.chips import peak_flops
    from vit_jax.training.units import examples_of

    peak = peak_flops(results["device"])
    for name, flops in counted.items():
        if flops is None or name not in results:
            continue
        examples = examples_of(results[name])
        results[name][f"flops_per_{examples.removesuffix('s')}"] = flops
        if peak and results["model"].get("dtype") == "bfloat16":
            used = flops * results[name][f"{examples}_per_second"]
            results[name]["mfu"] = round(used / (peak * results["devices"]), 4)


def show(results: Mapping[str, Any]) -> str:
    """The table of the terminal."""
    from vit_jax.training.units import examples_of

    rows, examples = [], examples_of(results["train"])
    tokens = "tokens_per_second" in results["train"]
    for name in ("train", "inference"):
        found = results[name]
        speed, low, high = (found[f"{examples}_per_second{end}"] for end in ("", "_min", "_max"))
        used = found.get("mfu")
        rows.append([
            name, f"{speed:.1f}", f"{low:.1f} to {high:.1f}",
            *([f"{found['tokens_per_second']:,.0f}"] if tokens else []),
            f"{1e3 * found['seconds_per_step']:.1f} ± {1e3 * found['seconds_per_step_std']:.1f} ms",
            f"{found['peak_bytes'] / 2**20:,.0f} MiB", f"{found['compile_seconds']:.1f} s",
            "" if used is None else f"{used:.1%}",
        ])  # fmt: skip
    if plan := results["train"].get("plan"):
        seconds = plan["step_seconds"]
        rows.append([
            "planned", f"{results['batch_size'] / seconds:.1f}", "", *([""] if tokens else []),
            f"{1e3 * seconds:.1f} ms",
            f"{plan['peak_bytes'] / 2**20:,.0f} MiB", "", "" if plan["mfu"] is None else f"{plan['mfu']:.1%}",
        ])  # fmt: skip
    header = ["step", f"{examples}/s", "range", *(["tokens/s"] if tokens else []), "a step", "peak", "compile", "MFU"]
    if not any(row[-1] for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    devices = f"{results['devices']} {results['device']}"
    size = f" at {'x'.join(map(str, results['image_size']))}" if results["image_size"] else ""
    model = results["model"].get("variant") or results["model"].get("name", "model")
    chosen = "".join(f", {kind} as {which}" for kind, which in results.get("implementations", {}).items())
    what = f"{model}, {results['parameters']:,} parameters, batch {results['batch_size']}{size}, {devices}{chosen}"
    loader = results["loader"]
    speed = loader.get("skipped") or f"{loader[f'{examples}_per_second']:.1f} {examples}/s"
    trace = f"\nTrace: {results['profile']} (xprof --logdir {results['profile']})" if "profile" in results else ""
    return f"{what}, median of {results['rounds']}\n\n{table(header, rows)}\n\nData: {speed}{trace}"
