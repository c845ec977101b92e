"""Swin: a Transformer over windows that move, whose maps halve from stage to stage (arXiv:2103.14030)."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self

import flax.linen as nn
from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.models.vit_variants import resized
from vit_jax.naming import check_keys, construct, nearest
from vit_jax.nn.flops import product_flops
from vit_jax.nn.images import check_images
from vit_jax.nn.norm import LayerNorm
from vit_jax.nn.patch import PatchEmbed, PatchMerging, padded_to
from vit_jax.nn.stack import BlockStack, block_name, drop_path_rates
from vit_jax.nn.style import EXECUTION_KEYS, BlockStyle, Execution, check_rate, execution_of
from vit_jax.nn.trunk import Classifier, Layers, Maps, Trunk
from vit_jax.nn.window_block import WindowBlock, WindowStyle
from vit_jax.ranges import Count, Decay, Natural, Positive


@dataclasses.dataclass(frozen=True)
class Variant:
    """The size of a Swin: channels of its first stage, blocks of each stage, heads of each stage."""

    width: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]


# Swin, section 3.3; heads have a width of 32.
VARIANTS = {
    "T": Variant(width=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
    "S": Variant(width=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
    "B": Variant(width=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
    "L": Variant(width=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48)),
}
PUBLISHED = tuple(VARIANTS)


def parse_variant(variant: str, kind: str = "Swin") -> Variant:
    """The size that a name such as "T" or "t" stands for.

    Raises:
        UserError: for another name; it names the nearest right one.
    """
    found = VARIANTS.get(str(variant).upper())
    if found is None:
        raise UserError(f"There is no {kind} '{variant}'", nearest(variant, VARIANTS))
    return found


def stage_name(i: int) -> str:
    """The name of a stage, under which its parameters are."""
    return f"stage_{i}"


class SwinStage(nn.Module):
    """Blocks over one grid, with plain and shifted windows in turn; before them, but in the first stage, a merging.

    Parameters: `downsample`, see `PatchMerging`; `block_00`, `block_01`, ...

    Attributes:
        style: of its plain blocks.
        depth: number of blocks.
        drop_path_rates: of each block.
        merges: whether there is a merging before them.
        execution: how the blocks are run.
        block: what a block is.
        merging: what merges; a module class with the attributes `epsilon` and `dtype`.
    """

    style: WindowStyle
    depth: int
    drop_path_rates: tuple[float, ...]
    merges: bool
    execution: Execution = Execution()
    block: Callable[..., nn.Module] = WindowBlock
    merging: Callable[..., nn.Module] = PatchMerging

    @property
    def styles(self) -> tuple[WindowStyle, WindowStyle]:
        """Of plain and shifted blocks."""
        return (self.style, dataclasses.replace(self.style, shifted=True))

    def setup(self):
        self.blocks = BlockStack(self.styles, self.depth, self.drop_path_rates, self.execution, self.block)
        nn.share_scope(self, self.blocks)

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False, **how: Any) -> Float[Array, "b oh ow out"]:
        if self.merges:
            x = self.merging(self.style.norm_epsilon, self.execution.dtype, name="downsample")(x)
        batch, *grid, width = x.shape
        x = self.run(x.reshape(batch, -1, width), tuple(grid), train=train, **how)
        return x.reshape(batch, *grid, width)

    def run(self, x: Float[Array, "b t width"], grid: tuple[int, int], *, train: bool) -> Float[Array, "b t width"]:
        """Applies the blocks."""
        return self.blocks(x, train=train, grid=grid)[0]


class SwinEncoder(Trunk):
    """Patches, stages of blocks, and a final norm: the trunk `params["encoder"]`.

    Parameters, float32 whatever the compute dtype: `embedding`, `norm_embedding`, `stage_0`, `stage_1`, ..., `norm`.

    Attributes:
        width: channels of the first stage; each further one has twice as many.
        depths: blocks of each stage.
        styles: of the plain blocks of each stage.
        patch_size: side of a patch in pixels.
        execution: how the blocks are run, stage by stage.
        drop_path_rate: stochastic depth of the last block of all (rng collection "drop_path"), growing linearly from 0.
        shrink_window: allow a window that is larger than the first map, and so than the whole image; it is then as
            large as the map, and no block is limited to a part of it. Later maps may always be smaller than a window.
        stage: what a stage is, see `SwinStage`.

    Raises:
        UserError: when the attributes contradict each other.
    """

    width: int
    depths: tuple[int, ...]
    styles: tuple[WindowStyle, ...]
    patch_size: int = 4
    execution: Execution = Execution()
    drop_path_rate: float = 0.0
    shrink_window: bool = False
    stage: Callable[..., nn.Module] = SwinStage

    def __post_init__(self):
        check_rate("drop_path_rate", self.drop_path_rate)
        if len(self.depths) != len(self.styles) or not self.depths:
            raise UserError(
                f"There are {len(self.depths)} depths for {len(self.styles)} stages of heads",
                "Give as many of both",
            )
        for i, (depth, style) in enumerate(zip(self.depths, self.styles, strict=True)):
            if self.width * 2**i % style.num_heads:
                raise UserError(
                    f"A width of {self.width * 2**i} in stage {i} does not divide into {style.num_heads} heads",
                    "Change one of the two",
                )
            if self.execution.scan and depth % 2:
                raise UserError(
                    f"Stage {i} has {depth} blocks, and a scan runs plain and shifted ones in pairs",
                    "Set scan=False, or change the depth",
                )
        super().__post_init__()

    @property
    def stride(self) -> int:
        """Of the last map."""
        return self.patch_size * 2 ** (len(self.depths) - 1)

    @nn.compact
    def encode(
        self, images: Float[Array, "b h w c"], *, train: bool = False, **of_stages: Any
    ) -> tuple[Float[Array, "b t d"], Maps]:
        """See `Trunk`: the map behind each stage's blocks, and the places of the last one, normalised, as tokens.

        Images of any size are filled up with zeros to whole patches, and maps to whole windows.

        Args:
            of_stages: further arguments of the stages, a value for each of them; None for none.

        Raises:
            UserError: for images that are smaller than the last stride, a window that is larger than the image, or
                tables of another window than the images need.
        """
        check_images(images)
        self._check_size(images.shape[1:3])
        dtype, epsilon, style = self.execution.dtype, self.styles[0].norm_epsilon, self.styles[0]
        patch = (self.patch_size,) * 2
        x = PatchEmbed(self.width, patch, dtype, name="embedding")(padded_to(images, patch))
        x = LayerNorm(epsilon, dtype, name="norm_embedding")(x)
        x = nn.Dropout(style.dropout_rate)(x, deterministic=not train)
        stride, maps, rates = self.patch_size, {}, drop_path_rates(self.drop_path_rate, sum(self.depths))
        for i, depth in enumerate(self.depths):
            own, rates = rates[:depth], rates[depth:]
            how = {name: values[i] for name, values in of_stages.items() if values is not None}
            maps[stride * 2**i] = x = self.stage_of(i, own)(x, train=train, **how)
        maps[self.stride] = x = LayerNorm(epsilon, dtype, name="norm")(x)
        return x.reshape(x.shape[0], -1, x.shape[-1]), maps

    def stage_of(self, i: int, rates: tuple[float, ...]) -> nn.Module:
        """The i-th stage, with its rates of stochastic depth."""
        return self.stage(self.styles[i], self.depths[i], rates, i > 0, self.execution, name=stage_name(i))

    def grids(self, image_size: Sequence[int]) -> list[tuple[int, int]]:
        """Rows and columns of the map of each stage."""
        found = [tuple(-(-side // self.patch_size) for side in image_size)]
        while len(found) < len(self.depths):
            found.append(tuple(-(-side // 2) for side in found[-1]))
        return found

    def layers(self) -> Layers:
        """All that the first block reads is the first layer; a merging belongs to the block that comes after it."""
        layers: list[tuple[str, ...]] = [("embedding", "norm_embedding")]
        for i, depth in enumerate(self.depths):
            for block in range(depth):
                merging = (f"{stage_name(i)}/downsample",) if i and not block else ()
                layers.append((*merging, f"{stage_name(i)}/{block_name(block)}"))
        return tuple(layers)

    def flops(self, image_size: tuple[int, int]) -> float:
        """See `Trunk`; what maps and windows are filled up with is computed too."""
        grids = self.grids(image_size)
        total = product_flops(math.prod(grids[0]), 3 * self.patch_size**2, self.width)
        for i, (grid, depth, style) in enumerate(zip(grids, self.depths, self.styles, strict=True)):
            width, places, windows = self.width * 2**i, math.prod(grid), style.windows(grid)
            if i:
                total += product_flops(places, 2 * width, width)
            within = product_flops(windows.tokens, width, 4 * width) + 4 * windows.tokens**2 * width
            block = windows.count * within + 2 * product_flops(places, width, style.mlp_dim)
            total += depth * (block + style.bias_flops(windows))
        return total

    def _check_size(self, size: tuple[int, int]) -> None:
        if min(size) < self.stride:
            raise UserError(
                f"An image of {size[0]}x{size[1]} pixels is smaller than the {self.stride} pixels between two places "
                "of the last map",
                f"Use images of at least {self.stride}x{self.stride} pixels",
            )
        grid, window = self.grids(size)[0], self.styles[0].window_size
        if window > min(grid) and not self.shrink_window:
            raise UserError(
                f"A window of {window}x{window} places is larger than an image of {size[0]}x{size[1]} pixels, whose "
                f"first map has {grid[0]}x{grid[1]}",
                "Set window_size to less, or shrink_window=True for windows as large as the map",
            )


# Keys of styles that may have a value for each stage.
_BY_STAGE = ("window_size", "pretrained_window")
_STYLE_KEYS = tuple(
    f.name for f in dataclasses.fields(WindowStyle) if f.name not in ("num_heads", "mlp_dim", "shifted")
)
_BLOCK_KEYS = (*_STYLE_KEYS, *EXECUTION_KEYS)


def stage_styles(
    kind: type[BlockStyle], size: Variant, mlp_ratio: float, values: Mapping[str, Any], **given: Any
) -> tuple[Any, ...]:
    """The style of the plain blocks of each stage, from flat keys of a model section.

    Args:
        kind: of the styles.
        values: windows may be lists of one for each stage.
        given: what the model decides, where `values` do not say otherwise.

    Raises:
        UserError: for windows of another number of stages, or a wrong value.
    """
    values, stages = {**given, **values}, len(size.num_heads)
    of_stages = {name: values.pop(name) for name in _BY_STAGE if isinstance(values.get(name), list | tuple)}
    for name, sides in of_stages.items():
        if len(sides) != stages:
            raise UserError(
                f"{name} names {len(sides)} windows for {stages} stages", "Give one for each, or one for all"
            )
    return tuple(
        construct(
            kind, values | {name: sides[i] for name, sides in of_stages.items()}, "config.model",
            num_heads=heads, mlp_dim=int(mlp_ratio * size.width * 2**i),
        )
        for i, heads in enumerate(size.num_heads)
    )  # fmt: skip


def swin_size(
    variant: str, width: int | None, depths: Sequence[int] | None, num_heads: Sequence[int] | None, kind: str = "Swin"
) -> Variant:
    """A published size with one's own values instead."""
    lists = {"depths": depths, "num_heads": num_heads}
    own = {name: None if value is None else tuple(value) for name, value in lists.items()}
    return resized(parse_variant(variant, kind), width=width, **own)


