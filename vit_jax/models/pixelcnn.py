"""PixelCNN and gated PixelCNN: every colour of every pixel as a class that what comes before it says something of
("Pixel recurrent neural networks", arXiv:1601.06759; "Conditional image generation with PixelCNN decoders",
arXiv:1606.05328)."""

from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int

from vit_jax.nn.conv import Conv
from vit_jax.nn.dtype import compute_dtype
from vit_jax.nn.flops import product_flops
from vit_jax.nn.masked_conv import MaskedConv, RowsAbove
from vit_jax.ranges import Count, Natural, Range


class PixelModel(nn.Module):
    """Images of whole numbers, row by row, pixel by pixel, and colour by colour.

    Attributes:
        levels: different values of a colour of a pixel.
        colours: of a pixel.
        num_conditions: classes that images are generated of; 0 for a model that gets none.
        width: channels of a map, the features of all colours.
        depth: number of layers.
        first_size: side of the first filter.
        dtype: of the computation; what comes out is float32.
    """

    levels: int
    colours: int
    num_conditions: int = 0
    width: int = 128
    depth: int = 15
    first_size: int = 7
    dtype: DTypeLike = jnp.float32

    def features(self, x: Float[Array, "b h w c"], given: Float[Array, "b #h #w g"] | None) -> Float[Array, "b h w f"]:
        """Maps of which a place's features of a colour see nothing that comes after it, nor the colour itself.

        Args:
            x: values in -1..1.
            given: what is known of each place of the image beforehand.
        """
        raise NotImplementedError

    @nn.compact
    def __call__(
        self,
        x: Int[Array, "b h w c"] | Float[Array, "b h w c"],
        label: Int[Array, " b"] | None = None,
        maps: Float[Array, "b h w m"] | None = None,
    ) -> Float[Array, "b h w c levels"]:
        """Logits of the levels of each colour of each pixel, each after what comes before it.

        Args:
            x: levels; floats are taken as values in -1..1.
            label: class of each image, below `num_conditions`.
            maps: anything else that is known of each place beforehand, such as what is decoded.
        """
        if jnp.issubdtype(x.dtype, jnp.integer):
            x = 2 * x.astype(jnp.float32) / max(self.levels - 1, 1) - 1
        given = [] if maps is None else [maps.astype(self.dtype)]
        if self.num_conditions and label is not None:
            named = nn.Embed(self.num_conditions, self.width, dtype=self.dtype, name="classes")(label)[:, None, None]
            given.append(jnp.broadcast_to(named, (*x.shape[:3], self.width)) if given else named)
        found = nn.relu(self.features(x.astype(self.dtype), jnp.concatenate(given, -1) if given else None))
        found = nn.relu(self._masked(self.width, (1, 1), name="mixed")(found))
        logits = self._masked(self.colours * self.levels, (1, 1), name="logits")(found)
        return logits.reshape(*logits.shape[:3], self.colours, self.levels).astype(jnp.float32)

    def flops(self, image_size: tuple[int, int]) -> float:
        """Those of all products, with what masks hide."""
        last = product_flops(1, self.width, self.width + self.colours * self.levels)
        return image_size[0] * image_size[1] * (last + self._features_flops())

    def _features_flops(self) -> float:
        """Of a pixel."""
        raise NotImplementedError

    def _masked(self, width: int, kernel: tuple[int, int], **more: Any) -> MaskedConv:
        return MaskedConv(width, kernel, self.colours, dtype=self.dtype, **more)


