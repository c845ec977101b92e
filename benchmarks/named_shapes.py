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

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.promptable import iou, objects
from benchmarks.runs import as_command
from vit_jax.checkpoints.load import load
from vit_jax.commands.table import table
from vit_jax.naming import build_named


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a run of shapes_text:stage=sam")
    model = load(parser.parse_args().checkpoint)
    source = build_named("source", dict(model.metadata["config"]["data"]["eval"]), "config.data.eval")
    right: dict[str, list[bool]] = defaultdict(list)
    for index in range(len(source)):
        scene = source[index]
        named = {name: np.any(masks, axis=0) for name, masks in objects(scene, source.label_names).items()}
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


def in_common(name: str, other: str) -> str:
    """Of "COLOUR SHAPE" and another such name."""
    same = {what for what, a, b in zip(("colour", "shape"), name.split(), other.split(), strict=True) if a == b}
    return f"one {same.pop()}" if same else "nothing in common"


if __name__ == "__main__":
    as_command(main)
