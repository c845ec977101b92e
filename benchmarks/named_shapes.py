"""What of a name a small SAM hears: how often the mask of a name is nearer to what it names than to something else in
the scene, which has the same shape, the same colour, or neither.

    vit_jax train --config shapes_text:stage=sam,init=runs/shapes-clip --workdir runs/shapes-text
    python benchmarks/named_shapes.py runs/shapes-text

The scenes are those of the run's own evaluation data.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.runs import as_command
from vit_jax.checkpoints.load import load
from vit_jax.commands.table import table
from vit_jax.data.source import Source
from vit_jax.naming import build_named


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a run of shapes_text:stage=sam")
    model = load(parser.parse_args().checkpoint)
    source = build_named("source", dict(model.metadata["config"]["data"]["eval"]), "config.data.eval")
    right: dict[str, list[bool]] = defaultdict(list)
    for index in range(len(source)):
        scene = source[index]
        named = masks_by_name(scene, source)
        if len(named) < 2:
            continue
        ask = model.prompted(scene["image"])
        for name, own in named.items():
            found = ask(text=name).masks[0]
            for other, mask in named.items():
                if other != name:
                    right[in_common(name, other)].append(iou(found, own) > iou(found, mask))
    rows = [(kind, str(len(cases)), f"{100 * np.mean(cases):.1f}") for kind, cases in right.items()]
    print(table(("two names in a scene have", "cases", "the right one, %"), rows))


def masks_by_name(scene: dict[str, Any], source: Source) -> dict[str, np.ndarray]:
    """All that has one name as one mask, bool [H, W]."""
    found: dict[str, np.ndarray] = {}
    for each in scene["masks"]:
        name, mask = source.label_names[each["class"]], each["segmentation"] > 0
        found[name] = found[name] | mask if name in found else mask
    return found


def in_common(name: str, other: str) -> str:
    """Of "COLOUR SHAPE" and another such name."""
    same = {what for what, a, b in zip(("colour", "shape"), name.split(), other.split(), strict=True) if a == b}
    return f"one {same.pop()}" if same else "nothing in common"


def iou(found: np.ndarray, wanted: np.ndarray) -> float:
    return float((found & wanted).sum() / max((found | wanted).sum(), 1))


if __name__ == "__main__":
    as_command(main)