class Swin(Classifier):
    """An image classifier: a Swin encoder, its last map's mean, and a linear head that starts at zero."""

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
        """A Swin of a published size, from values that JSON can hold.

        Args:
            variant: "T", "S", "B" or "L", see `VARIANTS`; at 384 pixels B and L have a `window_size` of 12.
            num_classes: see `Classifier`, like `head_bias_init`.
            width: replaces the variant's, like `depths` and `num_heads`, for sizes of one's own.
            patch_size: see `SwinEncoder`, like `drop_path_rate` and `shrink_window`.
            mlp_ratio: hidden width of an MLP over the width of its stage.
            dtype: compute dtype by name; parameters are always float32.
            block: other arguments of `Execution` and `WindowStyle`; by default the `window_size` is 7 (a list is of
                one for each stage), the `norm_epsilon` 1e-5 and the `activation` "gelu_exact".

        Raises:
            UserError: for an unknown variant, value or argument.
        """
        check_keys(block, _BLOCK_KEYS, "config.model", siblings=_NAMED_KEYS)
        size = swin_size(variant, width, depths, num_heads)
        style = {k: v for k, v in block.items() if k in _STYLE_KEYS}
        encoder = SwinEncoder(
            width=size.width,
            depths=size.depths,
            styles=stage_styles(WindowStyle, size, mlp_ratio, style, norm_epsilon=1e-5, activation="gelu_exact"),
            patch_size=patch_size,
            execution=execution_of(block, dtype),
            drop_path_rate=drop_path_rate,
            shrink_window=shrink_window,
            # Unowned, so that Swin adopts it as `encoder` even when it is made inside another module's setup.
            parent=None,
        )
        return cls(encoder=encoder, num_classes=num_classes, head_bias_init=head_bias_init)


_NAMED_KEYS = tuple(name for name in Swin.from_variant.__annotations__ if name not in ("block", "return"))
KEYS = (*_NAMED_KEYS, *_BLOCK_KEYS)  # all that `build` takes

# What a config's model section calls, and what a checkpoint's metadata holds the arguments of.
build = Swin.from_variant
