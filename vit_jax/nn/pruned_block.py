"""The block of windows that computes some of them and passes the others on as they are (SparseViT)."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vit_jax.nn.pruning import gathered, is_kept, kept_count, scattered
from vit_jax.nn.window import Windows
from vit_jax.nn.window_block import WindowBlock


@dataclasses.dataclass(frozen=True)
class KeptWindows:
    """Windows of a grid that were chosen for each image, whose tokens lie one window after the other: what stands for
    the `Windows` of a grid in a block that has got these tokens.

    Args:
        windows: of the grid.
        kept: which of them, by number.
    """

    windows: Windows
    kept: Int[Array, "b k"]

    @property
    def grid(self) -> tuple[int, int]:
        """That of all windows."""
        return self.windows.grid

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of a window."""
        return self.windows.size

    def split(self, x: Float[Array, "b k*m width"]) -> Float[Array, "b*k m width"]:
        """The windows. What they were filled up with is made zero again, which it is no more behind a norm."""
        places = self.windows.places()
        if (places < 0).any():
            real = jnp.asarray(places >= 0)[self.kept].reshape(*x.shape[:2], 1)
            x = jnp.where(real, x, 0)
        return x.reshape(-1, self.windows.tokens, x.shape[-1])

    def join(self, windows: Float[Array, "b*k m width"]) -> Float[Array, "b k*m width"]:
        """The inverse of `split`."""
        return windows.reshape(len(self.kept), -1, windows.shape[-1])

    def regions(self) -> Int[Array, "b*k m"] | None:
        """See `Windows.regions`."""
        regions = self.windows.regions()
        return None if regions is None else jnp.asarray(regions)[self.kept].reshape(-1, self.windows.tokens)


class PrunedBlock(WindowBlock):
    """A block of windows of which the best ones alone are computed: norms, attention and MLP.

    With a ratio that is a number their tokens are gathered, and the block costs as much less; with one that is traced
    all are computed and those that are kept are chosen afterwards, so that one program serves all ratios. Both give the
    same. Parameters: those of `WindowBlock`.
    """

    def windows(self, grid: tuple[int, int] | KeptWindows) -> Windows | KeptWindows:
        """How the tokens are divided."""
        return grid if isinstance(grid, KeptWindows) else super().windows(grid)

    def __call__(
        self,
        x: Float[Array, "b t width"],
        cache: None = None,
        *,
        grid: tuple[int, int],
        orders: tuple[Int[Array, "b n"], Int[Array, "b n"]] | None = None,
        ratio: float | Float[Array, ""] = 0.0,
        **how: Any,
    ) -> tuple[Float[Array, "b t width"], None]:
        """Applies the block; see `Block`.

        Args:
            grid: rows and columns of the tokens.
            orders: the windows by what they are worth, the plain ones and the shifted ones; None to compute all.
            ratio: share of the windows that is passed over.
        """
        if orders is None:
            return super().__call__(x, grid=grid, **how)
        windows, order = self.windows(grid), orders[self.style.shifted]
        count = kept_count(windows.count, ratio)
        if not isinstance(count, int):
            new, _ = super().__call__(x, grid=grid, **how)
            kept = jnp.broadcast_to(is_kept(order, count)[..., None], (*order.shape, windows.tokens))
            return jnp.where(windows.join(kept.reshape(-1, windows.tokens, 1)), new, x), None
        places = KeptWindows(windows, order[:, :count])
        split = windows.split(x).reshape(len(x), windows.count, windows.tokens, -1)
        some = gathered(split, places.kept)
        new, _ = super().__call__(some.reshape(len(x), -1, x.shape[-1]), grid=places, **how)
        whole = scattered(split, places.kept, new.reshape(some.shape))
        return windows.join(whole.reshape(-1, *split.shape[2:])), None
