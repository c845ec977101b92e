"""Initializers are asked once for the shape that they give.

Whenever a model is applied, Flax compares each parameter with the shape that its initializer would give, and traces the
initializer to learn it: half of the time that tracing an application takes. The comparison stays; the answer is
remembered, since the same function with the same arguments gives the same shape.
"""

import dataclasses
import functools
import types
from collections.abc import Callable, Hashable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.core.scope import Scope

_SHAPES: dict[Hashable, Any] = {}


def _same(value: Any) -> Hashable:
    """Equal for functions that do the same: of the same code, around the same values. `normal(0.02)` is made anew again
    and again."""
    if isinstance(value, types.FunctionType):
        around = tuple(_same(cell.cell_contents) for cell in value.__closure__ or ())
        return value.__code__, value.__defaults__, tuple((value.__kwdefaults__ or {}).items()), around
    if isinstance(value, nn.Module):  # but for where it stands
        fields = [field.name for field in dataclasses.fields(value) if field.name not in ("parent", "name")]
        return type(value), tuple(_same(getattr(value, name)) for name in fields)
    if isinstance(value, functools.partial):
        return _same(value.func), value.args, tuple(value.keywords.items())
    return value


def _shape(initializer: Callable, arguments: tuple, named: dict[str, Any]) -> Any:
    """What it gives, abstractly; None where the question cannot be a key."""
    key = _same(initializer), arguments, tuple(named.items())
    try:
        found = _SHAPES.get(key)
    except TypeError:
        return None
    if found is None:
        found = _SHAPES[key] = jax.eval_shape(lambda: initializer(jax.random.key(0), *arguments, **named))
    return found


def remember_shapes() -> None:
    """For this process."""
    param = Scope.param

    @functools.wraps(param)
    def asked_once(self: Scope, name: str, init_fn: Callable, *init_args: Any, unbox: bool = True, **init_kwargs: Any):
        if self.has_variable("params", name):
            value = self.get_variable("params", name)
            found = _shape(init_fn, init_args, init_kwargs)
            if isinstance(value, jax.Array | np.ndarray) and value.shape == getattr(found, "shape", None):
                self.reserve(name, "params")
                return value
        return param(self, name, init_fn, *init_args, unbox=unbox, **init_kwargs)

    Scope.param = asked_once
