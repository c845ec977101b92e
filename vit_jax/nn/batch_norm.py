"""Batch normalisation over the global batch."""

import contextlib
import contextvars
from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.errors import UserError

_found: contextvars.ContextVar[dict[str, Float[Array, " c"]] | None] = contextvars.ContextVar("found", default=None)


@contextlib.contextmanager
def by_batch() -> Iterator[dict[str, Float[Array, " c"]]]:
    """Around tracing an evaluation: every `BatchNorm` goes by its batch, as in training; all else stays as it is.

    Yields:
        A dict that fills with what the batch has: 'batch_stats/encoder/norm1/mean', '.../var', by the path of the norm
            within what is applied.
    """
    found: dict[str, Float[Array, " c"]] = {}
    token = _found.set(found)
    try:
        yield found
    finally:
        _found.reset(token)


class BatchNorm(nn.BatchNorm):
    """Normalises each channel by its mean and variance over all other axes (Ioffe and Szegedy, arXiv:1502.03167).

    In training they are those of the batch. Under `jit` that is the global batch, on however many devices its rows
    lie: nothing else has to be synchronised. In evaluation they are running means of what training saw.
    Parameters, float32: `scale` and `bias`; in the collection "batch_stats", float32: `mean` and `var`.

    Attributes:
        momentum: share of the old value in each update of a running mean. PyTorch calls 1 - momentum so, and counts
            n / (n - 1) of the variance.
        epsilon: added to the variance; like further attributes, see `flax.linen.BatchNorm`.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    use_fast_variance: bool = False  # a difference of squares is wrong where the mean is large

    def __call__(self, x: Float[Array, "b *rest c"], train: bool) -> Float[Array, "b *rest c"]:
        """Normalises.

        Raises:
            UserError: when training would normalise a single example by itself.
        """
        if train and x.shape[0] < 2:
            raise UserError(
                "Batch normalisation over one example would leave nothing of it", "Set config.batch_size to 2 or more"
            )
        if not train and (found := _found.get()) is not None:
            return self._by_batch(x, found)
        return super().__call__(x, use_running_average=not train)

    def _by_batch(self, x: Array, found: dict[str, Array]) -> Array:
        """As in training, but what the batch has goes into `found`: an evaluation may not change its variables."""
        dtype, axes = self.dtype or x.dtype, tuple(range(x.ndim - 1))
        x = x.astype(jnp.float32)
        mean = x.mean(axes)
        x = x - mean
        var = jnp.square(x).mean(axes)
        name = "/".join(("batch_stats", *self.path))
        found[f"{name}/mean"], found[f"{name}/var"] = mean, var
        x = x * jax.lax.rsqrt(var + self.epsilon)
        if self.use_scale:
            x = x * self.get_variable("params", "scale")
        if self.use_bias:
            x = x + self.get_variable("params", "bias")
        return x.astype(dtype)
