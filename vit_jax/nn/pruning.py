"""Which windows of a feature map are computed, and which are passed over: the activation pruning of SparseViT.

Chen et al., "SparseViT: Revisiting activation sparsity for efficient high-resolution vision Transformer"
(arXiv:2303.17605), sections 3.1 and 3.2. A window is worth the L2 norm, over its tokens, of their mean |x| over
channels. Of n windows int(n (1 - ratio)) are kept. Their order is found once for the blocks of a stage, so that a block
that keeps fewer keeps some of those that the one before it kept.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vit_jax.errors import UserError

# Of each stage the ratios of its pairs of blocks, a plain one and a shifted one.
Ratios = tuple[tuple[float, ...], ...]

# What a ratio is drawn from and searched in (github.com/mit-han-lab/sparsevit, tools/search.py).
CHOICES = tuple(i / 10 for i in range(9))
# Of Swin-T, by the names of the authors' configs: Mask R-CNN at 672x672 in 41.3, 34.2 and 32.9 ms instead of 47.8, on
# an A6000 (README of github.com/mit-han-lab/sparsevit).
PRESETS: dict[str, Ratios] = {
    "cfg1": ((0.3,), (0.0,), (0.1, 0.2, 0.2), (0.0,)),
    "cfg2": ((0.6,), (0.0,), (0.2, 0.4, 0.5), (0.0,)),
    "cfg3": ((0.7,), (0.0,), (0.2, 0.4, 0.5), (0.0,)),
}
# Before a product is cut to a whole number: 10 * (1 - 0.8) is less than 2 in float64, where the authors' code keeps one
# window, and is 2 in float32.
_ROUNDING = 1e-3


def pairs_of(depth: int) -> int:
    """How many ratios a stage of so many blocks has: one for a plain block and the shifted one behind it."""
    return -(-depth // 2)


def checked_ratios(ratios: Sequence[Sequence[float]] | str, depths: Sequence[int]) -> Ratios:
    """The ratios of a model whose stages have so many blocks.

    Args:
        ratios: of each stage those of its pairs of blocks; or a name of `PRESETS`.

    Raises:
        UserError: they are not as many, below 0 or above 0.8, or a stage keeps more windows than it kept before.
    """
    if isinstance(ratios, str):
        if ratios not in PRESETS:
            known = ", ".join(PRESETS)
            raise UserError(f"pruning_ratios is {ratios!r}", f"Give ratios, or one of {known}")
        ratios = PRESETS[ratios]
    wanted = [pairs_of(depth) for depth in depths]
    if not _is_nested(ratios) or [len(stage) for stage in ratios] != wanted:
        example = [[0.0] * count for count in wanted]
        raise UserError(
            f"pruning_ratios is {_shown(ratios)}, which is not a ratio for each pair of blocks of {len(depths)} stages",
            f"Write it as {example}",
        )
    for i, stage in enumerate(ratios):
        for ratio in stage:
            if not 0 <= ratio <= CHOICES[-1]:
                raise UserError(f"A pruning ratio of stage {i} is {ratio}", "It must be at least 0 and at most 0.8")
        if list(stage) != sorted(stage):
            raise UserError(
                f"The pruning ratios of stage {i} are {_shown(stage)}: a block would keep more windows than the one "
                "before it",
                "Let them not get smaller within a stage",
            )
    return tuple(tuple(float(ratio) for ratio in stage) for stage in ratios)


def kept_count(windows: int, ratio: float | Float[Array, ""]) -> int | Int[Array, ""]:
    """int(windows * (1 - ratio)), the same for a ratio that is traced."""
    if isinstance(ratio, jax.Array):
        return jnp.int32(windows * (1 - ratio) + _ROUNDING)
    return int(windows * (1 - ratio) + _ROUNDING)


def check_kept(stage: int, windows: int, ratios: Sequence[float]) -> None:
    """Refuses ratios with which a stage keeps no window, with a UserError."""
    for ratio in ratios:
        if kept_count(windows, ratio) < 1:
            raise UserError(
                f"Of the {windows} windows of stage {stage} a pruning ratio of {ratio:g} keeps none",
                f"Give a ratio of at most {max(choices_for(windows)):g} there, or larger images",
            )


def choices_for(windows: int) -> tuple[float, ...]:
    """Those of `CHOICES` that keep a window at least."""
    return tuple(ratio for ratio in CHOICES if kept_count(windows, ratio) >= 1)


def drawn_ratios(key: Array, windows: Sequence[int], pairs: Sequence[int]) -> tuple[Float[Array, " p"], ...]:
    """Ratios of each stage, each drawn by itself of `choices_for`, then sorted.

    Args:
        windows: of each stage how many it has.
        pairs: of each stage how many ratios it has.
    """
    drawn = []
    for own, count, size in zip(jax.random.split(key, len(windows)), windows, pairs, strict=True):
        choices = jnp.array(choices_for(count), jnp.float32)
        drawn.append(jnp.sort(jax.random.choice(own, choices, (size,))))
    return tuple(drawn)


def magnitudes(x: Float[Array, "b h w c"]) -> Float[Array, "b h w"]:
    """What a token is worth: the mean of |x| over channels, float32, without a gradient."""
    return jax.lax.stop_gradient(jnp.abs(x.astype(jnp.float32)).mean(axis=-1))


def best_first(tokens: Float[Array, "b n t"]) -> Int[Array, "b n"]:
    """The windows by what they are worth, the best first and of equal ones the first.

    Args:
        tokens: what the tokens of each window are worth.
    """
    scores = jnp.sqrt(jnp.square(tokens).sum(axis=-1))
    return jnp.argsort(-scores, axis=-1, stable=True).astype(jnp.int32)


def is_kept(order: Int[Array, "b n"], count: int | Int[Array, ""]) -> Bool[Array, "b n"]:
    """Which windows are among the first `count` of their order."""
    rank = jnp.argsort(order, axis=-1)
    return rank < count


def gathered(x: Float[Array, "b n *rest"], kept: Int[Array, "b k"]) -> Float[Array, "b k *rest"]:
    """The windows that are kept."""
    return jax.vmap(lambda rows, index: rows[index])(x, kept)


def scattered(
    x: Float[Array, "b n *rest"], kept: Int[Array, "b k"], new: Float[Array, "b k *rest"]
) -> Float[Array, "b n *rest"]:
    """`x` with the windows that are kept replaced."""
    return jax.vmap(lambda rows, index, values: rows.at[index].set(values, unique_indices=True))(x, kept, new)


def _is_nested(ratios: object) -> bool:
    def is_list(value: object) -> bool:
        return isinstance(value, (list, tuple))

    def is_number(value: object) -> bool:
        return isinstance(value, (int, float, np.floating)) and not isinstance(value, bool)

    return is_list(ratios) and all(is_list(stage) and all(map(is_number, stage)) for stage in ratios)


def _shown(ratios: object) -> str:
    """As it is written in a command."""
    if isinstance(ratios, (list, tuple)):
        return "[" + ", ".join(map(_shown, ratios)) + "]"
    return repr(ratios)
