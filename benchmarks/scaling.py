"""Weak scaling as the compiler plans it: bytes that each chip sends in a train step, beside what theory says.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --chips v5e --json scaling.json

B/16, cut to two blocks so that it compiles in minutes, with 64 images a chip, on more and more chips: the same batch
and the same parameters a chip, so that the bytes sent should stay what they are. No accelerator is needed, but the
compilers are: `vit_jax plan` says which packages bring them. What was compiled is kept in its cache, so that a run
that was cut off goes on.

Each collective sends, by a ring of n chips, 2 (n - 1) / n times what is reduced on all of them, and (n - 1) / n times
what is gathered or scattered. In theory a step sends:

  data    the gradients of all parameters, reduced once, 2 (n - 1) / n times their bytes;
  fsdp    3 (n - 1) / n times the bytes of the parameters that are split: gathered forward, gathered again backward,
          their gradients scattered; the gradients of the others as under data;
  tensor  in each block four reductions of the activations [images, tokens, width], two forward and two backward; the
          gradients of the part of the parameters that a chip holds as under data.

Parameters are gathered, and their gradients reduced, in the dtype in which the model computes with them: bfloat16, but
float32 for norms and the head.
"""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import jax.numpy as jnp

from benchmarks.runs import as_command

_DEPTH, _PER_CHIP, _CLASSES = 2, 64, 1000
_TENSOR = 4
# Where each mesh is compiled; the sizes of fsdp and tensor, the other chips are data's.
CASES = {
    "v5e": [
        ("data", ("v5e:2x2", "v5e:4x4", "v5e:8x8", "v5e:16x16"), None),
        ("fsdp", ("v5e:2x2", "v5e:8x8", "v5e:16x16"), -1),
        ("tensor", ("v5e:2x2", "v5e:8x8", "v5e:16x16"), _TENSOR),
    ],
    "v5p": [
        ("data", ("v5p:2x2x1", "v5p:4x4x4", "v5p:8x16x16"), None),
        ("fsdp", ("v5p:4x4x4", "v5p:8x16x16"), 64),
        ("tensor", ("v5p:2x2x1", "v5p:8x16x16"), _TENSOR),
    ],
    "h100": [
        ("data", ("h100:8", "h100:64", "h100:512"), None),
        ("fsdp", ("h100:8", "h100:64", "h100:512"), 8),
        ("tensor", ("h100:8", "h100:64", "h100:512"), _TENSOR),
    ],
    # This machine as so many devices: compiles in seconds, to try the script.
    "cpu": [("data", ("cpu:4", "cpu:8"), None), ("fsdp", ("cpu:8",), -1), ("tensor", ("cpu:8",), _TENSOR)],
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One compilation.

    Args:
        mesh: sizes of its axes.
        collectives: as `plan` gives them.
        sent: bytes that each chip sends in a step, by kind and axes.
        theory: bytes that it should send.
    """

    topology: str
    parallel: str
    mesh: Mapping[str, int]
    collectives: list[dict[str, Any]]
    sent: int
    theory: int


def rows(chips: list[str]) -> Iterator[Row]:
    """Compiles the cases one after the other."""
    from vit_jax.planning.plan import cache_folder
    from vit_jax.planning.topology import topology
    from vit_jax.training.config_file import load_config

    for name in chips:
        for parallel, topologies, size in CASES[name]:
            for shape in topologies:
                target = topology(shape)
                values = load_config(f"bench_b16:chips={len(target.devices)},per_chip={_PER_CHIP}")
                values["model"]["depth"] = _DEPTH
                if parallel != "data":
                    values["mesh"] = {"data": 1 if size == -1 else -1, parallel: size}
                yield row(values, target, parallel, cache_folder())


def row(values: Mapping[str, Any], target: Any, parallel: str, cache: Path | None) -> Row:
    """Compiles one config for some devices."""
    from vit_jax.planning.plan import plan
    from vit_jax.planning.rehearsal import rehearse

    rehearsal = rehearse(values, _CLASSES, target.devices)
    mesh = dict(rehearsal.mesh.shape)
    collectives = plan(values, _CLASSES, target, cache)["collectives"]
    sent = sum(sent_bytes(each, mesh) for each in collectives)
    return Row(target.name, parallel, mesh, collectives, round(sent), round(theory(rehearsal)))


def sent_bytes(collective: Mapping[str, Any], mesh: Mapping[str, int]) -> float:
    """By each chip, by a ring over the axes of the collective."""
    n = math.prod(mesh[axis] for axis in collective["axes"])
    share = {"all-reduce": 2 * (n - 1) / n, "collective-permute": 1.0}.get(collective["kind"], (n - 1) / n)
    return share * collective["bytes"]


def theory(rehearsal: Any) -> float:
    """Bytes that each chip should send, see this file's first lines."""
    mesh, config = dict(rehearsal.mesh.shape), rehearsal.config
    shards = mesh["data"] * mesh["fsdp"]

    def ring(n: int) -> float:
        return (n - 1) / n

    total = 0.0
    half = jnp.dtype(config.model.get("dtype", "float32")).itemsize
    params, placed = rehearsal.program.params, rehearsal.program.shardings["params"]
    for (path, leaf), sharding in zip(jax.tree.leaves_with_path(params), jax.tree.leaves(placed), strict=True):
        wide = path[0].key == "head" or "norm" in path[-2].key
        held = (4 if wide else half) * leaf.size // (mesh["tensor"] if "tensor" in sharding.spec else 1)
        if "fsdp" in sharding.spec:
            # The shard's gradient is then reduced over the copies of it that data makes.
            total += 3 * ring(mesh["fsdp"]) * held + 2 * ring(mesh["data"]) * held / mesh["fsdp"]
        else:
            total += 2 * ring(shards) * held
    if mesh["tensor"] > 1:
        encoder = rehearsal.task.model.encoder
        tokens = math.prod(side // 16 for side in rehearsal.inputs.image_size) + encoder.tokens.count
        activations = half * (config.batch_size // shards) * tokens * encoder.width
        total += encoder.depth * 4 * 2 * ring(mesh["tensor"]) * activations
    return total


def line(row: Row) -> str:
    mesh = " x ".join(f"{axis} {size}" for axis, size in row.mesh.items() if size > 1)
    each = "; ".join(
        f"{c['count']} {c['kind']} over {', '.join(c['axes'])} {c['bytes'] / 1e6:,.1f} MB"
        for c in row.collectives
        if c["bytes"] > 1e5
    )
    ratio = f"{row.sent / row.theory:.2f}" if row.theory else ""
    return f"| {row.topology} | {mesh} | {row.sent / 1e6:,.1f} MB | {row.theory / 1e6:,.1f} MB | {ratio} | {each} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--chips", nargs="+", choices=CASES, default=["v5e", "v5p", "h100"], help="(v5e v5p h100)")
    parser.add_argument("--json", type=Path, help="also write the rows as JSON")
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    done = []
    print("| topology | mesh | sent by each chip | theory | ratio | collectives above 0.1 MB |", flush=True)
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for each in rows(arguments.chips):
        print(line(each), flush=True)
        done.append(dataclasses.asdict(each))
        if arguments.json:
            arguments.json.write_text(json.dumps(done, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    as_command(main)
