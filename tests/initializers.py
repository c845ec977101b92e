"""Initial values in less time: initializers are asked once for the shape that they give, and draw by a cheaper hash.

Whenever a model is applied, Flax compares each parameter with the shape that its initializer would give, and traces the
initializer to learn it: half of the time that tracing an application takes. The comparison stays; the answer is
remembered, since the same function with the same arguments gives the same shape.

A run's first state was what took longest to compile, twenty seconds where there are four hundred parameters: each draws
by twenty rounds of Threefry. In tests its key is of a kind whose draws are a few operations. The initializers and all
other keys are the real ones, as is what `task.init` or `model.init` gives for a key of JAX's.
"""

import contextlib
import dataclasses
import functools
import types
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core.scope import Scope
from jax.extend.random import define_prng_impl

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


def _mixed(x: jax.Array) -> jax.Array:
    """Of 32 bits; each depends on all (lowbias32 of C. Wellons' search for such hashes)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def _bits(key: jax.Array, width: int, shape: tuple[int, ...]) -> jax.Array:
    counts = jax.lax.iota(jnp.uint32, int(np.prod(shape))).reshape(shape)
    return _mixed(counts * jnp.uint32(0x9E3779B9) + key[0]).astype(f"uint{width}")


def _split(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    counts = jax.lax.iota(jnp.uint32, int(np.prod(shape))).reshape(*shape, 1)
    return _mixed(counts + 3 * key)


CHEAP = define_prng_impl(
    key_shape=(1,),
    seed=lambda seed: _mixed(seed.astype(jnp.uint32)).reshape(1),
    split=_split,
    random_bits=_bits,
    fold_in=lambda key, data: _mixed(key + data.astype(jnp.uint32)),
    name="cheap",
    tag="ch",
)


@contextlib.contextmanager
def draw_cheaply(cheaply: bool = True) -> Iterator[None]:
    """The first states of runs of this process; where not, as in every other process."""
    from vit_jax.training import program, state  # now that the tests' bytecode and devices are configured

    def random_key(seed: Any, step: Any, purpose: int) -> jax.Array:
        if purpose != state.INIT:
            return state.random_key(seed, step, purpose)
        return jax.random.fold_in(jax.random.key(seed, impl=CHEAP), step)

    before = program.random_key
    program.random_key = random_key if cheaply else state.random_key
    yield
    program.random_key = before
