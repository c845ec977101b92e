"""The shapes of a model's variables, in the time that it takes to trace each different part of it once."""

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any

import flax.linen as nn
import jax
from flax.core.tracers import current_trace
from jax import lax


def init_shapes(init: Callable[..., Any], *args: Any) -> Any:
    """`jax.eval_shape` of a function that initialises modules.

    Of modules that are equal and are called with the same shapes, as the blocks of a deep network, one is traced. So a
    module that is initialised here makes its variables of its fields and its arguments, not of where it stands, and
    does nothing beside: names that it notes for sharding are not all noted.

    Args:
        init: as `model.init`, or a task's. What it jits or checkpoints is traced as it is, since JAX may keep it.
        args: what it takes, or their shapes.

    Returns:
        What it returns, as shapes.
    """

    def run(*args: Any) -> Any:
        with nn.intercept_methods(_Once()):
            return init(*args)

    return jax.eval_shape(run, *args)


class _Once:
    """Calls one of equal modules; the others are given zeros of its shapes."""

    def __init__(self) -> None:
        self.known: dict[Hashable, tuple[Any, dict[str, Any]]] = {}
        self.trace = current_trace()

    def __call__(
        self, call: Callable[..., Any], args: tuple, kwargs: dict[str, Any], context: nn.module.InterceptorContext
    ) -> Any:
        module = context.module
        if context.method_name != "__call__" or module.name is None or not module.is_initializing():
            return call(*args, **kwargs)
        if current_trace() != self.trace:
            return call(*args, **kwargs)
        key = _question(module, args, kwargs)
        if key is None or any(module.variables.values()):  # called before: its variables are there
            return call(*args, **kwargs)
        if key not in self.known:
            result = call(*args, **kwargs)
            self.known[key] = jax.tree.map(_shape, (result, dict(module.variables)))
            return result
        result, collections = jax.tree.map(_zeros, self.known[key])
        for collection, tree in collections.items():
            for name, value in tree.items():
                module.put_variable(collection, name, value)
        return result


def _question(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Hashable | None:
    """Equal for calls that make variables of the same shapes; None for one that cannot be a key."""
    leaves, tree = jax.tree.flatten((args, kwargs))
    key = _described(module), tree, tuple(map(_leaf, leaves))
    try:
        hash(key)
    except TypeError:
        return None
    return key


def _described(value: Any) -> Any:
    """A module by its class and its fields, but for where it stands."""
    if isinstance(value, nn.Module):
        names = [field.name for field in dataclasses.fields(value) if field.name not in ("parent", "name")]
        return type(value), tuple(_described(getattr(value, name)) for name in names)
    return value


def _leaf(value: Any) -> Hashable:
    return (value.shape, value.dtype) if hasattr(value, "shape") else value


def _shape(value: Any) -> Any:
    return jax.ShapeDtypeStruct(value.shape, value.dtype) if hasattr(value, "shape") else value


def _zeros(value: Any) -> Any:
    return lax.full(value.shape, 0, value.dtype) if isinstance(value, jax.ShapeDtypeStruct) else value
