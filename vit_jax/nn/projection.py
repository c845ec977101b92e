"""The multi-layer perceptrons that contrastive methods put on a trunk and throw away afterwards."""

from typing import Literal

import flax.linen as nn
from jaxtyping import Array, Float

from vit_jax.nn.batch_norm import BatchNorm


class ProjectionHead(nn.Module):
    """Linear layers without bias, each followed by batch normalisation, all but the last by ReLU.

    Parameters, float32: `dense1`, `norm1`, ..., with their statistics in "batch_stats".

    Attributes:
        layers: number of linear layers.
        out: width of the last one.
        hidden: width of the others; None for that of the input.
        last_norm: batch normalisation after the last layer with a learned "scale" (SimCLR's code), "plain" without one
            (MoCo v3), or "none".
    """

    layers: int
    out: int
    hidden: int | None = None
    last_norm: Literal["scale", "plain", "none"] = "scale"

    @nn.compact
    def __call__(self, x: Float[Array, "b d"], train: bool, until: int | None = None) -> Float[Array, "b out"]:
        """Projects; with `until` only through so many layers, of which the last is a hidden one."""
        hidden = self.hidden or x.shape[-1]
        for i in range(1, (self.layers if until is None else until) + 1):
            last = i == self.layers
            x = nn.Dense(self.out if last else hidden, use_bias=False, name=f"dense{i}")(x)
            if not last:
                x = nn.relu(BatchNorm(name=f"norm{i}")(x, train))
            elif self.last_norm != "none":
                x = BatchNorm(use_bias=False, use_scale=self.last_norm == "scale", name=f"norm{i}")(x, train)
        return x
