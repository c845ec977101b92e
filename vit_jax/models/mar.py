"""MAR: Li et al., "Autoregressive image generation without vector quantization" (arXiv:2406.11838).

A masked autoencoder over continuous tokens, section 3.4: the encoder sees the tokens that are known, in whatever order
they came, the decoder all places; what it says of a place is the condition of a small diffusion model of the token
there. Sampling begins with nothing and fills in some places at a time.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from vit_jax.errors import UserError
from vit_jax.nn.diffusion_head import DiffusionHead, HeadSteps
from vit_jax.nn.flops import block_flops, product_flops
from vit_jax.nn.image_tokenizer import Grid
from vit_jax.nn.masked_decoding import open_counts
from vit_jax.nn.norm import LayerNorm
from vit_jax.nn.stack import BlockStack
from vit_jax.nn.style import EXECUTION_KEYS, STYLE_KEYS, BlockStyle, Execution, block_style, execution_of
from vit_jax.ranges import Count, Decay, Natural
from vit_jax.spelling import nearest

# Passes are compiled in so many stages, each with room for the tokens that are known at its end, where there are enough
# of them for each: by the end the encoder has four times as much to read as at the beginning.
_STAGES, _OF_A_STAGE = 4, 16


@dataclasses.dataclass(frozen=True)
class Variant:
    """A published size: encoder and decoder are alike, with MLPs four times as wide."""

    width: int
    depth: int
    num_heads: int
    head_width: int
    head_depth: int


# Table 1 of the authors' page of code, with the heads of the published files.
VARIANTS = {
    "b": Variant(768, 12, 12, 1024, 6),
    "l": Variant(1024, 16, 16, 1280, 8),
    "h": Variant(1280, 20, 16, 1536, 12),
}


class MAR(nn.Module):
    """What stands at each place of an image, given a class and the tokens that are known.

    Parameters, float32: `input` with kernel [C p^2, D] and `norm_input`; `classes` [K, D], where there are any, and
    `null` [D], which stands for none; `encoder_positions` [buffer + N, D], `encoder_blocks`, `encoder_norm`;
    `decoder_input`, `mask_token` [D], `decoder_positions` [buffer + N, D], `decoder_blocks`, `decoder_norm`;
    `head_positions` [N, D]; and `head`, see `DiffusionHead`.

    Attributes:
        grid: rows and columns of the latents.
        channels: C of the latents.
        width: D.
        depth: blocks of the encoder, and of the decoder.
        style: of a block.
        head: see `DiffusionHead`.
        num_classes: K; label K stands for no class.
        patch_size: p: a token is p x p places of the latents.
        buffer: so many tokens stand for the class before the image.
        mask_ratio_min: in training at least so much of an image is masked.
        execution: how blocks are run.
    """

    grid: Grid
    channels: int
    width: int
    depth: int
    style: BlockStyle
    head: DiffusionHead
    num_classes: int
    patch_size: int = 1
    buffer: int = 64
    mask_ratio_min: float = 0.7
    execution: Execution = Execution()

    def setup(self):
        dtype, epsilon = self.execution.dtype, self.style.norm_epsilon
        init = nn.initializers.normal(0.02)

        def stack() -> BlockStack:
            return BlockStack((self.style,), self.depth, execution=self.execution)

        self.input = nn.Dense(self.width, dtype=dtype)
        self.norm_input = LayerNorm(1e-6, dtype)
        if self.num_classes:
            self.classes = self.param("classes", init, (self.num_classes, self.width))
        self.null = self.param("null", init, (self.width,))
        self.encoder_positions = self.param("encoder_positions", init, (self.buffer + self.tokens, self.width))
        self.encoder_blocks, self.encoder_norm = stack(), LayerNorm(epsilon, dtype)
        self.decoder_input = nn.Dense(self.width, dtype=dtype)
        self.mask_token = self.param("mask_token", init, (self.width,))
        self.decoder_positions = self.param("decoder_positions", init, (self.buffer + self.tokens, self.width))
        self.decoder_blocks, self.decoder_norm = stack(), LayerNorm(epsilon, dtype)
        self.head_positions = self.param("head_positions", init, (self.tokens, self.width))

    @property
    def tokens(self) -> int:
        """N, of an image."""
        return self.grid[0] * self.grid[1] // self.patch_size**2

    @property
    def token_width(self) -> int:
        """Values of a token."""
        return self.channels * self.patch_size**2

    @property
    def least_masked(self) -> int:
        """How many tokens are masked at least in training."""
        return math.ceil(self.tokens * self.mask_ratio_min)

    def __call__(
        self, tokens: Float[Array, "b n c"], order: Int[Array, "b n"], masked: Int[Array, " b"],
        labels: Int[Array, " b"], *, train: bool = False, least: int | None = None,
    ) -> Float[Array, "b n d"]:  # fmt: skip
        """The conditions of all tokens, in the order of the image.

        Args:
            tokens: see `patchify`; what stands at masked places is not looked at.
            order: for each image a permutation of its places.
            masked: the first so many of them are masked.
            labels: of the classes; K for none.
            least: what `masked` is at least, which is not computed for; None for that in training.
        """
        least = self.least_masked if least is None else least
        z = self.decode(self.encode(tokens, order, masked, labels, least, train), order, masked, least, train)
        if self.is_initializing():
            self.head(tokens[:, 0], jnp.zeros(len(tokens), jnp.int32), z[:, 0])
        return z

    def encode(
        self, tokens: Float[Array, "b n c"], order: Int[Array, "b n"], masked: Int[Array, " b"],
        labels: Int[Array, " b"], least: int, train: bool,
    ) -> Float[Array, "b s d"]:  # fmt: skip
        """The buffer, and the places `order[:, least:]`, of which those that are masked are seen by nobody."""
        dtype = self.execution.dtype
        table = self.null[None]
        if self.num_classes:
            table = jnp.concatenate([self.classes, table])
        known = jnp.take_along_axis(self.input(tokens.astype(dtype)), order[:, least:, None], axis=1)
        places = self.encoder_positions.astype(dtype)
        of_class = jnp.take(table, labels, axis=0).astype(dtype)
        x = jnp.concatenate(
            [of_class[:, None] + places[None, : self.buffer], known + places[self.buffer :][order[:, least:]]], axis=1
        )
        x = self.norm_input(x)
        seen = jnp.arange(least, self.tokens) >= masked[:, None]
        seen = jnp.concatenate([jnp.ones((len(seen), self.buffer), bool), seen], axis=1)
        x, _ = self.encoder_blocks(x, train=train, mask=seen[:, None, None])
        return self.encoder_norm(x)

    def decode(
        self,
        encoded: Float[Array, "b s d"],
        order: Int[Array, "b n"],
        masked: Int[Array, " b"],
        least: int,
        train: bool,
    ) -> Float[Array, "b n d"]:
        """What the decoder says of each place, in the order of the image."""
        dtype = self.execution.dtype
        x = self.decoder_input(encoded)
        # Where in the order each place is; the encoder has what comes from `least` on.
        rank = jnp.argsort(order, axis=1)
        there = jnp.take_along_axis(x[:, self.buffer :], jnp.maximum(rank - least, 0)[..., None], axis=1)
        there = jnp.where((rank < masked[:, None])[..., None], self.mask_token.astype(dtype), there)
        x = jnp.concatenate([x[:, : self.buffer], there], axis=1) + self.decoder_positions.astype(dtype)
        x, _ = self.decoder_blocks(x, train=train)
        return self.decoder_norm(x)[:, self.buffer :] + self.head_positions.astype(dtype)

    def example_inputs(self, image_size: Grid | None) -> tuple[Array, ...]:
        """See `vit_jax.nn.example_inputs`."""
        del image_size
        order = jnp.arange(self.tokens)[None]
        return jnp.zeros((1, self.tokens, self.token_width)), order, jnp.full(1, self.tokens), jnp.zeros(1, jnp.int32)

    def patchify(self, latents: Float[Array, "b h w c"]) -> Float[Array, "b n cpp"]:
        """Latents as tokens; within one the channel is the slowest index."""
        (rows, columns), p = self.grid, self.patch_size
        x = latents.reshape(-1, rows // p, p, columns // p, p, self.channels)
        return x.transpose(0, 1, 3, 5, 2, 4).reshape(-1, self.tokens, self.token_width)

    def unpatchify(self, tokens: Float[Array, "b n cpp"]) -> Float[Array, "b h w c"]:
        """The inverse."""
        (rows, columns), p = self.grid, self.patch_size
        x = tokens.reshape(-1, rows // p, columns // p, self.channels, p, p)
        return x.transpose(0, 1, 4, 2, 5, 3).reshape(-1, rows, columns, self.channels)

    def losses(self, z: Array, tokens: Array, key: Array, repeats: int) -> tuple[Array, Array]:
        """See `DiffusionHead.losses`."""
        return self.head.losses(z, tokens, key, repeats)

    def flops(self, known: int, heads: int) -> float:
        """Of one pass, with so many tokens in the encoder and so many evaluations of the head."""
        width, hidden = self.width, self.style.mlp_dim
        everywhere = self.buffer + self.tokens
        trunk = self.depth * (
            block_flops(self.buffer + known, width, hidden) + block_flops(everywhere, width, hidden)
        )  # fmt: skip
        ends = product_flops(known, self.token_width, width) + product_flops(self.buffer + known, width, width)
        return trunk + ends + heads * self.head.flops()


@dataclasses.dataclass(frozen=True)
class Passes:
    """How an image is filled in.

    Args:
        count: of the passes through the Transformer.
        guidance: u + g (c - u) of the predicted noise, 1 for none.
        schedule: "linear" begins near 1 and ends near the guidance, in proportion to the tokens that are known (after
            Muse, arXiv:2301.00704); "constant" is always the guidance.
        head_steps: of the diffusion of each token.
        temperature: of its noise.
    """

    count: int = 256
    guidance: float = 1.0
    schedule: Literal["linear", "constant"] = "linear"
    head_steps: int = 100
    temperature: float = 1.0


def masked_counts(tokens: int, passes: int) -> Int[np.ndarray, " passes+1"]:
    """How many tokens are masked before each pass, and 0 after the last, as MaskGIT's, see `open_counts`."""
    return np.array([tokens, *open_counts(tokens, passes)], np.int32)


