"""Parameters by name: patterns that choose them, and factors for their learning rates and weight decay."""

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import optax
from jaxtyping import Float, PyTree

from vit_jax.errors import UserError
from vit_jax.nn.trunk import Layers

# From the name of a parameter ('encoder/block_00/mlp/fc1/kernel') to a factor.
Factor = Callable[[str], float]

# What a scheduled weight decay is called among the numbers that come with each update.
DECAY_RATE = "weight_decay"
_NO_RATES: Mapping[str, Any] = MappingProxyType({})


def path_name(path: tuple) -> str:
    """A tree path as 'encoder/block_00/mlp/fc1/kernel'."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def leaf_names(tree: PyTree) -> list[str]:
    """The names of all leaves, in the tree's order."""
    return [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def first_match(patterns: Sequence[str], name: str) -> int:
    """Index of the first pattern that matches the whole of `name`, -1 without one."""
    return next((i for i, p in enumerate(patterns) if re.fullmatch(p, name)), -1)


def check_patterns(patterns: Sequence[Any], names: Sequence[str], where: str) -> None:
    """Refuses a pattern that is not a regular expression, or that matches none of `names`."""
    for pattern in patterns:
        try:
            matches = any(re.fullmatch(pattern, name) for name in names)
        except (re.error, TypeError):
            raise UserError(f"{pattern!r} in {where} is not a pattern", "Give one such as 'encoder/.*'") from None
        if not matches:
            some = ", ".join(repr(n) for n in names[:: max(1, len(names) // 3)][:4])
            raise UserError(f"The pattern {pattern!r} in {where} matches no parameter", f"There are {some}")


def by_name(pairs: Any, names: Sequence[str], where: str, otherwise: Factor = lambda name: 1.0) -> Factor:
    """The factors of a config: a list of (pattern, factor), of which the first whose pattern matches counts.

    Args:
        names: of all parameters that it is for.
        where: the key's name, for errors.
        otherwise: the factor where no pattern matches.
    """
    numbers = isinstance(pairs, (list, tuple)) and all(
        isinstance(p, (list, tuple)) and len(p) == 2 and isinstance(p[1], (int, float)) and p[1] >= 0 for p in pairs
    )
    if not numbers:
        raise UserError(f"{where} is {pairs!r}", "Give a list of pairs such as ('head/.*', 10.0)")
    patterns, factors = [p for p, _ in pairs], [float(f) for _, f in pairs]
    check_patterns(patterns, names, where)

    def factor(name: str) -> float:
        i = first_match(patterns, name)
        return otherwise(name) if i < 0 else factors[i]

    return factor


def layerwise(decay: float, layers: Layers, names: Sequence[str], where: str) -> Factor:
    """Layer-wise learning-rate decay as in BEiT (arXiv:2106.08254) and MAE (arXiv:2111.06377).

    Of n layers, the first of which is all that the blocks read, layer l from 0 gets `decay ** (n - l)`. What is in no
    layer (final norm, pooling, head) learns at the full rate.

    Args:
        layers: what the model says of itself, see `vit_jax.nn.trunk.Trunk.layers`.
        names: of the parameters that it is for.
    """
    if isinstance(decay, bool) or not isinstance(decay, (int, float)) or not 0 < decay <= 1:
        raise UserError(f"{where} is {decay!r}", "It must lie in (0, 1], usually 0.65 to 0.9")
    depths = {prefix: len(layers) - i for i, layer in enumerate(layers) for prefix in layer}

    def to_the_end(name: str) -> int:
        """How many layers there are from that of a parameter on, itself included."""
        parts = name.split("/")
        return next((d for i in range(len(parts)) if (d := depths.get("/".join(parts[: i + 1])))), 0)

    if not any(map(to_the_end, names)):
        raise UserError(
            f"{where} needs the order of the layers, and the model says none that has a parameter of this optimizer",
            "Remove it, or give the model a method `layers`",
        )
    return lambda name: decay ** to_the_end(name)


def norms_by_layer(tree: PyTree[jax.Array]) -> dict[str, Float[jax.Array, ""]]:
    """The norm of all leaves together under the first two parts of their names ('encoder/block_00')."""
    layers: dict[str, list[jax.Array]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        layers.setdefault("/".join(path_name(path).split("/")[:2]), []).append(leaf)
    return {name: optax.tree.norm(leaves) for name, leaves in layers.items()}


def scaled(factor: Factor) -> optax.GradientTransformation:
    """Multiplies each update by the factor of its parameter."""
    # By name when it is traced, not by a tree made in advance: under optax.partition other groups' leaves are masked.
    return optax.stateless(
        lambda updates, params: jax.tree.map_with_path(lambda path, u: u * factor(path_name(path)), updates)
    )


def decayed(weight_decay: float | Mapping[str, Any], factor: Factor) -> optax.GradientTransformationExtraArgs:
    """Adds `weight_decay` times the factor times the parameter to each update.

    Args:
        weight_decay: a number, or the section of a schedule. The value comes with each update, as
            `update(..., rates={"weight_decay": x})`; without it a number is part of the program.
    """

    def update(
        updates: PyTree, state: optax.EmptyState, params: PyTree, *, rates: Mapping[str, Any] = _NO_RATES, **_: Any
    ) -> tuple[PyTree, optax.EmptyState]:
        scheduled = isinstance(weight_decay, Mapping)

        def add(path: tuple, update: jax.Array, param: jax.Array) -> jax.Array:
            times = factor(path_name(path))
            if not times or not (scheduled or weight_decay):
                return update
            return update + (rates[DECAY_RATE] if scheduled else rates.get(DECAY_RATE, weight_decay)) * times * param

        return jax.tree.map_with_path(add, updates, params), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def kernels_only(name: str) -> float:
    """1 for matrices and convolution kernels: biases, norms, tokens and position embeddings are not decayed."""
    return float(name.rpartition("/")[2] == "kernel")
