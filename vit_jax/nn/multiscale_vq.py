"""Multi-scale residual quantisation: an image as maps of tokens from coarse to fine (VAR, arXiv:2404.02905, 3.2).

Each map of tokens is as large as its scale; its codes are enlarged to the latents' size and sent through a convolution,
phi, and what they leave is for the next scales. The sum over all scales stands for the latents.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vit_jax.errors import UserError
from vit_jax.nn.conv import Conv
from vit_jax.nn.image_tokenizer import Grid
from vit_jax.nn.resize import resize_maps
from vit_jax.nn.unet_blocks import UNIFORM
from vit_jax.nn.vq import Codebook, Quantized, codebook_loss, nearest, straight_through


def phi_of_scale(scale: int, scales: int, phis: int) -> int:
    """Which of `phis` convolutions scale number `scale` of `scales` goes through.

    Scales lie on a line from 0 to 1, evenly, and so do the convolutions, a little away from its ends; the nearest one
    is taken. With 10 scales and 4 convolutions several scales share one, and the third and the eighth are as far from
    two of them: what rounding decides here is what it decides in the authors' code, whose formula this is.
    """
    edge = 1 / (3 if phis == 4 else 2) / phis
    ticks = np.linspace(edge, 1 - edge, phis)
    return int(np.argmin(np.abs(ticks - scale / max(scales - 1, 1))))


def square_grids(scales: Sequence[int], latents: Grid) -> tuple[Grid, ...]:
    """Rows and columns of the maps of tokens.

    Args:
        scales: side of each map, from coarse to fine.
        latents: rows and columns of the latents.

    Raises:
        UserError: when the last map is not as large as the latents.
    """
    if not scales or (scales[-1],) * 2 != tuple(latents):
        last = f"end at {scales[-1]}x{scales[-1]}" if scales else "are none"
        raise UserError(
            f"The scales {last}, and the latents of the image have {latents[0]}x{latents[1]} places",
            "Let the last scale be the side of the latents, or change the size of the images",
        )
    return tuple((side, side) for side in scales)


def split_scales(tokens: Int[Array, "b t"], grids: Sequence[Grid]) -> list[Int[Array, "b h w"]]:
    """The maps of tokens that stand one after the other.

    Raises:
        UserError: for another number of tokens than these maps have.
    """
    sizes = [math.prod(grid) for grid in grids]
    if sum(sizes) != tokens.shape[1]:
        raise UserError(
            f"An image of {tokens.shape[1]} tokens has not the {sum(sizes)} of its {len(sizes)} scales",
            "Take the tokenizer that the tokens came from",
        )
    ends = itertools.accumulate(sizes)
    return [tokens[:, end - size : end].reshape(-1, *grid) for size, end, grid in zip(sizes, ends, grids, strict=True)]


class Phi(nn.Module):
    """A mix of a map and of its 3x3 convolution; parameters `kernel` and `bias`.

    Attributes:
        share: of the convolution.
    """

    share: float = 0.5

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
        conv = Conv(x.shape[-1], 3, kernel_init=UNIFORM)
        nn.share_scope(self, conv)
        return x * (1 - self.share) + conv(x) * self.share


class MultiScaleQuantizer(nn.Module):
    """Latents as maps of codes of one codebook, from coarse to fine.

    Parameters: `codebook`; `phi_0`, `phi_1`, ...

    All methods take the rows and columns of the maps, of which the last is the size of the latents.

    Attributes:
        codebook: the codes.
        phis: how many convolutions scales go through, see `phi_of_scale`; 1 for one that all share, and as many as
            scales for one each; 0 for none.
        share: see `Phi`.
        beta: weight of the commitment, see `vit_jax.nn.vq.codebook_loss`.
        cosine: what is left is compared with codes by the angle. Codes keep their length.
    """

    codebook: Codebook
    phis: int = 4
    share: float = 0.5
    beta: float = 0.25
    cosine: bool = False

    def setup(self) -> None:
        self.phi = [Phi(self.share) for _ in range(self.phis)]

    def __call__(self, latents: Float[Array, "b h w d"], grids: Sequence[Grid], train: bool = False) -> Quantized:
        """Quantises in training: the sum over all scales with the gradient of the latents, and as the loss the mean
        over scales of how far the sum up to each is from them.

        Returns:
            Indices are [B, T], maps one after the other.
        """
        latents = self._checked(latents, grids)
        return self._learned(latents, *self._encoded(latents, grids, self.enlarged), train)

    def tokenize(self, latents: Float[Array, "b h w d"], grids: Sequence[Grid]) -> Int[Array, "b t"]:
        """Indices of the codes, maps one after the other."""
        return joined(self._encoded(self._checked(latents, grids), grids, self.enlarged)[0])

    def sums(self, tokens: Int[Array, "b t"], grids: Sequence[Grid]) -> list[Float[Array, "b h w d"]]:
        """What the codes up to each scale sum up to; the last stands for the latents."""
        summed, found = 0.0, []
        for k, indices in enumerate(split_scales(tokens, grids)):
            summed = summed + self.enlarged(indices, k, grids)
            found.append(summed)
        return found

    def embed(self, tokens: Int[Array, "b t"], grids: Sequence[Grid]) -> Float[Array, "b h w d"]:
        """The latents that tokens stand for."""
        return self.sums(tokens, grids)[-1]

    def inputs(self, tokens: Int[Array, "b t"], grids: Sequence[Grid]) -> Float[Array, "b t_but_first d"]:
        """What a model sees that guesses each scale from those before it: for each token of all scales but the first,
        the sum up to the scale before, shrunk to its own."""
        return self.inputs_of(self.sums(tokens, grids), grids)

    def inputs_of(
        self, sums: Sequence[Float[Array, "b h w d"]], grids: Sequence[Grid]
    ) -> Float[Array, "b t_but_first d"]:
        """The same of the sums up to each scale."""
        rows = [self.shrunk(x, grid) for x, grid in zip(sums[:-1], grids[1:], strict=True)]
        return jnp.concatenate([x.reshape(x.shape[0], -1, x.shape[-1]) for x in rows], axis=1)

    def enlarged(self, indices: Int[Array, "b h w"], scale: int, grids: Sequence[Grid]) -> Float[Array, "b H W d"]:
        """What the codes of one scale add to the sum."""
        x = resize_maps(self.codebook.embed(indices).astype(jnp.float32), grids[-1], "bicubic")
        return self.phi[phi_of_scale(scale, len(grids), self.phis)](x) if self.phis else x

    def shrunk(self, latents: Float[Array, "b H W d"], grid: Grid) -> Float[Array, "b h w d"]:
        """Latents as a scale sees them: means over what lies under each place."""
        return resize_maps(latents, grid, "area")

    def _learned(
        self,
        latents: Float[Array, "b h w d"],
        indices: Sequence[Int[Array, "b h w"]],
        sums: Sequence[Array],
        seen: Sequence[Array],
        train: bool,
    ) -> Quantized:
        """What comes of `_encoded` in training, where codes may learn without a gradient."""
        if train:
            width = latents.shape[-1]
            self.codebook.learn(jnp.concatenate([x.reshape(-1, width) for x in seen]), _flat(indices).reshape(-1))
        loss = sum(codebook_loss(latents, x, self.beta) for x in sums) / len(sums)
        return Quantized(straight_through(latents, sums[-1]), joined(indices), loss)

    def _encoded(
        self, latents: Float[Array, "b h w d"], grids: Sequence[Grid], enlarged: Callable[..., Array]
    ) -> tuple[list[Int[Array, "b h w"]], list[Array], list[Array]]:
        """Of each scale its indices, the sum up to it by what `enlarged` makes of its codes, and what it saw."""
        indices, sums, seen, summed = [], [], [], jnp.zeros_like(latents)
        for k, grid in enumerate(grids):
            seen.append(self.shrunk(jax.lax.stop_gradient(latents - summed), grid))
            indices.append(nearest(seen[-1], self.codebook.table(), self.cosine))
            summed = summed + enlarged(indices[-1], k, grids)
            sums.append(summed)
        return indices, sums, seen

    def _checked(self, latents: Array, grids: Sequence[Grid]) -> Float[Array, "b h w d"]:
        if tuple(latents.shape[1:3]) != tuple(grids[-1]):
            raise UserError(
                f"The scales end at {grids[-1][0]}x{grids[-1][1]}, and the latents are"
                f" {latents.shape[1]}x{latents.shape[2]}",
                "Let the last scale be as large as the latents",
            )
        return latents.astype(jnp.float32)


def joined(maps: Sequence[Int[Array, "b h w"]]) -> Int[Array, "b t"]:
    """The tokens of maps one after the other, see `split_scales`."""
    return jnp.concatenate([x.reshape(x.shape[0], -1) for x in maps], axis=1)


def _flat(maps: Sequence[Int[Array, "b h w"]]) -> Int[Array, " n"]:
    return jnp.concatenate([x.reshape(-1) for x in maps])