def fill_in(
    model: MAR,
    variables: PyTree,
    labels: Int[Array, " b"],
    order: Int[Array, "b n"],
    first: Callable[[Int[Array, ""]], Float[Array, "b p c"]],
    noise: Callable[[Int[Array, ""], Int[Array, ""]], Float[Array, "b p c"]],
    how: Passes,
    timesteps: Int[np.ndarray, " s"] | None = None,
) -> Float[Array, "b h w c"]:
    """Latents of the classes, the last places of `order` first; all passes as a scan, many of them as a few.

    Args:
        variables: as `model.apply` takes them.
        labels: K for no class; then there is nothing to guide by.
        order: for each image a permutation of its places.
        first: the noise of pass i from which its tokens are made, P of an image: as many as the pass with the most has.
            The p-th is that of place `order[:, masked after the pass + p]`.
        noise: that of step n of the head in pass i.
        how: see `Passes`.
        timesteps: of the head, see `DiffusionHead.sample`.
    """
    rows, places = order.shape
    masked = masked_counts(places, how.count)
    most = int(-np.diff(masked).min())
    # The authors' count of masked tokens is 1 at least, also after the last pass.
    known = (places - np.maximum(masked[1:], 1)) / places
    scales = 1 + (how.guidance - 1) * known if how.schedule == "linear" else np.full(how.count, how.guidance)
    guided = how.guidance != 1.0

    def twice(x: Array) -> Array:
        return jnp.concatenate([x, x]) if guided else x

    both = jnp.concatenate([labels, jnp.full_like(labels, model.num_classes)]) if guided else labels

    def one_pass(least: int, tokens: Float[Array, "b n c"], now: tuple[Array, ...]) -> tuple[Array, None]:
        i, before, after, scale = now
        counts = jnp.full(len(both), before)
        z = model.apply(variables, twice(tokens), twice(order), counts, both, least=least)
        slots = after + jnp.arange(most)
        chosen = jnp.take(order, slots, axis=1, mode="clip")
        z = jnp.take_along_axis(z, twice(chosen)[..., None], axis=1).reshape(-1, z.shape[-1])

        def flat(x: Float[Array, "b p c"]) -> Float[Array, "bp c"]:
            return x.reshape(rows * most, -1)

        steps = HeadSteps(how.head_steps, scale, how.temperature)
        drawn = model.apply(
            variables, z[: rows * most], flat(first(i)), lambda n: flat(noise(i, n)), steps,
            unconditional=z[rows * most :] if guided else None, timesteps=timesteps,
            method=lambda model, *args, **kwargs: model.head.sample(*args, **kwargs),
        )  # fmt: skip
        # What is known already stays: a place beyond the image is written nowhere.
        where = jnp.where(slots < before, chosen, places)
        return tokens.at[jnp.arange(rows)[:, None], where].set(drawn.reshape(rows, most, -1), mode="drop"), None

    passes = np.arange(how.count), masked[:-1], masked[1:], np.float32(scales)
    tokens = jnp.zeros((rows, places, model.token_width))
    for stage in np.array_split(np.arange(how.count), max(1, min(_STAGES, how.count // _OF_A_STAGE))):
        turn = functools.partial(one_pass, int(masked[stage[-1]]))
        tokens, _ = jax.lax.scan(turn, tokens, jax.tree.map(operator.itemgetter(stage), passes))
    return model.unpatchify(tokens)


KEYS = (*STYLE_KEYS, *EXECUTION_KEYS)


def build(
    variant: str = "b",
    *,
    grid: tuple[Count, Count],
    channels: Count,
    num_classes: Natural,
    width: Count | None = None,
    depth: Natural | None = None,
    head_width: Count | None = None,
    head_depth: Natural | None = None,
    patch_size: Count = 1,
    buffer: Count = 64,
    mask_ratio_min: Decay = 0.7,
    dtype: Literal["float32", "bfloat16"] = "float32",
    **style: Any,
) -> MAR:
    """A model of a published size, or what is said of it instead.

    Args:
        variant: see `VARIANTS`.
        grid: of the latents, like `channels`.
        num_classes: see `MAR`, like `patch_size`, `buffer` and `mask_ratio_min`.
        width, depth: of encoder and decoder.
        head_width, head_depth: of the diffusion head.
        dtype: compute dtype by name; parameters are float32.
        style: `num_heads`, `mlp_dim`, `dropout_rate` and the other keys of a block and of how it is run.

    Raises:
        UserError: for an unknown variant, or a grid that patches do not divide.
    """
    if variant not in VARIANTS:
        raise UserError(f"There is no MAR named {variant!r}", nearest(variant, VARIANTS))
    if any(side % patch_size for side in grid):
        raise UserError(
            f"Patches of {patch_size} do not divide latents of {grid[0]}x{grid[1]}",
            "Change patch_size or the image size",
        )
    size = VARIANTS[variant]
    width = width or size.width
    execution = execution_of(style, dtype)
    defaults: Mapping[str, Any] = {
        "num_heads": size.num_heads, "mlp_dim": 4 * width, "norm_epsilon": 1e-6, "activation": "gelu_exact",
    }  # fmt: skip
    own = {name: value for name, value in style.items() if name not in EXECUTION_KEYS}
    head = DiffusionHead(
        channels * patch_size**2,
        head_width or size.head_width,
        size.head_depth if head_depth is None else head_depth,
        dtype=execution.dtype,
        parent=None,
    )
    return MAR(
        tuple(grid), channels, width, size.depth if depth is None else depth, block_style({**defaults, **own}), head,
        num_classes, patch_size, buffer, mask_ratio_min, execution,
    )  # fmt: skip
