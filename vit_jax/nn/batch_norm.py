"""Batch normalisation over the global batch."""

import flax.linen as nn
from jaxtyping import Array, Float

from vit_jax.errors import UserError


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
        return super().__call__(x, use_running_average=not train)