class PixelCNN(PixelModel):
    """Residual blocks of a 1x1, a square and a 1x1 convolution by mask B after one by mask A (arXiv:1601.06759, figure
    5). It does not see what stands above it at its right, the blind spot.

    Parameters: `first`, `given` (without a bias, where something is given), `block_00_in`, `block_00`, `block_00_out`,
    ..., `mixed`, `logits`, and `classes`.

    Attributes:
        size: side of the filters in the blocks.
    """

    size: int = 3

    def features(self, x: Array, given: Array | None) -> Array:
        half = max(self.width // 2, self.colours)
        size = (self.first_size, self.first_size)
        x = self._masked(self.width, size, itself=False, name="first")(x)
        if given is not None:
            x = x + Conv(self.width, 1, use_bias=False, dtype=self.dtype, name="given")(given)
        for i in range(self.depth):
            y = self._masked(half, (1, 1), name=f"block_{i:02d}_in")(nn.relu(x))
            y = self._masked(half, (self.size, self.size), name=f"block_{i:02d}")(nn.relu(y))
            x = x + self._masked(self.width, (1, 1), name=f"block_{i:02d}_out")(nn.relu(y))
        return x

    def _features_flops(self) -> float:
        half = self.width // 2
        block = product_flops(1, 2 * self.width, half) + product_flops(1, self.size**2 * half, half)
        return product_flops(1, self.first_size**2 * self.colours, self.width) + self.depth * block


class GatedPixelCNN(PixelModel):
    """Two stacks: one over the rows above, one over what stands before in the row, which hears the first; each through
    tanh(a) sigmoid(b), where a class adds to a and b (arXiv:1606.05328, figure 2 and equation 4). No blind spot.

    Parameters of a layer: `layer_00/above`, `told` (from above to the row, 1x1), `row`, `back` (1x1, the residual), and
    `given_above`, `given_row`; then `mixed`, `logits`, and `classes`.

    Attributes:
        size: side of the filters after the first layer.
    """

    size: int = 3

    def features(self, x: Array, given: Array | None) -> Array:
        above = row = x
        for i in range(self.depth):
            size = self.size if i else self.first_size
            layer = GatedLayer(self.width, size, self.colours, i == 0, self.dtype, name=f"layer_{i:02d}")
            above, row = layer(above, row, given)
        return row

    def _features_flops(self) -> float:
        width, total = self.width, 0.0
        for size, inputs in ((self.first_size, self.colours), *((self.size, width),) * (self.depth - 1)):
            total += product_flops(1, (size * (size // 2 + 1) + size) * inputs, 2 * width)
            total += product_flops(1, 5 * width, width)
        return total


class GatedLayer(nn.Module):
    """One layer of both stacks, see `GatedPixelCNN`.

    Attributes:
        width: channels of each stack.
        size: side of the filters.
        colours: of the image.
        first: whether it sees the image itself.
        dtype: of the computation.
    """

    width: int
    size: int
    colours: int
    first: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, above: Float[Array, "b h w c"], row: Float[Array, "b h w c"], given: Float[Array, "b #h #w g"] | None
    ) -> tuple[Float[Array, "b h w f"], Float[Array, "b h w f"]]:
        """The next maps of the stack over the rows above, and of that over the row."""
        twice, seen = 2 * self.width, row
        high = RowsAbove(twice, self.size, not self.first, self.dtype, name="above")(above)
        flat = MaskedConv(twice, (1, self.size), self.colours, not self.first, 2, self.dtype, name="row")(row)
        flat = flat + Conv(twice, 1, dtype=self.dtype, name="told")(high)
        if given is not None:
            for_stack = {"use_bias": False, "dtype": self.dtype}
            high = high + Conv(twice, 1, **for_stack, name="given_above")(given)
            flat = flat + Conv(twice, 1, **for_stack, name="given_row")(given)
        back = MaskedConv(self.width, (1, 1), self.colours, dtype=self.dtype, name="back")(_gated(flat))
        return _gated(high), back if self.first else seen + back


def _gated(x: Float[Array, "b h w twice"]) -> Float[Array, "b h w f"]:
    values, gates = jnp.split(x, 2, axis=-1)
    return jnp.tanh(values) * jax.nn.sigmoid(gates)


KINDS: dict[str, type[PixelModel]] = {"plain": PixelCNN, "gated": GatedPixelCNN}


def build(
    *,
    levels: Annotated[int, Range(2, 256)] = 256,
    colours: Literal[1, 3] = 3,
    num_conditions: Natural = 0,
    kind: Literal["plain", "gated"] = "gated",
    width: Count = 128,
    depth: Count = 15,
    first_size: Literal[3, 5, 7] = 7,
    size: Literal[3, 5, 7] = 3,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> PixelModel:
    """A PixelCNN from values that JSON can hold.

    Args:
        levels: see `PixelModel`, like `colours`, `num_conditions`, `width`, `depth` and `first_size`.
        kind: "plain" or "gated".
        size: side of the filters after the first.
        dtype: compute dtype by name; parameters and logits are always float32.
    """
    values = (levels, colours, num_conditions, width, depth, first_size, compute_dtype(dtype))
    return KINDS[kind](*values, size=size)
