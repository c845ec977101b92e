"""PixelRNN: row LSTM and diagonal BiLSTM ("Pixel recurrent neural networks", van den Oord et al., arXiv:1601.06759)."""

from collections.abc import Sequence
from typing import Annotated, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float

from vit_jax.models.pixelcnn import PixelModel
from vit_jax.nn.conv import Conv
from vit_jax.nn.dtype import compute_dtype
from vit_jax.nn.flops import product_flops
from vit_jax.nn.masked_conv import MaskedConv
from vit_jax.ranges import Count, Natural, Range


class PixelRNN(PixelModel):
    """Layers of LSTMs beside shortcuts, after a convolution by mask A (sections 3.1 to 3.3).

    A row LSTM goes down the rows; its state comes from three neighbours in the row above, so that it sees a triangle of
    what comes before. A diagonal BiLSTM goes along the diagonals from both sides and sees all of it. What comes from
    the right is shifted down by a row, since it has seen the pixel at its right.

    Parameters: `first`, `given`, of a layer `layer_00/input` (by mask B) and `layer_00/state`, of the diagonal one from
    the right `layer_00_right/...`, and `back_00` (1x1); then `mixed`, `logits`, and `classes`.

    Attributes:
        direction: "row" or "diagonal".
    """

    direction: str = "diagonal"

    def features(self, x: Array, given: Array | None) -> Array:
        half = max(self.width // 2, self.colours)
        x = self._masked(self.width, (self.first_size, self.first_size), itself=False, name="first")(x)
        if given is not None:
            x = x + Conv(self.width, 1, use_bias=False, dtype=self.dtype, name="given")(given)
        for i in range(self.depth):
            name = f"layer_{i:02d}"
            if self.direction == "row":
                found = RowLSTM(half, self.colours, self.dtype, name=name)(x)
            else:
                found = DiagonalLSTM(half, self.colours, self.dtype, name=name)(x)
                right = DiagonalLSTM(half, self.colours, self.dtype, name=f"{name}_right")(x[:, :, ::-1])[:, :, ::-1]
                found = found + jnp.pad(right[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0)))
            x = x + self._masked(self.width, (1, 1), name=f"back_{i:02d}")(found)
        return x

    def _features_flops(self) -> float:
        half = self.width // 2
        of_input, of_state = ((3, 3), (1, 2))[self.direction == "diagonal"]
        gates = product_flops(1, of_input * self.width + of_state * half, 4 * half)
        layer = (1 + (self.direction == "diagonal")) * gates + product_flops(1, half, self.width)
        return product_flops(1, self.first_size**2 * self.colours, self.width) + self.depth * layer


class CausalLSTM(nn.Module):
    """A step of an LSTM for each row or diagonal of a map, whose states come from neighbours in the step before; with
    gates for output, forgetting, input and content (equation 3).

    Parameters: `input`, a convolution of the map by mask B, and `state` [neighbours, width, 4 width], float32.

    Attributes:
        width: channels of the state.
        colours: of the image.
        dtype: of the computation; states are float32.
    """

    width: int
    colours: int
    dtype: DTypeLike = jnp.float32

    def inputs(self, x: Float[Array, "b h w c"], kernel: tuple[int, int]) -> Float[Array, "b h w four"]:
        """What the map says to each gate."""
        return MaskedConv(4 * self.width, kernel, self.colours, parts=4, dtype=self.dtype, name="input")(x)

    def states(
        self, inputs: Float[Array, "steps b n four"], neighbours: Sequence[int], inside: Array | None = None
    ) -> Float[Array, "steps b n s"]:
        """The hidden states.

        Args:
            neighbours: where in the step before the states are that each place hears, relative to it.
            inside: [steps, n], where there is a pixel: elsewhere there is nothing to remember.
        """
        kernel = self.param(
            "state", nn.initializers.lecun_normal(in_axis=(0, 1)), (len(neighbours), self.width, 4 * self.width)
        )
        around = max(map(abs, neighbours))
        count = inputs.shape[2]

        def step(carry: tuple[Array, Array], at: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
            hidden, cell = carry
            gates, there = at
            padded = jnp.pad(hidden, ((0, 0), (around, around), (0, 0))).astype(self.dtype)
            heard = (padded[:, around + offset : around + offset + count] for offset in neighbours)
            gates = gates + sum(view @ matrix for view, matrix in zip(heard, kernel.astype(self.dtype), strict=True))
            out, keep, enter, content = jnp.split(gates.astype(jnp.float32), 4, axis=-1)
            cell = jax.nn.sigmoid(keep) * cell + jax.nn.sigmoid(enter) * jnp.tanh(content)
            cell = jnp.where(there[:, None], cell, 0)
            hidden = jax.nn.sigmoid(out) * jnp.tanh(cell)
            return (hidden, cell), hidden

        nothing = jnp.zeros((*inputs.shape[1:3], self.width))
        inside = jnp.ones(inputs.shape[::2][:2], bool) if inside is None else jnp.asarray(inside)
        return jax.lax.scan(step, (nothing, nothing), (inputs, inside))[1].astype(self.dtype)


class RowLSTM(CausalLSTM):
    """Down the rows: a state comes from the three nearest ones in the row above (section 3.1)."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w s"]:
        found = self.states(jnp.moveaxis(self.inputs(x, (1, 3)), 1, 0), (-1, 0, 1))
        return jnp.moveaxis(found, 0, 1)


class DiagonalLSTM(CausalLSTM):
    """Along the diagonals from the left: a state comes from those of the pixels at the left and above (section 3.2).
    The map is skewed so that diagonals are columns."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w s"]:
        height, width = x.shape[1:3]
        row, column = np.mgrid[:height, : height + width - 1]
        place = column - row
        inside = (place >= 0) & (place < width)
        skewed = self.inputs(x, (1, 1))[:, row, np.clip(place, 0, width - 1)]
        found = self.states(jnp.moveaxis(skewed, 2, 0), (-1, 0), inside.T)
        row, column = np.mgrid[:height, :width]
        return jnp.moveaxis(found, 0, 2)[:, row, row + column]


def build(
    *,
    levels: Annotated[int, Range(2, 256)] = 256,
    colours: Literal[1, 3] = 3,
    num_conditions: Natural = 0,
    direction: Literal["row", "diagonal"] = "diagonal",
    width: Count = 256,
    depth: Count = 12,
    first_size: Literal[3, 5, 7] = 7,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> PixelRNN:
    """A PixelRNN from values that JSON can hold.

    Args:
        levels: see `PixelModel`, like `colours`, `num_conditions`, `width` (twice that of an LSTM's state), `depth` and
            `first_size`.
        direction: see `PixelRNN`.
        dtype: compute dtype by name; parameters and logits are always float32.
    """
    values = (levels, colours, num_conditions, width, depth, first_size, compute_dtype(dtype))
    return PixelRNN(*values, direction=direction)
