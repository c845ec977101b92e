"""The board of layers: kinds of attention on grids of tokens."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from vit_jax.commands import board
from vit_jax.nn.dtype import compute_dtype
from vit_jax.nn.style import Execution
from vit_jax.planning.mixers import KINDS, LayerSize, Mixer

# From which on growth is fitted. Below, it is calling a program that takes the time, and the windows that are kept are
# few whole ones.
FEWEST_TOKENS = 1024


def rows_of(
    kinds: Sequence[str],
    grids: Sequence[int],
    layer: LayerSize,
    *,
    batch_size: int,
    dtype: str,
    rounds: int,
    warmup: int,
    free: int | None,
) -> list[dict[str, Any]]:
    """Measures each kind on each square grid, see `vit_jax.commands.board.measure`."""
    rows = []
    execution = Execution(dtype=compute_dtype(dtype))
    for grid in grids:
        made = {kind: KINDS[kind](layer, execution) for kind in kinds}
        programs, counted = {}, {}
        for kind, mixer in made.items():
            programs[kind], counted[kind] = _programs(mixer, batch_size, grid)
        measured = board.measure(programs, rounds, warmup, free, f"{grid}x{grid}")
        for kind, mixer in made.items():
            mixing, others = (batch_size * part for part in mixer.flops((grid, grid)))
            row = {
                "name": kind,
                "grid": [grid, grid],
                "tokens": grid**2,
                "flops": mixing,
                "layer_flops": mixing + others,
                "xla_flops": counted[kind],
                **measured[kind],
            }
            print(_line(row), file=sys.stderr, flush=True)
            rows.append(row)
    return rows


def growth(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The exponents of each kind."""
    kinds = dict.fromkeys(row["name"] for row in rows)
    return {
        kind: board.exponents([row for row in rows if row["name"] == kind], "tokens", FEWEST_TOKENS) for kind in kinds
    }


def _programs(mixer: Mixer, batch_size: int, grid: int) -> tuple[dict[str, board.Program], float]:
    """Of both modes, and what XLA counts of one pass forward."""
    shape = (batch_size, grid, grid, mixer.size.width)
    x = jax.ShapeDtypeStruct(shape, np.float32)
    variables = jax.eval_shape(mixer.init, jax.random.key(0), x)

    def loss(variables: PyTree, x: Float[Array, "b h w c"]) -> Float[Array, ""]:
        return jnp.square(mixer.apply(variables, x).astype(jnp.float32)).mean()

    def inputs() -> tuple[PyTree, Float[Array, "b h w c"]]:
        rng = np.random.default_rng(0)
        made = {
            collection: jax.tree.map(
                lambda leaf, random=collection == "params": jnp.asarray(
                    0.1 * rng.normal(size=leaf.shape) if random else np.ones(leaf.shape), leaf.dtype
                ),
                tree,
            )
            for collection, tree in variables.items()
        }
        return made, jnp.asarray(rng.normal(size=shape), np.float32)

    programs = {}
    for mode, run in (("forward", mixer.apply), ("training", jax.grad(loss, argnums=(0, 1)))):
        lowered = jax.jit(run).lower(variables, x)
        compiled = board.compiled(lowered)

        def start(compiled: jax.stages.Compiled = compiled) -> Any:
            given = inputs()
            return lambda: compiled(*given)

        programs[mode] = board.Program(compiled, start)
        if mode == "forward":
            counted = float(lowered.cost_analysis()["flops"])
    return programs, counted


def _line(row: Mapping[str, Any]) -> str:
    return f"{row['name']} at {row['grid'][0]}x{row['grid'][1]}: " + ", ".join(
        f"{mode} {board.milliseconds(row[mode])}" for mode in board.MODES
    )
