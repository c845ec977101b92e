"""Which keys a query may attend to: a band that needs no array, or an array."""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from vit_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Band:
    """Query i sees the keys from i - before to i + after; None is no limit on that side.

    Attention implementations that know such masks never make them as arrays, and skip what is masked out.
    """

    before: int | None = None
    after: int | None = None

    def __post_init__(self):
        for side in (self.before, self.after):
            if side is not None and side < 0:
                raise UserError(f"A window reaches {side} keys to one side", "It must reach at least 0")


CAUSAL = Band(after=0)

# What a caller may give; "causal" is `CAUSAL`. True in an array is where a query may attend to a key.
Mask = Literal["causal"] | Band | Bool[Array, "#b #h #t #s"]


def as_mask(mask: Mask | None) -> Band | Bool[Array, "#b #h #t #s"] | None:
    """The mask with the word "causal" replaced by what it stands for, and a band without limits by None.

    Raises:
        UserError: for another word.
    """
    if isinstance(mask, str):
        if mask != "causal":
            raise UserError(f"Unknown mask {mask!r}", "Use 'causal', a Band, or a boolean array")
        return CAUSAL
    return None if isinstance(mask, Band) and mask == Band() else mask


def dense(
    band: Band, queries: int, keys: int, first: int | Int[Array, ""] | Int[Array, " b"] = 0
) -> Bool[Array, "#b 1 queries keys"]:
    """The band as an array.

    Args:
        first: position of the first query among the keys (decoding with a cache), of all rows or of each; may be
            traced.
    """
    here = jnp.reshape(jnp.asarray(first), (-1, 1)) + jnp.arange(queries)
    return within(band, jnp.arange(keys) - here[..., None])[:, None]


def within(band: Band, ahead: Int[Array, "*b queries keys"]) -> Bool[Array, "*b queries keys"]:
    """Whether keys that are so far ahead of their queries are seen."""
    seen = jnp.ones(ahead.shape, bool)
    if band.before is not None:
        seen &= ahead >= -band.before
    if band.after is not None:
        seen &= ahead <= band.after
    return seen


def check_shape(mask: Array | None, bias: Array | None, shape: tuple[int, int, int, int]) -> None:
    """Refuses a mask or bias that cannot be laid over logits of this shape.

    Raises:
        UserError: names both shapes.
    """
    for what, array in (("mask", mask), ("bias", bias)):
        if array is None or isinstance(array, Band):
            continue
        # A mask is for all rows or for each; of several biases each is for every w-th row.
        rows = array.shape[0] if what == "bias" and array.ndim and array.shape[0] else shape[0]
        wanted = (rows, *shape[1:]) if shape[0] % rows == 0 else shape
        fits = array.ndim == 4 and all(a in (1, b) for a, b in zip(array.shape, wanted, strict=True))
        if not fits:
            raise UserError(
                f"An attention {what} of shape {tuple(array.shape)} does not fit logits of shape {shape}",
                "It needs the axes batch, heads, queries and keys, each in full or of size 1"
                + ("; the first may also divide the batch" if what == "bias" else ""),
            )


def library_band(band: Band | None, shape: tuple[int, int, int, int]) -> dict[str, Any]:
    """A band in the words of `jax.nn.dot_product_attention`."""
    if band is None:
        return {}
    if band.before is None and band.after == 0:
        return {"is_causal": True}
    furthest = max(shape[2:])
    window = tuple(furthest if side is None else side for side in (band.before, band.after))
    return {"is_causal": band.after == 0, "local_window_size": window}
