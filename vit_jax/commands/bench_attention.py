"""What kinds of attention, or whole models, cost at several sizes, and how that grows.

examples:
  vit_jax bench attention
  vit_jax bench attention --kinds softmax,window,linear --grid 16,32,64,128 --width 96 --heads 3 --output board.html
  vit_jax bench attention --models vit:S/16,vit:B/16 --sizes 224,384 --output models.html
  vit_jax bench attention --models vit:S/16 --sizes 224,384,512 --topology v5e:1x1 --dtype bfloat16

A kind is one layer of attention between its projections, on a square grid of tokens. Operations are counted on paper,
beside XLA's own count; time and temporary memory are of one pass forward, and of training, which also computes all
gradients. Growth is the slope on logarithmic axes from 1,024 tokens up. The kinds take turns, so that
a machine with other work slows all alike, and each turn begins with an untimed run, so that none pays for what the one
before it left behind. What does not fit in memory is said and left out: it is never tried.

With --models the same of whole models with random parameters and 1000 classes, the train step with AdamW; --topology
adds what `vit_jax plan` says of that step on a chip that need not be there.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vit_jax.commands.output import output_file
from vit_jax.commands.table import table
from vit_jax.errors import UserError
from vit_jax.spelling import nearest

_KINDS, _GRIDS, _SIZES = "softmax,window,shifted,sparse,linear,multiscale", "16,32,64", "224,384"
_BATCH = {"layers": 1, "models": 2}  # one image is none for batch statistics


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kinds", metavar="KIND,...", help=f"layers to compare ({_KINDS})")
    parser.add_argument("--grid", metavar="N,...", help=f"tokens of a side ({_GRIDS})")
    parser.add_argument("--width", type=int, metavar="N", help="channels (96)")
    parser.add_argument("--heads", type=int, metavar="N", help="heads that divide them (3)")
    parser.add_argument("--models", metavar="NAME:VARIANT,...", help="whole models instead, for example vit:S/16")
    parser.add_argument("--sizes", metavar="N,...", help=f"pixels of a side of their images ({_SIZES})")
    parser.add_argument("--topology", metavar="NAME:SHAPE", help="for which their step is planned too: v5e:1x1")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images at once (1, or 2 of models)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default float32")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="timed runs of each (default 5)")
    parser.add_argument("--warmup", type=int, default=1, metavar="N", help="untimed runs before each (default 1)")
    parser.add_argument("--output", metavar="FILE.html", help="write a page with the table and curves")


def results(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `--json` writes: the machine, "rows" of a name at a size, and of each name its "exponents"."""
    what = "models" if arguments.models else "layers"
    for flag in ("sizes", "topology") if what == "layers" else ("kinds", "grid", "width", "heads"):
        if getattr(arguments, flag) is not None:
            raise UserError(f"--{flag} is of {'models' if what == 'layers' else 'layers'}", "Leave it out")
    output = output_file(arguments.output, suffixes=(".html",)) if arguments.output else None
    for name in ("rounds", "batch_size", "width", "heads"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} is {value}", "It must be at least 1")
    # Both need jax.
    from vit_jax.commands import board
    from vit_jax.training.cpu import keep_freed_memory

    keep_freed_memory()
    found = board.machine() | {
        "what": what,
        "dtype": arguments.dtype,
        "batch_size": arguments.batch_size or _BATCH[what],
        "rounds": arguments.rounds,
    }
    given = {name: found[name] for name in ("dtype", "batch_size", "rounds")}
    given |= {"warmup": max(arguments.warmup, 0), "free": found["may_take_bytes"]}
    measured = _models(arguments, given) if what == "models" else _layers(arguments, given)
    found |= measured
    if not any("seconds" in row[mode] for row in found["rows"] for mode in board.MODES):
        raise UserError(f"Nothing of this board fits in memory: {skipped(found)[0]}", "Choose smaller sizes")
    if output:
        _write(output, found)
        found["output"] = str(output)
    return found


def _layers(arguments: argparse.Namespace, given: Mapping[str, Any]) -> dict[str, Any]:
    from vit_jax.commands import board_layers
    from vit_jax.planning.mixers import KINDS, LayerSize

    kinds = _names(arguments.kinds or _KINDS)
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"There is no kind of attention {kind!r}", nearest(kind, KINDS))
    grids = _numbers(arguments.grid or _GRIDS, "--grid")
    layer = LayerSize(arguments.width or 96, arguments.heads or 3)
    rows = board_layers.rows_of(kinds, grids, layer, **given)
    sizes = {"width": layer.width, "heads": layer.heads, "window": layer.window, "ratio": layer.ratio}
    return {**sizes, "rows": rows, "exponents": board_layers.growth(rows)}


def _models(arguments: argparse.Namespace, given: Mapping[str, Any]) -> dict[str, Any]:
    from vit_jax.commands import board_models

    sizes = _numbers(arguments.sizes or _SIZES, "--sizes")
    rows = board_models.rows_of(_names(arguments.models), sizes, **given, topology=arguments.topology)
    return {"rows": rows, "exponents": board_models.growth(rows)}


def _names(listed: str) -> list[str]:
    """Those of a list with commas, each once."""
    return list(dict.fromkeys(name.strip() for name in listed.split(",") if name.strip()))


