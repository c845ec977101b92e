"""Search for the pruning ratios of a SparseViT that are best within a latency.

examples:
  vit_jax search-sparsity --checkpoint runs/adapted --max-latency 0.7 --output ratios.json
  vit_jax search-sparsity --checkpoint runs/adapted --max-latency 0.7 --output ratios.json --flops    # without a clock
  vit_jax search-sparsity --checkpoint runs/adapted --max-latency 0.7 --output ratios.json --examples 2000

Populations of ratios (arXiv:2303.17605): the best 25 of 100 are the parents of the next. What ratios are worth is the
accuracy on the evaluation data, without any training: the checkpoint must have been adapted (task sparsevit). Started
again, it goes on where it was; what was measured is beside the output. What it finds is for predict, evaluate and
further training: --model.pruning_ratios=..., and --config.model.pruning_ratios=... for train and bench.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_jax.commands.arguments import add_checkpoint, add_config, open_loaded, read_config
from vit_jax.commands.output import output_file
from vit_jax.data.files import from_here
from vit_jax.errors import UserError, printable

if TYPE_CHECKING:
    from vit_jax.nn.pruning import Ratios

_WINDOW = 0.85  # of the largest latency, as 37 of 42 ms in the authors' example


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    add_config(parser, False, "take the evaluation data from this config instead of the checkpoint's")
    parser.add_argument(
        "--max-latency", type=float, required=True, metavar="SHARE", help="of that of the dense model, such as 0.7"
    )
    parser.add_argument(
        "--min-latency", type=float, metavar="SHARE", help="those that take less are passed over (0.85 of it)"
    )
    parser.add_argument("--flops", action="store_true", help="count operations instead of measuring on this machine")
    parser.add_argument("--batch-size", type=int, default=4, metavar="N", help="images whose latency is measured (4)")
    parser.add_argument("--examples", type=int, metavar="N", help="evaluate on so many, evenly spaced (default: all)")
    parser.add_argument("--generations", type=int, default=10, metavar="N", help="populations (10)")
    parser.add_argument("--population", type=int, default=100, metavar="N", help="ratios in each (100)")
    parser.add_argument("--parents", type=int, default=25, metavar="N", help="the best of them, which go on (25)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all draws (0)")
    parser.add_argument("--output", required=True, metavar="FILE.json", help="where the ratios go")


def run(arguments: argparse.Namespace) -> None:
    low, high = _window(arguments)
    for name in ("batch_size", "generations", "population", "parents", "examples"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} is {value}", "It must be at least 1")
    output = output_file(arguments.output, suffixes=[".json"])

    from vit_jax.nn.pruning import CHOICES
    from vit_jax.planning import sparsity
    from vit_jax.planning.evolution import search
    from vit_jax.training.compiling import keep_compiled

    loaded = open_loaded(arguments)
    encoder = sparsity.encoder_of(loaded)
    values = read_config(arguments, loaded.metadata["config"])
    size = loaded.preprocess.image_size
    keep_compiled()
    asked = {
        "checkpoint": str(loaded.path),
        "image_size": list(size),
        "data": values["data"],
        "examples": arguments.examples,
        "unit": "flops" if arguments.flops else "seconds",
        "batch_size": arguments.batch_size,
    }

    def measured() -> sparsity.Costs:
        if arguments.flops:
            return sparsity.counted(encoder, size)
        return sparsity.timed(loaded, size, arguments.batch_size)

    notes = _Notes(output.with_suffix(".measured.jsonl"), asked, measured)
    space = sparsity.space_of(encoder, size)
    worth = notes.remembered(sparsity.accuracy_of(loaded, values, arguments.examples))
    of_dense = sparsity.uniform_ratios(space, 0.0)
    dense = notes.costs(of_dense)

    def latency(ratios: "Ratios") -> float:
        return notes.costs(ratios) / dense

    def described(ratios: "Ratios") -> dict[str, Any]:
        return {"pruning_ratios": ratios, "accuracy": worth(ratios), "latency": latency(ratios)}

    print(printable(f"{loaded.path}: {len(space):,} ratios, dense accuracy {worth(of_dense):.2%}"), flush=True)
    options = {name: getattr(arguments, name) for name in ("generations", "seed", "population", "parents")}
    best = None
    for number, best in enumerate(search(space, latency, worth, (low, high), **options), 1):
        shown = _shown(best.candidate)
        print(f"generation {number}: {best.score:.2%} at {best.cost:.3f} of the latency, {shown}", flush=True)
    found = {**described(best.candidate), "dense": described(of_dense)}
    even = [sparsity.uniform_ratios(space, ratio) for ratio in CHOICES]
    if fitting := [ratios for ratios in even if latency(ratios) <= high]:
        found["uniform"] = described(fitting[0])
    if not arguments.flops:
        for entry in (found, found["dense"]):
            ratios = entry["pruning_ratios"]
            entry["seconds"] = sparsity.seconds_of_model(loaded, ratios, size, arguments.batch_size)
    found |= {"asked": asked, "window": [low, high], "scored": notes.count, "of": len(space), **options}
    output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if "uniform" in found:
        same = found["uniform"]
        print(f"the same ratio everywhere: {same['accuracy']:.2%} at {same['latency']:.3f}, {_shown(fitting[0])}")
    if not arguments.flops:
        print(f"measured whole: {found['seconds']:.4f} s instead of {found['dense']['seconds']:.4f}")
    print(printable(f"{output}: --model.pruning_ratios='{_shown(best.candidate)}'"))


class _Notes:
    """What was measured, in a file of JSON lines that a search which is started again reads.

    Args:
        path: of the file.
        asked: what the measurements are of; those of something else are not gone on with.
        measured: gives the costs, when there is no file yet.
    """

    def __init__(self, path: Path, asked: Mapping[str, Any], measured: Callable[[], Any]):
        from vit_jax.planning.sparsity import Costs

        self._path, self._known = path, {}
        asked = json.loads(json.dumps(asked))
        if not path.exists():
            costs = measured()
            self._add({"asked": asked, "pairs": costs.pairs, "rest": costs.rest})
        try:
            # A line that an interruption cut is measured again.
            lines = path.read_text(encoding="utf-8").split("\n")[:-1]
            first, *rest = map(json.loads, lines)
            before = first["asked"]
            pairs = tuple(tuple(map(tuple, of_stage)) for of_stage in first["pairs"])
            self.costs = Costs(pairs, first["rest"], before["unit"])
            self._known = {_key(line["pruning_ratios"]): line["accuracy"] for line in rest}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{from_here(str(path))} is not what this command writes", "Remove it") from error
        if before != asked:
            names = [name for name in asked if asked[name] != before.get(name)]
            raise UserError(
                f"{from_here(str(path))} holds what was measured with another {', '.join(names)}",
                "Give another --output, or remove it",
            )
        if lines and "\n".join([*lines, ""]) != path.read_text(encoding="utf-8"):
            path.write_text("\n".join([*lines, ""]), encoding="utf-8")

    @property
    def count(self) -> int:
        """Ratios whose accuracy is known."""
        return len(self._known)

    def remembered(self, score: Callable[["Ratios"], float]) -> Callable[["Ratios"], float]:
        """`score`, asked for what is not in the file, and then there."""

        def remembering(ratios: "Ratios") -> float:
            key = _key(ratios)
            if key not in self._known:
                self._known[key] = score(ratios)
                self._add({"pruning_ratios": ratios, "accuracy": self._known[key]})
            return self._known[key]

        return remembering

    def _add(self, line: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _window(arguments: argparse.Namespace) -> tuple[float, float]:
    high = arguments.max_latency
    if not 0 < high < 1:
        raise UserError(f"--max-latency is {high:g}", "It is a share of the dense model's latency, above 0 and below 1")
    low = _WINDOW * high if arguments.min_latency is None else arguments.min_latency
    if not 0 <= low <= high:
        raise UserError(f"--min-latency is {low:g}", f"It must be at least 0 and at most --max-latency, {high:g}")
    return low, high


def _key(ratios: Any) -> str:
    return json.dumps(ratios)


def _shown(ratios: "Ratios") -> str:
    """As it is written in a command."""
    return json.dumps(ratios).replace(" ", "")
