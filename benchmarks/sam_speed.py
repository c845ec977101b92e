"""Images a second of SAM's encoders and of EfficientViT-SAM's, beside what their multiplications would allow.

    python benchmarks/sam_speed.py --workdir runs/sam_speed
    python benchmarks/sam_speed.py --workdir runs/sam_speed_gpu --batch-size 16 --dtype bfloat16 --rounds 20

Each encoder, neck included, gets normalised images of its own size: SAM's 1024 pixels, the L series 512, the XL series
1024. Weights are random, which speed does not depend on. One encoder after the other is compiled and timed, after a
run that is not; what was measured is kept, and an interrupted run goes on. Writes table.md and results.json.

The last columns are those of the paper (arXiv:2402.05008, table 2, and the authors' README): an A100, TensorRT in
half precision, 16 images a batch, transfers included. They are another machine's and another compiler's.
"""

import argparse
import gc
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.runs import as_command, once, write_tables
from vit_jax.models import efficientvit_sam
from vit_jax.naming import build_model
from vit_jax.training.parameters import path_name

_PAPER_H = 11  # images a second of SAM-H
# By name: the model section, the side of its images, and the paper's images a second (none for SAM-B and -L).
ENCODERS: dict[str, tuple[dict[str, Any], int, int | None]] = {
    f"SAM-{size}": ({"name": "sam", "trunk": {"name": "vitdet", "variant": f"{size}/16"}}, 1024, published)
    for size, published in (("B", None), ("L", None), ("H", _PAPER_H))
} | {
    f"EfficientViT-SAM-{size}": (
        {"name": "efficientvit_sam", "variant": size}, efficientvit_sam.VARIANTS[size].image_size, published,
    )
    for size, published in (("L0", 762), ("L1", 638), ("L2", 538), ("XL0", 278), ("XL1", 182))
}  # fmt: skip
_SMALLER = 8  # of which part the sides are in a smoke test


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="a directory, made if need be")
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS), metavar="NAME")
    parser.add_argument("--batch-size", type=int, default=1, help="images at once (default 1)")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each (default 5)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--smoke", action="store_true", help="images of an eighth of the side, to see that it runs")
    arguments = parser.parse_args()
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    measured = {
        name: once(
            arguments.workdir / f"{name}.json",
            lambda name=name: measure(
                name, arguments.batch_size, arguments.rounds, arguments.dtype, _SMALLER if arguments.smoke else 1
            ),
        )
        for name in arguments.encoders
    }
    write_tables(arguments.workdir, [table_of(measured)], measured)


def measure(name: str, batch_size: int, rounds: int, dtype: str, smaller: int = 1) -> dict[str, Any]:
    """Seconds of a batch through one encoder, one number a round, and what it was measured on."""
    section, side, _ = ENCODERS[name]
    side //= smaller
    inner = {"trunk": {**section["trunk"], "dtype": dtype}} if "trunk" in section else {"dtype": dtype}
    section = {**section, **inner}
    model = build_model(section, num_classes=0)[0]
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, method="embed"), image)
    rng = np.random.default_rng(0)

    def drawn(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        # Numbers such as trained ones: what overflows or all but vanishes may take a processor longer.
        if path_name(path).endswith(("scale", "var")):
            return jnp.ones(leaf.shape, leaf.dtype)
        return jnp.asarray(rng.standard_normal(leaf.shape, np.float32) * 0.02)

    variables = jax.tree.map_with_path(drawn, shapes)
    images = jnp.asarray(rng.normal(size=(batch_size, side, side, 3)), jnp.float32)
    embed = jax.jit(lambda v, x: model.apply(v, x, method="embed"))
    began = time.perf_counter()
    compiled = embed.lower(variables, images).compile()
    compile_seconds = time.perf_counter() - began
    compiled(variables, images).block_until_ready()
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        compiled(variables, images).block_until_ready()
        seconds.append(time.perf_counter() - began)
    memory = compiled.memory_analysis()
    found = {
        "device": jax.devices()[0].device_kind, "jax": jax.__version__, "dtype": dtype, "batch_size": batch_size,
        "image_size": side, "parameters": int(sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))),
        "gmacs": model.flops((side, side)) / 2e9, "compile_seconds": compile_seconds,
        "temporary_bytes": None if memory is None else memory.temp_size_in_bytes, "seconds": seconds,
    }  # fmt: skip
    del variables, images, compiled
    gc.collect()
    print(f"{name}: {batch_size / statistics.median(seconds):.3g} images/s", flush=True)
    return found


def table_of(measured: dict[str, dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """A row an encoder; how many times as fast as SAM's B and H it is, and in brackets what the MACs would allow."""
    speeds = {name: of["batch_size"] / statistics.median(of["seconds"]) for name, of in measured.items()}
    rivals = [name for name in ("SAM-B", "SAM-H") if name in measured]
    rows = []
    for name, of in measured.items():
        slow, fast = (of["batch_size"] / pick(of["seconds"]) for pick in (max, min))
        times = [
            f"{speeds[name] / speeds[rival]:.1f} ({measured[rival]['gmacs'] / of['gmacs']:.1f})" for rival in rivals
        ]
        published = ENCODERS[name][2]
        rows.append([
            name, str(of["image_size"]), f"{of['parameters'] / 1e6:.1f} M", f"{of['gmacs']:,.1f}",
            f"{speeds[name]:.3g} ({slow:.3g} to {fast:.3g})", f"{2 * of['gmacs'] * speeds[name]:,.0f}", *times,
            str(published or ""), f"{published / _PAPER_H:.1f}" if published else "",
        ])  # fmt: skip
    header = [
        "encoder", "image", "parameters", "GMACs", "images/s", "GFLOP/s", *(f"times {rival}" for rival in rivals),
        "paper, A100: images/s", "times SAM-H",
    ]  # fmt: skip
    return header, rows


if __name__ == "__main__":
    as_command(main)
