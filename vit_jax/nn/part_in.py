"""What a traced function's results depend on."""

from jax.extend.core import Jaxpr, Var


def part_in(jaxpr: Jaxpr) -> list[bool]:
    """Which inputs of a traced function have a part in its results."""
    needed = {v for v in jaxpr.outvars if isinstance(v, Var)}
    for equation in reversed(jaxpr.eqns):
        if not needed.isdisjoint(equation.outvars):
            needed |= {v for v in equation.invars if isinstance(v, Var)}
    return [v in needed for v in jaxpr.invars]
