"""Which platform is traced for: it decides how attention is computed and how activations lie in memory."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Shaped

from vit_jax.nn.batch_axis import on_each_device

# Where that is not the one that runs the trace.
_platform: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


@contextlib.contextmanager
def computing_on(platform: str) -> Iterator[None]:
    """Around tracing: what is traced will run on this platform ("cpu", "gpu", "tpu"), wherever it is traced."""
    token = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(token)


def platform() -> str:
    """The platform that is traced for."""
    return _platform.get() or jax.default_backend()


def row_major(x: Shaped[Array, "b t width"]) -> Shaped[Array, "b t width"]:
    """`x` itself, and its gradient, which on GPUs are to lie in memory as their axes come.

    Left to itself XLA puts tokens before examples where a class token is put in front of the others, and then
    transposes what each block's products read, forward and backward.
    """
    if platform() != "gpu":
        return x
    # XLA does not split this constraint: each device would gather all examples for it.
    return on_each_device(lambda x: with_layout_constraint(x, Layout(tuple(range(x.ndim)))), 1, whole_features=True)(x)
