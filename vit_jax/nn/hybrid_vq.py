"""Hybrid tokens: codes of several scales, and what they leave of the latents (HART, arXiv:2410.10812, section 3.1)."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vit_jax.nn.image_tokenizer import Grid
from vit_jax.nn.multiscale_vq import MultiScaleQuantizer, joined
from vit_jax.nn.vq import Quantized, straight_through


class Hybrid(NamedTuple):
    """What a generator learns of latents.

    Args:
        indices: of the codes, maps one after the other.
        inputs: see `MultiScaleQuantizer.inputs`.
        last: what is left for the last scale, whose code and remainder sum up to it.
    """

    indices: Int[Array, "b t"]
    inputs: Float[Array, "b t_but_first d"]
    last: Float[Array, "b n d"]


class HybridQuantizer(MultiScaleQuantizer):
    """The multi-scale quantiser of which a decoder learns to take the sum of all codes, or the latents themselves.

    Only while the codes are learned does the last scale go through its convolution: tokens and what they stand for are
    made without, so that the last code and what is left of it lie in the same place.
    """

    def __call__(
        self, latents: Float[Array, "b h w d"], grids: Sequence[Grid], train: bool = False,
        continuous: Bool[Array, ""] | bool = False,
    ) -> Quantized:  # fmt: skip
        """As of `MultiScaleQuantizer`; the loss and the indices are the same both ways.

        Args:
            continuous: what the codes leave is added to their sum: these are the latents, exactly.
        """
        latents = self._checked(latents, grids)
        indices, sums, seen = self._encoded(latents, grids, super().enlarged)
        found = self._learned(latents, indices, sums, seen, train)
        return found.replace(latents=jnp.where(continuous, latents, straight_through(latents, sums[-1])))

    def enlarged(self, indices: Int[Array, "b h w"], scale: int, grids: Sequence[Grid]) -> Float[Array, "b H W d"]:
        """What the codes of one scale add to the sum."""
        if scale == len(grids) - 1:
            return self.codebook.embed(indices).astype(jnp.float32)
        return super().enlarged(indices, scale, grids)

    def hybrid(self, latents: Float[Array, "b h w d"], grids: Sequence[Grid]) -> Hybrid:
        """Codes, and what is left for the last of them."""
        latents = self._checked(latents, grids)
        indices, sums, _ = self._encoded(latents, grids, self.enlarged)
        last = jax.lax.stop_gradient(latents - (sums[-2] if len(sums) > 1 else 0.0))
        inputs = self.inputs_of(sums, grids)
        return Hybrid(joined(indices), inputs, last.reshape(last.shape[0], -1, last.shape[-1]))
