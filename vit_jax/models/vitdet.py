"""ViTDet's plain backbone, a ViT in windows with a few global blocks: SAM's image encoder ("Exploring plain Vision
Transformer backbones for object detection", arXiv:2203.16527, section 3; "Segment anything", arXiv:2304.02643,
appendix A).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal, Self

import flax.linen as nn
from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.models.vit_variants import VARIANTS, Variant, parse_variant, resized
from vit_jax.naming import check_keys, construct
from vit_jax.nn.flops import product_flops, window_mixing_flops
from vit_jax.nn.grid_block import GridBlock, GridStyle
from vit_jax.nn.images import check_images
from vit_jax.nn.patch import PatchEmbed
from vit_jax.nn.posemb import RESIZES, PosembResize, check_grid
from vit_jax.nn.stack import BlockStack, block_layers
from vit_jax.nn.style import EXECUTION_KEYS, Execution, check_choice, check_rate, execution_of
from vit_jax.nn.trunk import Classifier, Layers, Maps, Trunk
from vit_jax.ranges import Count, Decay, Natural

__all__ = ["PUBLISHED", "VARIANTS", "Variant", "ViTDet", "ViTDetEncoder", "build"]


PUBLISHED = ("B/16", "L/16", "H/16")  # the paper's, section 4


class ViTDetEncoder(Trunk):
    """Patches with absolute positions, and blocks over their map, most of which attend in windows; no norm at the end.

    Parameters, float32 whatever the compute dtype: `embedding`, `pos_embedding` [gh, gw, D], `block_00`, ...

    Attributes:
        patch_size: side of a patch in pixels.
        width: D.
        depth: number of blocks.
        styles: of the blocks, which repeat: those in windows, and a global one last.
        execution: how the blocks are run.
        drop_path_rate: stochastic depth of the last block (rng collection "drop_path").

    Raises:
        UserError: when the attributes contradict each other.
    """

    patch_size: int
    width: int
    depth: int
    styles: tuple[GridStyle, ...]
    execution: Execution = Execution()
    drop_path_rate: float = 0.0

    def __post_init__(self):
        check_rate("drop_path_rate", self.drop_path_rate)
        super().__post_init__()

    def setup(self):
        self.blocks = BlockStack(self.styles, self.depth, self.drop_path_rate, self.execution, GridBlock)
        nn.share_scope(self, self.blocks)

    @property
    def stride(self) -> int:
        """Of the map."""
        return self.patch_size

    @nn.compact
    def encode(self, images: Float[Array, "b h w c"], *, train: bool = False) -> tuple[Float[Array, "b t d"], Maps]:
        """See `Trunk`: the places of its one map.

        Raises:
            UserError: when the patches do not tile the image, or the parameters hold positions of another grid.
        """
        check_images(images)
        dtype = self.execution.dtype
        x = PatchEmbed(self.width, (self.patch_size,) * 2, dtype, name="embedding")(images)
        batch, *grid, width = x.shape
        if self.has_variable("params", "pos_embedding"):
            check_grid(tuple(grid), self.get_variable("params", "pos_embedding").shape[:2])
        x = x + self.param("pos_embedding", nn.initializers.normal(0.02), (*grid, width)).astype(dtype)
        x, _ = self.blocks(x.reshape(batch, -1, width), train=train, grid=tuple(grid))
        return x, {self.stride: x.reshape(batch, *grid, width)}

    def layers(self) -> Layers:
        """All that the first block reads is the first layer, as in BEiT and MAE."""
        return (("embedding", "pos_embedding"), *block_layers(self.depth))

    def flops(self, image_size: tuple[int, int]) -> float:
        """See `Trunk`; what windows are filled up with is computed too, and so are relative positions."""
        grid = tuple(side // self.patch_size for side in image_size)
        places, width = math.prod(grid), self.width
        total = product_flops(places, 3 * self.patch_size**2, width)
        for i in range(self.depth):
            style = self.styles[i % len(self.styles)]
            windows = style.windows(grid)
            seen = windows.count * windows.tokens
            total += product_flops(seen, width, 4 * width) + product_flops(places, 2 * width, style.mlp_dim)
            total += window_mixing_flops(windows.count, windows.size, width)
            total += product_flops(seen, width, sum(windows.size)) if style.relative_positions else 0.0
        return total


_STYLE_KEYS = tuple(
    f.name for f in dataclasses.fields(GridStyle) if f.name not in ("num_heads", "mlp_dim", "window_size")
)
_BLOCK_KEYS = (*_STYLE_KEYS, *EXECUTION_KEYS)


def default_global_blocks(depth: int) -> tuple[int, ...]:
    """The last block of each quarter, as in all published sizes."""
    quarter = max(depth // 4, 1)
    return tuple(range(quarter - 1, depth, quarter))


def turns(global_blocks: Sequence[int], depth: int) -> tuple[bool, ...]:
    """Which blocks are global, over the shortest run of them that repeats over the depth.

    Raises:
        UserError: for a number that is no block's.
    """
    wrong = [i for i in global_blocks if not 0 <= i < depth]
    if wrong:
        raise UserError(f"global_blocks names block {wrong[0]} of {depth}", f"Blocks are numbered 0 to {depth - 1}")
    each = [i in set(global_blocks) for i in range(depth)]
    periods = (n for n in range(1, depth) if depth % n == 0 and each == each[:n] * (depth // n))
    return tuple(each[: next(periods, depth)])


class ViTDet(Classifier):
    """The trunk as an image classifier: the mean of its places, and a linear head that starts at zero."""

    @classmethod
    def from_variant(
        cls,
        variant: str = "B/16",
        *,
        num_classes: Natural,
        width: Count | None = None,
        depth: Count | None = None,
        mlp_dim: Count | None = None,
        num_heads: Count | None = None,
        window_size: Count = 14,
        global_blocks: Sequence[Natural] | None = None,
        head_bias_init: float = 0.0,
        drop_path_rate: Decay = 0.0,
        dtype: Literal["float32", "bfloat16"] = "float32",
        posemb_resize: PosembResize = "bicubic",
        **block: Any,
    ) -> Self:
        """A ViTDet of a ViT's size, from values that JSON can hold.

        Args:
            variant: size and patch size, e.g. "B/16"; SAM and ViTDet have B, L and H.
            num_classes: see `Classifier`, like `head_bias_init`.
            width: replaces the variant's, like `depth`, `mlp_dim` and `num_heads`, for sizes of one's own.
            window_size: places along a side of a window.
            global_blocks: numbers of the blocks in which all places see each other; None for the last of each quarter.
            drop_path_rate: see `ViTDetEncoder`.
            dtype: compute dtype by name; parameters are always float32.
            posemb_resize: see `vit_jax.models.vit.ViT.from_variant`.
            block: other arguments of `Execution` and `GridStyle`; by default the `activation` is "gelu_exact".

        Raises:
            UserError: for an unknown variant, value or argument.
        """
        check_keys(block, _BLOCK_KEYS, "config.model", siblings=_NAMED_KEYS)
        check_choice("posemb_resize", posemb_resize, RESIZES)
        size, patch = parse_variant(variant)
        size = resized(size, width=width, depth=depth, mlp_dim=mlp_dim, num_heads=num_heads)
        style = construct(
            GridStyle, {"activation": "gelu_exact"} | {k: v for k, v in block.items() if k in _STYLE_KEYS},
            "config.model", num_heads=size.num_heads, mlp_dim=size.mlp_dim, window_size=window_size,
        )  # fmt: skip
        in_all = dataclasses.replace(style, window_size=None)
        which = default_global_blocks(size.depth) if global_blocks is None else global_blocks
        encoder = ViTDetEncoder(
            patch_size=patch,
            width=size.width,
            depth=size.depth,
            styles=tuple(in_all if sees_all else style for sees_all in turns(which, size.depth)),
            execution=execution_of(block, dtype),
            drop_path_rate=drop_path_rate,
            # Unowned, so that the model adopts it as `encoder` even when it is made inside another module's setup.
            parent=None,
        )
        return cls(encoder=encoder, num_classes=num_classes, head_bias_init=head_bias_init)


_NAMED_KEYS = tuple(name for name in ViTDet.from_variant.__annotations__ if name not in ("block", "return"))
KEYS = (*_NAMED_KEYS, *_BLOCK_KEYS)  # all that `build` takes

# What a config's model section calls, and what a checkpoint's metadata holds the arguments of.
build = ViTDet.from_variant
