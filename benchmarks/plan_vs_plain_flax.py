"""What our train step and the same model written plainly with Flax's layers need on devices that need not be there.

    JAX_PLATFORMS=cpu python benchmarks/plan_vs_plain_flax.py --topology h100:1 --per-chip 256
    JAX_PLATFORMS=cpu python benchmarks/plan_vs_plain_flax.py --topology v5e:2x2 --depth 2 --json plain.json

Both are compiled for the topology by its own compiler and counted as `vit_jax plan` does: normalised uint8 images,
bfloat16, sigmoid loss, Adam, parameters replicated, batch split over the devices. Further `--ours KEY=VALUE` change our
model's config, for example `--ours remat=elementwise`.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

CLASSES, SIDE = 1000, 224


def plain(target: Any, mesh: Any, variant: str, depth: int, batch_size: int) -> Any:
    """The plain step, lowered."""
    import jax
    import jax.numpy as jnp
    import optax

    from benchmarks.plain_flax_vit import PlainViT, sigmoid_loss
    from vit_jax.models.vit import parse_variant
    from vit_jax.training.sharding import batch_sharding, replicated

    size, patch_size = parse_variant(variant)
    model = PlainViT(CLASSES, patch_size, size.width, depth, size.mlp_dim, size.num_heads, jnp.bfloat16)
    tx = optax.adamw(1e-3)

    def step(params: Any, slots: Any, images: jax.Array, labels: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            normalised = (images.astype(jnp.float32) / 127.5 - 1).astype(jnp.bfloat16)
            return sigmoid_loss(model.apply({"params": params}, normalised), labels)

        value, gradients = jax.value_and_grad(loss)(params)
        updates, slots = tx.update(gradients, slots, params)
        return optax.apply_updates(params, updates), slots, value

    rows, everywhere = batch_sharding(mesh), replicated(mesh)
    images = jax.ShapeDtypeStruct((batch_size, SIDE, SIDE, 3), jnp.uint8, sharding=rows)
    labels = jax.ShapeDtypeStruct((batch_size,), jnp.int32, sharding=rows)
    one = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.bfloat16)
    params = jax.eval_shape(lambda x: model.init(jax.random.key(0), x)["params"], one)
    state = (params, jax.eval_shape(tx.init, params))
    state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), state)
    return jax.jit(step, donate_argnums=(0, 1), out_shardings=everywhere).lower(*state, images, labels)


def ours(target: Any, variant: str, depth: int, batch_size: int, changes: list[str]) -> Any:
    """Our rehearsal and its step, lowered."""
    from vit_jax.planning.rehearsal import rehearse
    from vit_jax.tasks import static_argument
    from vit_jax.training.config import load_config, override

    values = load_config(f"bench_b16:variant={variant},remat=none")
    values = override(values, {f"model.{k}": v for k, v in (change.split("=", 1) for change in changes)})
    values = {**values, "batch_size": batch_size, "model": {**values["model"], "depth": depth}}
    rehearsal = rehearse(values, CLASSES, target.devices)
    return rehearsal, rehearsal.program.lower(static_argument(rehearsal.task, 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="h100:1")
    parser.add_argument("--variant", default="B/16")
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--per-chip", type=int, default=256, help="images")
    parser.add_argument("--ours", action="append", default=[], metavar="KEY=VALUE", help="of config.model")
    parser.add_argument("--only", choices=("plain", "ours"))
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--dump", metavar="FOLDER", help="write the compiled programs' text there")
    arguments = parser.parse_args()

    from vit_jax.planning.plan import KEYS, costs_of
    from vit_jax.planning.roofline import finished
    from vit_jax.planning.topology import topology

    target = topology(arguments.topology)
    batch_size = arguments.per_chip * len(target.devices)
    sizes = (arguments.variant, arguments.depth, batch_size)
    found = {}
    rehearsal, ours_lowered = ours(target, *sizes, arguments.ours)
    lowered = {"plain": plain(target, rehearsal.mesh, *sizes), "ours": ours_lowered}
    for name in [arguments.only] if arguments.only else ["plain", "ours"]:
        began = time.process_time()
        compiled = lowered[name].compile(compiler_options=dict(target.options))
        costs = costs_of(compiled, rehearsal.mesh, target.chip) | {"compile_seconds": time.process_time() - began}
        # The useful operations are those of the model, whoever wrote it.
        found[name] = finished(costs, KEYS, rehearsal, target.chip)
        if arguments.dump:
            Path(arguments.dump, f"{name}.txt").write_text(compiled.as_text())
    for name, each in found.items():
        kinds = {entry["kind"]: entry for entry in each["kernels"]}
        moved = sum(kinds[kind]["bytes"] for kind in ("elementwise", "copy") if kind in kinds)
        count = sum(entry["count"] for entry in kinds.values())
        print(
            f"{name}: step {1e3 * each['step_seconds']:.1f} ms at the roofline, MFU {each['mfu']:.1%}; "
            f"elementwise and copies {moved / 1e9:.2f} GB, all {each['counted_bytes'] / 1e9:.2f} GB; "
            f"temporaries {each['temporaries_bytes'] / 2**30:.2f} GiB; "
            f"{count} kernels, compiled in {each['compile_seconds']:.0f} s of CPU time"
        )
        for kind, entry in kinds.items():
            print(f"  {kind:12} {entry['count']:5}  {entry['bytes'] / 1e9:8.2f} GB  {entry['flops'] / 1e12:8.3f} TFLOP"
                  f"  {1e3 * entry['seconds']:8.2f} ms")  # fmt: skip
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"arguments": vars(arguments), **found}, indent=2) + "\n")


if __name__ == "__main__":
    from benchmarks.runs import as_command  # not in processes that this one starts

    as_command(main)
