"""What was measured on a GPU, in Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.gpu.cells import FEED, INFERENCE, TRAIN
from benchmarks.gpu.runner import MEASURED


def page(machine: Mapping[str, Any] | None, outcomes: Sequence[Mapping[str, Any]]) -> str:
    """All tables; without a machine they say why there are no figures."""
    if machine is None:
        head = "No GPU was at hand."
    else:
        head = ", ".join(f"{name} {value}" for name, value in machine.items() if value is not None)
    kinds = {TRAIN: _training, INFERENCE: _inference, FEED: _feeding}
    parts = [head]
    for kind, show in kinds.items():
        of_kind = [outcome for outcome in outcomes if outcome["settings"]["kind"] == kind]
        if of_kind:
            parts.append(show(of_kind))
    parts += [
        _kernels(o["cell"], o["found"]["kernels"])
        for o in outcomes
        if o["status"] == MEASURED and "kernels" in o["found"]
    ]
    return "\n\n".join(parts) + "\n"


def _training(outcomes: Sequence[Mapping[str, Any]]) -> str:
    """The fastest way and batch of each model is bold."""
    rows, fastest = [], {}
    for outcome in outcomes:
        if outcome["status"] == MEASURED:
            model = " ".join(outcome["cell"].split()[:2])
            speed = outcome["found"]["train"]["images_per_second"]
            fastest[model] = max(fastest.get(model, (0.0, "")), (speed, outcome["cell"]))
    best = {name for _, name in fastest.values()}
    for outcome in outcomes:
        if outcome["status"] != MEASURED:
            rows.append([outcome["cell"], _said(outcome)])
            continue
        found = outcome["found"]
        step, plan = found["train"], found.get("plan") or {}
        low, high = step["images_per_second_min"], step["images_per_second_max"]
        name = f"**{outcome['cell']}**" if outcome["cell"] in best else outcome["cell"]
        rows.append([
            name, f"{step['images_per_second']:,.0f} ({low:,.0f} to {high:,.0f})",
            f"{1e3 * step['seconds_per_step']:.1f} ± {1e3 * step['seconds_per_step_std']:.1f} ms",
            f"{step['mfu']:.1%}" if "mfu" in step else "", f"{step['peak_bytes'] / 1e9:.2f} GB",
            f"{plan['peak_bytes'] / 1e9:.2f} GB" if plan.get("peak_bytes") else "",
            f"{1e3 * plan['step_seconds']:.1f} ms" if plan.get("step_seconds") else "",
            f"{step['compile_seconds']:.0f} s",
        ])  # fmt: skip
    header = ["training", "images/s (range)", "a step", "MFU", "peak", "planned peak", "planned step", "compiled in"]
    return _markdown(header, rows)


def _inference(outcomes: Sequence[Mapping[str, Any]]) -> str:
    sizes = [str(size) for size in outcomes[0]["settings"]["batches"]]
    rows = []
    for outcome in outcomes:
        if outcome["status"] != MEASURED:
            rows.append([outcome["cell"], _said(outcome)])
            continue
        found = outcome["found"]
        each = [found["batches"][size] for size in sizes]
        rows.append([
            outcome["cell"], *(f"{e['images_per_second']:,.0f} ({1e3 * e['seconds_per_step']:.2f} ms)" for e in each),
            f"{found['weights_bytes'] / 1e6:,.1f} MB", f"{found['features_error']:.2%}",
        ])  # fmt: skip
    return _markdown(["inference", *(f"images/s, batch {size}" for size in sizes), "weights", "features off by"], rows)


def _feeding(outcomes: Iterable[Mapping[str, Any]]) -> str:
    rows = []
    for outcome in outcomes:
        if outcome["status"] != MEASURED:
            rows.append([outcome["cell"], _said(outcome)])
            continue
        found = outcome["found"]
        alone = f"{found['loader_images_per_second']:,.0f} ({found['cpus']} CPUs)"
        rows.append([outcome["cell"], f"{found['images_per_second']:,.0f}", f"{found['data_wait']:.1%}", alone])
    return _markdown(["training from local JPEGs", "images/s", "time waiting for data", "loader alone, images/s"], rows)


def _kernels(cell: str, found: Mapping[str, Any]) -> str:
    rows = [
        [f"`{kernel['name']}`", str(kernel["times"]), f"{1e3 * kernel['seconds']:.2f} ms", f"{kernel['share']:.1%}"]
        for kernel in found["kernels"]
    ]
    return _markdown([f"longest in three steps of {cell}", "times", "together", "of all"], rows)


def _said(outcome: Mapping[str, Any]) -> str:
    return f"{outcome['status']}: {outcome['why']}" if outcome["why"] else outcome["status"]


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    filled = [[*row, *[""] * (len(header) - len(row))] for row in rows]
    lines = [header, ["---"] * len(header), *([cell.replace("|", "/") for cell in row] for row in filled)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