def _numbers(listed: str, flag: str) -> list[int]:
    found = _names(listed)
    if not found or not all(number.isascii() and number.isdigit() and int(number) for number in found):
        raise UserError(f"{flag} is {listed!r}", "Write whole numbers with commas between them, for example 16,32")
    return sorted(map(int, found))


def skipped(results: Mapping[str, Any]) -> list[str]:
    """A sentence for all that did not fit."""
    modes = ("forward", "training")
    return [row[mode]["skipped"] for row in results["rows"] for mode in modes if "skipped" in row[mode]]


def show(results: Mapping[str, Any]) -> str:
    """The tables of the terminal."""
    parts = [_title(results), table(*_cells(results)), _growth_note(results), table(*_growth(results))]
    parts += [f"{sentence}: left out." for sentence in skipped(results)]
    parts += [f"Page: {results['output']}"] if "output" in results else []
    return "\n\n".join(parts)


def _title(results: Mapping[str, Any]) -> str:
    load = f"load average {results['load_average']} at the start"
    what = f"batch {results['batch_size']}, {results['dtype']}, median of {results['rounds']}"
    where = f"{results['device']} with {results['cpus']} CPUs, {load}"
    if results["what"] == "models":
        return f"Models, {what}; {where}"
    layer = (
        f"width {results['width']} with {results['heads']} heads, windows of {results['window']}x{results['window']}"
    )
    return f"Layers of {layer}, of sparse ones {results['ratio']:.0%} left out, {what}; {where}"


def _cells(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    from vit_jax.commands.board import MODES, milliseconds, size

    layers = results["what"] == "layers"
    planned = any("plan" in row for row in results["rows"])
    counts = ["GFLOP of mixing", "of the layer", "XLA's count"] if layers else ["GFLOP forward"]
    header = ["layer" if layers else "model", "at", *counts, "forward", "memory", "training", "memory"]
    rows = []
    for row in results["rows"]:
        names = ("flops", "layer_flops", "xla_flops") if layers else ("flops",)
        sides = row["grid"] if layers else row["image_size"]
        modes = (cell for m in MODES for cell in (milliseconds(row[m]), size(row[m]["temporaries_bytes"])))
        cells = [row["name"], "x".join(map(str, sides)), *(_giga(row[name]) for name in names), *modes]
        if planned:
            step, fits = row["plan"]["step_seconds"], row["plan"]["fits"]
            cells.append(f"{1e3 * step:,.1f} ms" if fits else f"does not fit: {size(row['plan']['peak_bytes'])}")
        rows.append(cells)
    return header + (["planned step"] if planned else []), rows


def _giga(count: float | None) -> str:
    return "not counted" if count is None else f"{count / 1e9:,.3f}"


def _growth_note(results: Mapping[str, Any]) -> str:
    if results["what"] == "models":
        return "Growth: cost is proportional to pixels to this power; in parentheses, to the side of the image."
    return (
        "Growth: cost is proportional to tokens to this power, fitted from 1,024 tokens up; in parentheses, to the "
        "resolution. Operations are those of mixing."
    )


def _growth(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    places = "pixels" if results["what"] == "models" else "tokens"
    columns = {
        "flops": "FLOP",
        "forward": "time forward",
        "training": "time training",
        "temporaries": "memory training",
    }

    def cell(slope: Mapping[str, float] | None) -> str:
        return "" if slope is None else f"{slope[places]:.2f} ({slope['resolution']:.2f})"

    rows = [[name, *(cell(found[column]) for column in columns)] for name, found in results["exponents"].items()]
    return ["layer" if places == "tokens" else "model", *columns.values()], rows


def _write(output: Path, results: Mapping[str, Any]) -> None:
    from vit_jax.commands import figures, page

    places = "pixels" if results["what"] == "models" else "tokens"
    panels = {
        "GFLOP forward" if places == "pixels" else "GFLOP of mixing": _points(results, places, "flops", None, 1e-9),
        "ms forward": _points(results, places, "forward", "seconds", 1e3),
        "ms training": _points(results, places, "training", "seconds", 1e3),
        "MiB of temporaries, training": _points(results, places, "training", "temporaries_bytes", 2**-20),
    }
    caption = (
        f"Each axis is logarithmic: a straight line is a power of the number of {places}, and the steeper it is, the "
        "higher the power. What did not fit in memory is known in memory and has no time."
    )
    parts = [
        page.paragraph(_title(results)),
        page.figure(figures.power_laws({title: lines for title, lines in panels.items() if lines}, places), caption),
        page.heading("How it grows"),
        page.paragraph(_growth_note(results)),
        page.html_table(*_growth(results)),
        page.heading("What was measured"),
        page.wide(page.html_table(*_cells(results))),
        *(page.paragraph(f"{sentence}: left out.") for sentence in skipped(results)),
    ]
    output.write_text(page.page("What attention costs", parts), encoding="utf-8")


def _points(
    results: Mapping[str, Any], places: str, column: str, key: str | None, scale: float
) -> dict[str, Sequence[tuple[float, float]]]:
    """By name, without names of which nothing is known."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in results["rows"]:
        value = row[column] if key is None else row[column].get(key)
        if value:
            lines.setdefault(row["name"], []).append((row[places], scale * value))
    return lines
