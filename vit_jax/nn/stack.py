"""Blocks one after the other, run as a loop or as a scan, with or without rematerialisation."""

import operator
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from vit_jax.errors import UserError
from vit_jax.nn.batch_axis import split_by_example
from vit_jax.nn.block import SAVED, Block
from vit_jax.nn.platform import row_major
from vit_jax.nn.style import Execution, check_rate
from vit_jax.nn.trunk import Layers

# What the backward pass finds of a block's forward pass: its input alone, or also the results of its weight matrices.
_REMAT_POLICIES = {
    "full": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "elementwise": jax.checkpoint_policies.save_only_these_names(*SAVED),
}
_RNGS = ("dropout", "drop_path")


def drop_path_rates(rate: float, depth: int) -> tuple[float, ...]:
    """Rates of stochastic depth that grow linearly from 0 in the first block to `rate` in the last."""
    return tuple(rate * i / max(depth - 1, 1) for i in range(depth))


def block_name(i: int) -> str:
    """The name of a stack's i-th block, under which its parameters are."""
    return f"block_{i:02d}"


def block_layers(depth: int) -> Layers:
    """The layers of a stack, see `vit_jax.nn.trunk.Trunk.layers`."""
    return tuple((block_name(i),) for i in range(depth))


def _placed(x: Float[Array, "b t width"]) -> Float[Array, "b t width"]:
    """What goes from block to block: each device has its examples, one after the other."""
    return row_major(split_by_example(x))


def _with_last(x: Float[Array, "b t width"], tokens: Float[Array, "n width"]) -> Float[Array, "b t width"]:
    """With these as the last tokens of every example."""
    tokens = jnp.broadcast_to(tokens.astype(x.dtype), (x.shape[0], *tokens.shape))
    return jnp.concatenate([x[:, : -tokens.shape[1]], tokens], axis=1)


