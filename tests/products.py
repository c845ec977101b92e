"""What programs multiply, counted where they are written."""

import numpy as np


def products(jaxpr):
    """Of all matrix products and convolutions: twice the outputs times what is summed up for each."""
    total = 0
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            total += products(inner) if hasattr(inner, "eqns") else 0
        if equation.primitive.name == "conv_general_dilated":
            total += 2 * equation.outvars[0].aval.size * np.prod(equation.invars[1].aval.shape[:3])
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += 2 * equation.outvars[0].aval.size * np.prod([equation.invars[0].aval.shape[i] for i in contracted])
    return total
