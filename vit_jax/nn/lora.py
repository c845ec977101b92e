"""LoRA (Hu et al., "Low-rank adaptation of large language models", arXiv:2106.09685) as a function of parameters.

A kernel W that stays as it is stands for W + (alpha / r) A B, a product of rank r that learns (section 4.1). No module
knows of it: the sum is taken over trees of parameters, before a model is applied to them.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vit_jax.ranges import Count, Positive

# The subtree of the parameters that holds the adapters: below it the path of each kernel, and then "a" and "b".
LORA = "lora"

Factors = dict[str, Float[Array, "..."]]


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Which kernels have an adapter, and of what rank.

    Args:
        rank: r.
        alpha: the product is multiplied by alpha / r; None for r. The best learning rate then hardly depends on r.
        match: patterns over the whole path of a parameter; by default the queries and values of self-attention, as the
            paper chooses them (section 4.2 and table 5).
    """

    rank: Count
    alpha: Positive | None = None
    match: str | Sequence[str] = r"(encoder|text)/.*/attention/(query|value)/kernel"

    @property
    def patterns(self) -> tuple[str, ...]:
        return (self.match,) if isinstance(self.match, str) else tuple(self.match)

    @property
    def scale(self) -> float:
        """alpha / r."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


def first_outputs(shape: Sequence[int]) -> int:
    """How many axes of a kernel are inputs, where it is read as a matrix.

    All but the last one of a convolution [h, w, c, d]; else it is the cut with the smallest sum of both sides, so that
    [d, heads, width] is d x (heads width), and [heads, width, d] is (heads width) x d.
    """
    cuts = range(1, len(shape)) if len(shape) < 4 else [len(shape) - 1]
    return min(cuts, key=lambda cut: math.prod(shape[:cut]) + math.prod(shape[cut:]))


def fresh_factors(key: PRNGKeyArray, shape: Sequence[int], rank: int) -> Factors:
    """A [inputs, r] and B [r, outputs] of a kernel, each with the kernel's own axes: "a" as the authors' code draws it,
    uniformly within 1 / sqrt(inputs), and "b" zero, so that a model starts as it was."""
    cut = first_outputs(shape)
    bound = math.prod(shape[:cut]) ** -0.5
    a = jax.random.uniform(key, (*shape[:cut], rank), jnp.float32, -bound, bound)
    return {"a": a, "b": jnp.zeros((rank, *shape[cut:]), jnp.float32)}


def merged(params: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """The parameters that a model is applied to: without the adapters, which are added to their kernels.

    Args:
        params: of a model, with adapters under `LORA`; without, they come back as they are.
        scale: alpha / r.
    """
    rest = {name: tree for name, tree in params.items() if name != LORA}
    return _added(rest, params.get(LORA, {}), scale)


def _added(tree: Mapping[str, Any], adapters: Mapping[str, Any], scale: float) -> dict[str, Any]:
    found = dict(tree)
    for name, below in adapters.items():
        found[name] = _added(tree[name], below, scale) if isinstance(tree[name], Mapping) else tree[name] + _product(
            below, scale
        )  # fmt: skip
    return found


def _product(factors: Factors, scale: float) -> Float[Array, "..."]:
    # In float32 on every chip: what is learned is small beside what it is added to.
    return scale * jnp.tensordot(factors["a"], factors["b"], 1, precision=jax.lax.Precision.HIGHEST)
