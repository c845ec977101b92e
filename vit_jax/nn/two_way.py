"""A small Transformer in which tokens and the places of a map attend to each other in turn ("Segment anything",
arXiv:2304.02643, appendix A, "Lightweight mask decoder")."""

import dataclasses

import flax.linen as nn
from jaxtyping import Array, Bool, Float

from vit_jax.nn.block import mlp_of
from vit_jax.nn.multi_head import MultiHeadAttention
from vit_jax.nn.norm import LayerNorm
from vit_jax.nn.style import BlockStyle, Execution

Tokens = Float[Array, "b t width"]
Places = Float[Array, "b p width"]


class TwoWayBlock(nn.Module):
    """Tokens among each other, tokens to places, an MLP of the tokens, places to tokens; a norm behind each of them.

    Queries and keys have their positions added, values have none. The first block of a Transformer has none among the
    tokens either, and nothing beside that attention: its result replaces the tokens.

    Parameters, float32: `attention`, `norm1`, `to_places`, `norm2`, `mlp`, `norm3`, `to_tokens`, `norm4`.

    Attributes:
        style: heads, MLP, epsilon; heads of the attention between tokens and places are `cross_head_dim` wide.
        execution: how it runs.
        is_first: whether it is the first one.
    """

    style: BlockStyle
    execution: Execution = Execution()
    is_first: bool = False

    @nn.compact
    def __call__(
        self, tokens: Tokens, places: Places, token_positions: Tokens, place_positions: Float[Array, "#b p width"],
        mask: Bool[Array, "b 1 1 t"], train: bool = False,
    ) -> tuple[Tokens, Places]:  # fmt: skip
        """Both after the block.

        Args:
            mask: which tokens are seen.
        """

        def norm(i: int, x: Array) -> Array:
            return LayerNorm(self.style.norm_epsilon, self.execution.dtype, name=f"norm{i}")(x)

        attention = MultiHeadAttention(self.style, self.execution, name="attention")
        if self.is_first:
            tokens = attention(tokens, train=train, mask=mask)[0]
        else:
            tokens = tokens + attention(tokens + token_positions, train=train, values=tokens, mask=mask)[0]
        tokens = norm(1, tokens)
        placed = places + place_positions
        to_places = MultiHeadAttention(between(self.style), self.execution, name="to_places")
        tokens = tokens + to_places(tokens + token_positions, placed, train=train, values=places)[0]
        tokens = norm(2, tokens)
        tokens = norm(3, tokens + mlp_of(self.style, self.execution, "mlp")(tokens, train=train))
        to_tokens = MultiHeadAttention(between(self.style), self.execution, name="to_tokens")
        seen = to_tokens(placed, tokens + token_positions, train=train, values=tokens, mask=mask)[0]
        return tokens, norm(4, places + seen)


class TwoWayTransformer(nn.Module):
    """Two-way blocks, and one more attention of the tokens to the places.

    Parameters, float32: `block_0`, `block_1`, ..., `to_places`, `norm`.

    Attributes: see `TwoWayBlock`.
        depth: number of blocks.
        last_epsilon: of the last norm; None for that of the others.
    """

    style: BlockStyle
    depth: int = 2
    execution: Execution = Execution()
    last_epsilon: float | None = None

    @nn.compact
    def __call__(
        self, tokens: Tokens, places: Places, place_positions: Float[Array, "#b p width"], mask: Bool[Array, "b 1 1 t"],
        *, train: bool = False,
    ) -> tuple[Tokens, Places]:  # fmt: skip
        """Both after all blocks. The positions of tokens are what they are at first."""
        positions = tokens
        for i in range(self.depth):
            block = TwoWayBlock(self.style, self.execution, i == 0, name=f"block_{i}")
            tokens, places = block(tokens, places, positions, place_positions, mask, train)
        last = MultiHeadAttention(between(self.style), self.execution, name="to_places")
        tokens = tokens + last(tokens + positions, places + place_positions, train=train, values=places)[0]
        epsilon = self.style.norm_epsilon if self.last_epsilon is None else self.last_epsilon
        return LayerNorm(epsilon, self.execution.dtype, name="norm")(tokens), places


def between(style: BlockStyle) -> BlockStyle:
    """The style of the attention between tokens and places."""
    return dataclasses.replace(style, head_dim=style.cross_head_dim)
