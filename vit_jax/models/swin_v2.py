"""Swin v2: norms behind the branches, cosine attention, and positions that follow any window (arXiv:2111.09883)."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, Literal, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.models.swin import PUBLISHED, SwinEncoder, SwinStage, stage_styles, swin_size
from vit_jax.naming import check_keys
from vit_jax.nn.flops import product_flops
from vit_jax.nn.patch import PatchMerging
from vit_jax.nn.style import EXECUTION_KEYS, execution_of
from vit_jax.nn.trunk import Classifier
from vit_jax.nn.window import Windows, region_mask, relative_bias, table_rows
from vit_jax.nn.window_block import WindowBlock, WindowStyle
from vit_jax.ranges import Count, Decay, Natural, Positive

__all__ = ["PUBLISHED", "ContinuousStyle", "SwinV2", "build"]

_HIDDEN = 512


@dataclasses.dataclass(frozen=True)
class ContinuousStyle(WindowStyle):
    """What a block of Swin v2 computes: a style of windows, and

    Args:
        pretrained_window: side of the windows for which the positions were learned, whose distances the others are
            measured by; 0 for the present ones.
    """

    pretrained_window: Natural = 0

    def bias_flops(self, windows: Windows) -> float:
        return product_flops(table_rows(windows.size), 2 + self.num_heads, _HIDDEN)


def log_distances(size: tuple[int, int], pretrained_window: int = 0) -> Float[np.ndarray, "distances 2"]:
    """Distances down and to the right within a window, logarithmic (Swin v2, equation 4): a larger window than that of
    training then goes little beyond what was seen.

    Args:
        size: rows and columns of a window.
        pretrained_window: see `ContinuousStyle`.
    """
    axes = [np.arange(1 - side, side) / max((pretrained_window or side) - 1, 1) for side in size]
    distances = 8 * np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    return (np.sign(distances) * np.log2(np.abs(distances) + 1) / math.log2(8)).astype(np.float32)


class ContinuousPositions(nn.Module):
    """A small MLP makes the table of relative positions (Swin v2, section 3.3): 16 sigmoid(fc2(relu(fc1(distances)))).

    Parameters, float32: `fc1` with kernel [2, 512] and bias, `fc2` with kernel [512, H].
    """

    num_heads: int

    @nn.compact
    def __call__(self, distances: Float[Array, "distances 2"]) -> Float[Array, "distances heads"]:
        hidden = nn.relu(nn.Dense(_HIDDEN, name="fc1")(distances))
        return 16 * jax.nn.sigmoid(nn.Dense(self.num_heads, use_bias=False, name="fc2")(hidden))


class ContinuousBlock(WindowBlock):
    """A block of windows whose positions are computed, for windows of any size alike.

    Parameters beside those of `Block`: `positions`, see `ContinuousPositions`.
    """

    style: ContinuousStyle

    def bias(self, windows: Windows) -> Float[Array, "n heads m m"]:
        distances = log_distances(windows.size, self.style.pretrained_window)
        table = ContinuousPositions(self.style.num_heads, name="positions")(jnp.asarray(distances))
        bias, regions = relative_bias(table.astype(jnp.float32), windows.size), windows.regions()
        return bias if regions is None else bias + region_mask(regions)[:, None]


_STAGE = functools.partial(
    SwinStage, block=ContinuousBlock, merging=functools.partial(PatchMerging, norm_last=True)
)  # fmt: skip
_GIVEN = ("num_heads", "mlp_dim", "shifted")
_STYLE_KEYS = tuple(f.name for f in dataclasses.fields(ContinuousStyle) if f.name not in _GIVEN)
_BLOCK_KEYS = (*_STYLE_KEYS, *EXECUTION_KEYS)
_BIASES = ("query", "value", "out", "fc1", "fc2")


class SwinV2(Classifier):
    """An image classifier: a Swin encoder of such blocks, its last map's mean, and a head that starts at zero."""

    @classmethod
    def from_variant(
        cls,
        variant: str = "T",
        *,
        num_classes: Natural,
        width: Count | None = None,
        depths: Sequence[Count] | None = None,
        num_heads: Sequence[Count] | None = None,
        patch_size: Count = 4,
        mlp_ratio: Positive = 4.0,
        shrink_window: bool = False,
        head_bias_init: float = 0.0,
        drop_path_rate: Decay = 0.0,
        dtype: Literal["float32", "bfloat16"] = "float32",
        **block: Any,
    ) -> Self:
        """A Swin v2 of a published size, from values that JSON can hold.

        Args:
            variant: "T", "S", "B" or "L", see `vit_jax.models.swin.VARIANTS`; published for 256 pixels with a
                `window_size` of 8 or 16, and B and L pretrained for 192 with one of 12.
            num_classes: see `Classifier`, like `head_bias_init`.
            width: replaces the variant's, like `depths` and `num_heads`, for sizes of one's own.
            patch_size: see `vit_jax.models.swin.SwinEncoder`, like `drop_path_rate` and `shrink_window`.
            mlp_ratio: hidden width of an MLP over the width of its stage.
            dtype: compute dtype by name; parameters are always float32.
            block: other arguments of `Execution` and `ContinuousStyle`, of which `window_size` and `pretrained_window`
                may be lists of one for each stage; by default the `window_size` is 8, the `norm_epsilon` 1e-5 and the
                `activation` "gelu_exact".

        Raises:
            UserError: for an unknown variant, value or argument.
        """
        check_keys(block, _BLOCK_KEYS, "config.model", siblings=_NAMED_KEYS)
        size = swin_size(variant, width, depths, num_heads, "Swin v2")
        style = {k: v for k, v in block.items() if k in _STYLE_KEYS}
        styles = stage_styles(
            ContinuousStyle, size, mlp_ratio, style,
            norm="residual_post", qk_norm="l2", biases=_BIASES, norm_epsilon=1e-5, activation="gelu_exact",
            window_size=8,
        )  # fmt: skip
        encoder = SwinEncoder(
            width=size.width,
            depths=size.depths,
            styles=styles,
            patch_size=patch_size,
            execution=execution_of(block, dtype),
            drop_path_rate=drop_path_rate,
            shrink_window=shrink_window,
            stage=_STAGE,
            # Unowned, so that the model adopts it as `encoder` even when it is made inside another module's setup.
            parent=None,
        )
        return cls(encoder=encoder, num_classes=num_classes, head_bias_init=head_bias_init)


_NAMED_KEYS = tuple(name for name in SwinV2.from_variant.__annotations__ if name not in ("block", "return"))
KEYS = (*_NAMED_KEYS, *_BLOCK_KEYS)  # all that `build` takes

# What a config's model section calls, and what a checkpoint's metadata holds the arguments of.
build = SwinV2.from_variant