class BlockStack(nn.Module):
    """`depth` blocks of one class, whose styles repeat.

    Parameters, float32: `block_00`, `block_01`, ... They are unstacked however the blocks are run.

    With the collection "hidden" mutable it holds what each block gives, `layers` [depth, B, T, D]; nobody else pays.

    Attributes:
        styles: block number i has `styles[i % len(styles)]`: one for a plain Transformer, two for Swin's shifted pairs,
            n for a model of which every n-th block attends to a memory.
        depth: number of blocks.
        drop_path_rate: stochastic depth of the last block (rng collection "drop_path"), see `drop_path_rates`; or of
            every block, where they are a part of a model.
        execution: how the blocks are run.
        block: a module class with the attributes `style` and `execution`, called as `vit_jax.nn.block.Block` is. Its
            parameters under names that start with "norm" stay float32 where others are cast to the compute dtype.
        first: number of the first block, where they are a part of a longer stack.

    Raises:
        UserError: for no style, a rate that is none, rates of another number of blocks, or a depth that the styles do
            not divide in a scan.
    """

    styles: tuple[Any, ...]
    depth: int
    drop_path_rate: float | tuple[float, ...] = 0.0
    execution: Execution = Execution()
    block: Callable[..., nn.Module] = Block
    first: int = 0

    def __post_init__(self):
        rates = self.drop_path_rate if isinstance(self.drop_path_rate, tuple) else (self.drop_path_rate,)
        for rate in rates:
            check_rate("drop_path_rate", rate)
        if rates is self.drop_path_rate and len(rates) != self.depth:
            raise UserError(f"There are {len(rates)} rates of stochastic depth for {self.depth} blocks", "Give as many")
        if not self.styles:
            raise UserError("A stack of blocks has no style", "Give it at least one")
        if self.execution.scan and self.depth % len(self.styles):
            raise UserError(
                f"{self.depth} blocks do not divide into groups of {len(self.styles)} styles, which a scan needs",
                "Set scan=False, or change the depth",
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t width"],
        cache: PyTree | None = None,
        *,
        train: bool = False,
        last: int = 0,
        between: Float[Array, "before_last #b t width"] | None = None,
        renewed: Float[Array, "depth n width"] | None = None,
        **shared: Any,
    ) -> tuple[Any, ...]:
        """Applies the blocks.

        Args:
            cache: of all blocks, layers first.
            last: so many of the last blocks are asked what each of them gives.
            between: added to what each block but the last gives, for the next one.
            renewed: tokens that each block finds in the place of its last ones, whatever the block before gave there.
            shared: further arguments of the blocks, the same for all of them.

        Returns:
            What the last block gives [B, T, D] and the new cache; with `last` also what the last ones give
            [last, B, T, D].

        Raises:
            UserError: for more of them than there are.
        """
        if last > self.depth:
            raise UserError(f"There are no {last} last blocks among {self.depth}", f"Ask for at most {self.depth}")
        # Parameters are made by the loop, one block after the other, however they are run later.
        scans = self.execution.scan and self.depth > 0 and not self.is_initializing()
        x, cache, hidden = (self._scan if scans else self._loop)(x, cache, train, last, between, renewed, shared)
        return (x, cache, hidden[-last:]) if last else (x, cache)

    def _loop(
        self,
        x: Array,
        cache: PyTree | None,
        train: bool,
        last: int,
        between: Array | None,
        renewed: Array | None,
        shared: dict[str, Any],
    ) -> tuple[Array, PyTree | None, Array | None]:
        caches, hidden, shown = [], [], self._shows_hidden()
        for i, rate in enumerate(self._rates()):

            def run(block: nn.Module, x: Array, cache: PyTree, rate: float = rate) -> tuple[Array, PyTree]:
                return block(x, cache, drop_path_rate=rate, train=train, **shared)

            if self.execution.remat != "none":
                run = nn.remat(run, policy=_REMAT_POLICIES[self.execution.remat])
            number = self.first + i
            x = x if renewed is None else _with_last(x, renewed[i])
            block = self.block(self.styles[number % len(self.styles)], self.execution, name=block_name(number))
            x, kept = run(block, _placed(x), jax.tree.map(operator.itemgetter(i), cache))
            caches.append(kept)
            hidden += [x] if shown or i >= self.depth - last else []
            if between is not None and i < self.depth - 1:
                x = x + between[i].astype(x.dtype)
        if shown and hidden:
            self.sow("hidden", "layers", jnp.stack(hidden))
        cache = None if cache is None else jax.tree.map(lambda *c: jnp.stack(c), *caches)
        return _placed(x), cache, jnp.stack(hidden) if last else None

    def _scan(
        self,
        x: Array,
        cache: PyTree | None,
        train: bool,
        last: int,
        between: Array | None,
        renewed: Array | None,
        shared: dict[str, Any],
    ) -> tuple[Array, PyTree | None, Array | None]:
        """One step of the scan runs one block of each style."""
        period = len(self.styles)
        styles = [self.styles[(self.first + j) % period] for j in range(period)]
        blocks = [self.block(style, self.execution, parent=None) for style in styles]

        def groups(tree: PyTree) -> list[PyTree]:
            """What belongs to the layers of each style, out of what belongs to all layers."""
            return [jax.tree.map(operator.itemgetter(slice(j, None, period)), tree) for j in range(period)]

        layers = {"params": [self._stacked_parameters(j) for j in range(period)], "cache": groups(cache)}
        rngs = [name for name in _RNGS if train and self.has_rng(name)]
        layers["rngs"] = groups({name: jax.random.split(self.make_rng(name), self.depth) for name in rngs})
        if train and any(self._rates()):
            layers["drop_path_rate"] = groups(jnp.array(self._rates()))
        if between is not None:  # nothing behind the last
            layers["between"] = groups(jnp.pad(between, [(0, 1), *[(0, 0)] * (between.ndim - 1)]).astype(x.dtype))

        if renewed is not None:
            layers["renewed"] = groups(renewed)

        shown = self._shows_hidden()
        collects = shown or last > 0

        def body(x: Array, layer: dict[str, Any]) -> tuple[Array, tuple[list[PyTree], list[Array]]]:
            caches, hidden = [], []
            for j, block in enumerate(blocks):
                x = _with_last(x, layer["renewed"][j]) if "renewed" in layer else x
                rate = layer["drop_path_rate"][j] if "drop_path_rate" in layer else 0.0
                x, kept = block.apply(
                    {"params": layer["params"][j]}, _placed(x), layer["cache"][j],
                    drop_path_rate=rate, train=train, rngs=layer["rngs"][j], **shared,
                )  # fmt: skip
                caches.append(kept)
                hidden += [x] if collects else []
                x = x + layer["between"][j] if "between" in layer else x
            return x, (caches, hidden)

        if self.execution.remat != "none":
            body = jax.checkpoint(body, policy=_REMAT_POLICIES[self.execution.remat], prevent_cse=False)
        x, (caches, hidden) = jax.lax.scan(body, _placed(x), layers)

        def in_order(*of_styles: Array) -> Array:
            """Back from groups of one style to the order of the layers."""
            return jnp.stack(of_styles, 1).reshape(-1, *of_styles[0].shape[1:])

        hidden = in_order(*hidden) if collects else None
        if shown:
            self.sow("hidden", "layers", hidden)
        if cache is not None:
            cache = jax.tree.map(in_order, *caches)
        return _placed(x), cache, hidden

    def _rates(self) -> tuple[float, ...]:
        """Of stochastic depth, block by block."""
        rate = self.drop_path_rate
        return rate if isinstance(rate, tuple) else drop_path_rates(rate, self.depth)

    def _shows_hidden(self) -> bool:
        return self.is_mutable_collection("hidden") and not self.is_initializing()

    def _stacked_parameters(self, first: int) -> PyTree:
        """Parameters of the blocks of one style, the layers in front, matrices already in the compute dtype."""

        def stack(path: tuple[jax.tree_util.DictKey, ...], *leaves: Array) -> Array:
            norms = any(part.key.startswith("norm") for part in path)
            return jnp.stack([leaf.astype(leaf.dtype if norms else self.execution.dtype) for leaf in leaves])

        indices = range(self.first + first, self.first + self.depth, len(self.styles))
        return jax.tree_util.tree_map_with_path(stack, *(self.get_variable("params", block_name(i)) for i in indices))
