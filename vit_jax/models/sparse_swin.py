"""SparseViT: a Swin that computes only those windows in which something is (arXiv:2303.17605).

It has the parameters of a Swin. Which of a stage's windows are computed is decided before the first block that leaves
some out, see `vit_jax.nn.pruning`; what is left out goes on to the next stage as it is.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vit_jax.models.swin import Swin, SwinEncoder, SwinStage, stage_name
from vit_jax.nn.flops import product_flops, window_mixing_flops
from vit_jax.nn.pruned_block import PrunedBlock
from vit_jax.nn.pruning import Ratios, best_first, check_kept, checked_ratios, kept_count, magnitudes, pairs_of
from vit_jax.nn.stack import BlockStack
from vit_jax.nn.style import check_choice
from vit_jax.nn.trunk import Maps

Scores = Literal["norm", "random"]
Orders = tuple[Int[Array, "b n"], Int[Array, "b n"]]  # of the plain windows and of the shifted ones

# Arguments of `build` that may be others for the same parameters.
AFTER_TRAINING = ("pruning_ratios", "scores")


class SparseStage(SwinStage):
    """A stage of Swin whose pairs of blocks, a plain one and a shifted one, leave out some of their windows.

    Attributes beside those of `SwinStage`:
        ratios: of each pair the share that is left out.
        scores: what a window is worth: "norm" (the paper), or "random", which is there to be compared with.
    """

    block: Callable[..., nn.Module] = PrunedBlock
    ratios: tuple[float, ...] = ()
    scores: Scores = "norm"

    def setup(self):
        # Pairs that leave out as many are one stack; with ratios that are traced each is a stack of its own.
        sizes = [len(list(same)) for _, same in itertools.groupby(self.ratios)]
        self.parts = self._stacks(sizes)
        self.pairs = self._stacks([1] * len(self.ratios))
        for stack in (*self.parts, *self.pairs):
            nn.share_scope(self, stack)

    def run(
        self,
        x: Float[Array, "b t width"],
        grid: tuple[int, int],
        *,
        train: bool,
        ratios: Float[Array, " p"] | None = None,
    ) -> Float[Array, "b t width"]:
        """Applies the blocks.

        Args:
            ratios: instead of the attribute, traced.
        """
        traced = ratios is not None
        stacks = self.pairs if traced else self.parts
        given = list(ratios) if traced else [ratio for ratio, _ in itertools.groupby(self.ratios)]
        orders: Orders | None = None
        for stack, before, ratio in zip(stacks, [0.0, *given], given, strict=False):
            # Decided in front of the first blocks that leave some out, for all that come after them.
            if traced and orders is not None:
                orders = jax.tree.map(functools.partial(jnp.where, before > 0), orders, self._orders(x, grid))
            elif orders is None and (traced or ratio > 0):
                orders = self._orders(x, grid)
            x, _ = stack(x, train=train, grid=grid, orders=orders, ratio=ratio)
        if orders is not None:
            self.sow("intermediates", "orders", orders)
        return x

    def _stacks(self, sizes: Sequence[int]) -> list[BlockStack]:
        """So many pairs in each, one stack after the other."""
        stacks, first = [], 0
        for size in sizes:
            depth = min(2 * size, self.depth - first)
            rates = self.drop_path_rates[first : first + depth]
            stacks.append(BlockStack(self.styles, depth, rates, self.execution, self.block, first))
            first += depth
        return stacks

    def _orders(self, x: Float[Array, "b t width"], grid: tuple[int, int]) -> Orders:
        if self.scores == "random":
            worth = jax.random.uniform(jax.random.key(0), (x.shape[0], math.prod(grid)))
        else:
            worth = magnitudes(x)
        windows = [style.windows(grid) for style in self.styles]
        split = [each.split(worth[..., None]).reshape(-1, each.count, each.tokens) for each in windows]
        return best_first(split[0]), best_first(split[1])


class SparseSwinEncoder(SwinEncoder):
    """The trunk `params["encoder"]`: that of a Swin, with stages that leave windows out.

    Attributes beside those of `SwinEncoder`:
        pruning_ratios: of each stage those of its pairs of blocks.
        scores: see `SparseStage`.
    """

    pruning_ratios: Ratios = ()
    scores: Scores = "norm"

    def encode(
        self,
        images: Float[Array, "b h w c"],
        *,
        train: bool = False,
        ratios: tuple[Float[Array, " p"], ...] | None = None,
    ) -> tuple[Float[Array, "b t d"], Maps]:
        """See `SwinEncoder`.

        Args:
            ratios: instead of `pruning_ratios`, traced: all windows are computed and those that are kept are chosen.

        Raises:
            UserError: also where the ratios leave nothing of a stage.
        """
        if ratios is None:
            for i, (windows, own) in enumerate(zip(self.windows(images.shape[1:3]), self.pruning_ratios, strict=True)):
                check_kept(i, windows, own)
        return super().encode(images, train=train, ratios=ratios)

    def stage_of(self, i: int, rates: tuple[float, ...]) -> nn.Module:
        return SparseStage(
            self.styles[i], self.depths[i], rates, i > 0, self.execution,
            ratios=self.pruning_ratios[i], scores=self.scores, name=stage_name(i),
        )  # fmt: skip

    def windows(self, image_size: Sequence[int]) -> list[int]:
        """How many each stage has."""
        return [style.windows(grid).count for style, grid in zip(self.styles, self.grids(image_size), strict=True)]

    def flops(self, image_size: tuple[int, int]) -> float:
        """See `SwinEncoder`: without the windows that are left out."""
        total = super().flops(image_size)
        stages = zip(self.styles, self.grids(image_size), self.depths, self.pruning_ratios, strict=True)
        for i, (style, grid, depth, ratios) in enumerate(stages):
            width, windows = self.width * 2**i, style.windows(grid)
            within = product_flops(windows.tokens, width, 4 * width) + window_mixing_flops(1, windows.size, width)
            mlp = 2 * product_flops(1, width, style.mlp_dim)
            for pair, ratio in enumerate(ratios):
                if ratio:
                    kept, blocks = kept_count(windows.count, ratio), min(2, depth - 2 * pair)
                    # The MLP of windows runs over what these were filled up with too.
                    total -= blocks * ((windows.count - kept) * within + math.prod(grid) * mlp)
                    total += blocks * kept * windows.tokens * mlp
        return total


class SparseSwin(Swin):
    """An image classifier: a sparse Swin encoder, the mean of its last normalised map, and a linear head."""

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "b h w c"],
        ratios: tuple[Float[Array, " p"], ...] | None = None,
        *,
        train: bool = False,
        maps: bool = False,
    ) -> dict[str, Array | Maps]:
        """See `Classifier`.

        Args:
            ratios: see `SparseSwinEncoder.encode`.
        """
        tokens, found = self.encoder.encode(images, train=train, ratios=ratios)
        return {"tokens": tokens, **self.classified(tokens)} | ({"maps": found} if maps else {})

    @classmethod
    def from_variant(
        cls,
        variant: str = "T",
        *,
        pruning_ratios: Sequence[Sequence[float]] | str | None = None,
        scores: Scores = "norm",
        **swin: Any,
    ) -> Self:
        """A SparseViT of a size of Swin's, from values that JSON can hold.

        Args:
            variant: see `vit_jax.models.swin.Swin.from_variant`, like all others.
            pruning_ratios: of each stage one for each pair of blocks, such as ((0.7,), (0,), (0.2, 0.4, 0.5), (0,)); or
                "cfg1", "cfg2", "cfg3", the authors' of a variant T. None leaves nothing out.
            scores: see `SparseStage`.

        Raises:
            UserError: also for ratios that are not those of its stages.
        """
        check_choice("scores", scores, get_args(Scores))
        of_swin = Swin.from_variant(variant, **swin)
        dense = of_swin.encoder
        if pruning_ratios is None:
            pruning_ratios = [[0.0] * pairs_of(depth) for depth in dense.depths]
        values = {f.name: getattr(dense, f.name) for f in dataclasses.fields(dense) if f.name not in ("parent", "name")}
        ratios = checked_ratios(pruning_ratios, dense.depths)
        encoder = SparseSwinEncoder(**values, pruning_ratios=ratios, scores=scores, parent=None)
        return cls(encoder=encoder, num_classes=of_swin.num_classes, head_bias_init=of_swin.head_bias_init)


# What a config's model section calls, and what a checkpoint's metadata holds the arguments of.
build = SparseSwin.from_variant
