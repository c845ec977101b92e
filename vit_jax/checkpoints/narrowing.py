"""Parameters that a program reads as bfloat16 alone, in that type: half the memory, and the same numbers."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.extend.core import Jaxpr, Var

from vit_jax.tasks import Variables

_SHORT = np.dtype(jax.numpy.bfloat16)


def narrowed(
    variables: Variables, traced: jax.stages.Traced, place: Callable[[Any], jax.Array] | None = None
) -> Variables:
    """The same variables, those as bfloat16 of which a program makes bfloat16 before it does anything else with them.

    A model that computes in bfloat16 has its parameters in float32, and casts them wherever it uses them: a program
    that draws then holds both. What it casts is cast here by the same rounding, once, and the program is the same but
    for the casts. Norms and whatever else is computed in float32 stay as they are.

    Args:
        variables: the first argument of the program: arrays of NumPy or JAX, or their shapes and types.
        traced: the program, traced with variables of these shapes and types.
        place: puts an array where the program runs; it is asked for those that are read, which need not be all.
    """
    leaves, tree = jax.tree.flatten(variables)
    jaxpr = traced.jaxpr.jaxpr
    read: list[set[Any]] = [set() for _ in leaves]
    for leaf, dtype in _reads(jaxpr, dict(zip(jaxpr.invars, range(len(leaves)), strict=False))):
        read[leaf].add(dtype)
    narrow = [_as_read(leaf, dtypes) for leaf, dtypes in zip(leaves, read, strict=True)]
    if place is not None:
        narrow = [place(leaf) if dtypes else leaf for leaf, dtypes in zip(narrow, read, strict=True)]
    return tree.unflatten(narrow)


def _as_read(leaf: Any, dtypes: set[Any]) -> Any:
    """A leaf in bfloat16 where it is read as nothing else."""
    if dtypes != {_SHORT} or leaf.dtype != np.float32:
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape, _SHORT, sharding=leaf.sharding)
    return leaf.astype(_SHORT)


def _reads(jaxpr: Jaxpr, leaves: Mapping[Hashable, int]) -> Iterator[tuple[int, Any]]:
    """Of each place where a leaf is read the leaf, and the type that is made of it there; None for all else."""
    for equation in jaxpr.eqns:
        read = {at: leaves[v] for at, v in enumerate(equation.invars) if isinstance(v, Var) and v in leaves}
        if not read:
            continue
        if equation.primitive.name == "convert_element_type":
            yield read[0], equation.params["new_dtype"]
            continue
        bodies = _bodies(equation)
        for at in read:
            if not any(at in operands for operands in bodies.values()):
                yield read[at], None
        for body, operands in bodies.items():
            yield from _reads(body, {body.invars[operands[at]]: leaf for at, leaf in read.items() if at in operands})
    for var in jaxpr.outvars:
        if isinstance(var, Var) and var in leaves:
            yield leaves[var], None


def _bodies(equation: Any) -> dict[Jaxpr, dict[int, int]]:
    """The programs within an equation, and in each its inputs by the operands of the equation that they are; but for
    those that may become something else on the way, as what a loop carries from turn to turn does."""
    params, count = equation.params, len(equation.invars)
    match equation.primitive.name:
        case "jit" | "closed_call" | "remat2":
            return {_open(params["jaxpr"]): {at: at for at in range(count)}}
        case "scan":
            carried = range(params["num_consts"], params["num_consts"] + params["num_carry"])
            return {_open(params["jaxpr"]): {at: at for at in range(count) if at not in carried}}
        case "while":
            first, second = params["cond_nconsts"], params["body_nconsts"]
            return {
                _open(params["cond_jaxpr"]): {at: at for at in range(first)},
                _open(params["body_jaxpr"]): {first + at: at for at in range(second)},
            }
        case "cond":
            return {_open(branch): {at: at - 1 for at in range(1, count)} for branch in params["branches"]}
    return {}


def _open(jaxpr: Any) -> Jaxpr:
    """Without its constants."""
    return getattr(jaxpr, "jaxpr", jaxpr)
