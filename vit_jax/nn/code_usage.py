"""How much of a codebook is in use."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def code_counts(indices: Int[Array, "*any"], size: int) -> Int[Array, " size"]:
    """How often each code is used. Under `jit` that is in the global batch, on however many devices it lies: whole
    numbers, the same in any order."""
    return jnp.bincount(indices.reshape(-1), length=size)


def perplexity(counts: Int[Array, " k"]) -> Float[Array, ""]:
    """Of the use of codes: the exponential of its entropy, 1 for a single code, K where all are used alike."""
    shares = counts.astype(jnp.float32) / jnp.maximum(counts.sum(), 1)
    return jnp.exp(-jax.scipy.special.xlogy(shares, shares).sum())


def usage(
    indices: Int[Array, "*any"] | Sequence[Int[Array, "*any"]], size: int, together: bool = True
) -> dict[str, tuple[Array, Array]]:
    """Metrics of the global batch of a step (of a microbatch where a run has those): `codes_used` and `perplexity`.

    The log has their means over its steps: metrics are numbers that add up, which a histogram is not.

    Args:
        indices: of all latents; or a list, one for each map of tokens or depth, whose metrics are called
            `codes_used/0` and so on, beside those of all together.
        size: number of codes.
        together: whether those of a list are of one codebook; if not, there is nothing of all together.
    """
    parts = list(indices) if isinstance(indices, Sequence) else [indices]
    counts = [code_counts(part, size) for part in parts]
    named = {"": sum(counts[1:], counts[0])} if together or len(counts) == 1 else {}
    if len(counts) > 1:
        named |= {f"/{number}": each for number, each in enumerate(counts)}
    one = jnp.float32(1)
    metrics = {f"codes_used{name}": ((each > 0).sum(dtype=jnp.float32), one) for name, each in named.items()}
    return metrics | {f"perplexity{name}": (perplexity(each), one) for name, each in named.items()}


def usage_remarks(averages: Mapping[str, float], size: int) -> dict[str, str]:
    """A warning where a codebook has no more than one live code, see `vit_jax.tasks.Task.remarks`.

    Args:
        averages: of `usage`, with any others.
        size: number of codes.
    """
    found = {}
    for name, used in averages.items():
        kind, _, part = name.partition("/")
        # Of one codebook for several maps, a map of one token an image may well have one code in a small batch.
        whole = not part or kind not in averages
        if kind == "codes_used" and whole and used < 1.5 and size > 1:
            where = f"one code of {size:,} of map {part}" if part else f"one code of {size:,}"
            found[name] = (
                f"{where} is in use ({100 / size:.2g} %), so that all images become the same tokens; "
                "try a codebook that learns by moving averages and starts dead codes anew, or a lower learning rate"
            )
    return found
