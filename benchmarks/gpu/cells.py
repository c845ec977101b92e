"""What is measured on a GPU, the most telling first: when time runs out, the end of the list is missing."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

# Keys of a cell's settings that name what to measure, see `benchmarks.gpu.measure`.
TRAIN, INFERENCE, FEED = "train", "inference", "feed"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One measurement, made by one process.

    Args:
        name: of its file and of its row in the table.
        settings: what `benchmarks.gpu.measure` measures, as JSON holds it.
    """

    name: str
    settings: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Size:
    """A ViT to train.

    Args:
        variant: its name.
        batch: images a step at first.
        others: further batches, tried with what was best at the first.
    """

    variant: str
    batch: int
    others: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much is measured.

    Args:
        sizes: ViTs to train; the first is also what MAE, inference and the loader take.
        attentions: implementations, the likely best one first.
        changes: to every config.
        mae: to MAE's beside those.
        served: batches of inference.
        rounds: timed steps.
        images: that the loader reads.
    """

    sizes: tuple[Size, ...]
    attentions: tuple[str, ...]
    changes: Mapping[str, Any]
    mae: Mapping[str, Any]
    served: tuple[int, ...]
    rounds: int
    images: int


FULL = Scale(
    sizes=(Size("B/16", 256, (512, 128)), Size("L/16", 128, (256, 64)), Size("S/16", 512, (1024, 256))),
    attentions=("cudnn", "xla"),
    changes={"model.dtype": "bfloat16"},
    mae={},
    served=(256, 1),
    rounds=30,
    images=2048,
)
# Every cell within seconds on a CPU: to try the script, not to learn a speed.
SMOKE = Scale(
    sizes=(Size("mu/16", 8, (16,)),),
    attentions=("explicit", "xla"),
    changes={"data.image_size": [32, 32]},
    mae={"task.decoder_width": 32, "task.decoder_depth": 1, "task.decoder_heads": 2, "model.dtype": "float32"},
    served=(8, 1),
    rounds=3,
    images=64,
)


def cells(scale: Scale, found: Mapping[str, Mapping[str, Any]]) -> Iterator[Cell]:
    """The cells in order.

    Args:
        found: what was measured so far by name, which the caller fills while it draws: what was best in earlier cells
            is what later ones vary.
    """
    first, *rest = scale.sizes
    ways = [(attention, scan) for attention in scale.attentions for scan in (False, True)]
    yield from (_train(scale, first, *way, first.batch, profile=way == ways[0]) for way in ways)
    # Scanned ones compile in a fraction of the time: what is fast is known before what is fastest.
    yield from (_train(scale, size, scale.attentions[0], True, size.batch) for size in rest)
    changes = {**scale.changes, **scale.mae}
    yield Cell(
        f"mae {first.variant}",
        {
            "kind": TRAIN,
            "config": f"mae_i1k:variant={first.variant},batch={first.batch}",
            "changes": changes,
            "rounds": scale.rounds,
        },
    )
    for weights in ("float32", "bfloat16", "int8"):
        config = _config(first, False, scale.served[0])
        settings = {"kind": INFERENCE, "weights": weights, "batches": list(scale.served), "config": config}
        yield Cell(
            f"inference {first.variant} {weights}", {**settings, "changes": scale.changes, "rounds": scale.rounds}
        )
    attention, scan = _best(scale, first, found)
    changes = {**scale.changes, "model.attention_implementation": attention}
    feed = {"kind": FEED, "config": _config(first, scan, first.batch), "changes": changes}
    yield Cell(f"feed {first.variant}", {**feed, "images": scale.images, "rounds": scale.rounds})
    for size in scale.sizes:
        attention, scan = _best(scale, size, found)
        yield from (_train(scale, size, attention, scan, batch) for batch in size.others)
    for size in rest:
        yield from (
            _train(scale, size, *way, size.batch) for way in sorted(ways, key=lambda w: not w[1]) if way != ways[1]
        )


def _train(scale: Scale, size: Size, attention: str, scan: bool, batch: int, profile: bool = False) -> Cell:
    changes = {**scale.changes, "model.attention_implementation": attention}
    settings = {"kind": TRAIN, "config": _config(size, scan, batch), "changes": changes, "rounds": scale.rounds}
    return Cell(_name(size, attention, scan, batch), {**settings, "profile": True} if profile else settings)


def _name(size: Size, attention: str, scan: bool, batch: int) -> str:
    return f"train {size.variant} {attention} {'scan' if scan else 'loop'} {batch}"


def _config(size: Size, scan: bool, batch: int) -> str:
    return f"bench_b16:variant={size.variant},chips=1,per_chip={batch},remat=none,scan={scan}"


def _best(scale: Scale, size: Size, found: Mapping[str, Mapping[str, Any]]) -> tuple[str, bool]:
    """Attention and scan of the fastest of the size's cells at its first batch; the first where none was measured."""
    speeds = {
        (attention, scan): found[name]["train"]["images_per_second"]
        for attention in scale.attentions
        for scan in (False, True)
        if (name := _name(size, attention, scan, size.batch)) in found
    }
    return max(speeds, key=speeds.get) if speeds else (scale.attentions[0], True)
