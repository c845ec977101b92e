"""The published sizes of EfficientViT, as in the authors' code."""

import dataclasses
from typing import Literal, NamedTuple


@dataclasses.dataclass(frozen=True)
class StageStyle:
    """What the blocks of a stage have in common.

    Args:
        block: "ds", "mb", "fmb", "res" (`vit_jax.nn.mbconv`), or "att" for attention and an MBConv.
        expand_ratio: of its blocks, see `ConvBlock`.
        first: the block that halves the map.
        first_expand_ratio: of that one.
        fewer_norm: of all of them, see `ConvBlock`.
        scales: of the attention, see `MultiScaleLinearAttention`.
        counts_first: the first block is one of the stage's depth, not one more.
    """

    block: Literal["ds", "mb", "fmb", "res", "att"]
    expand_ratio: float = 1.0
    first: Literal["mb", "fmb"] = "mb"
    first_expand_ratio: float = 4.0
    fewer_norm: bool = False
    scales: tuple[int, ...] = (5,)
    counts_first: bool = False


class Series(NamedTuple):
    """What the networks of one series have in common: activation, and stages, the stem first."""

    activation: str
    stages: tuple[StageStyle, ...]


class Size(NamedTuple):
    """A published network: series, width and depth of each stage, features of a head of the attention, widths of the
    head's two layers (none for a trunk of SAM), and the epsilon of its norms."""

    series: str
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    head_width: int
    head_widths: tuple[int, ...]
    norm_epsilon: float


_LOCAL = StageStyle("mb", 4.0, counts_first=True)
_ATTENTION = StageStyle("att", 4.0, fewer_norm=True)
_WIDE = StageStyle("fmb", 4.0, "fmb", 16.0)
SERIES = {
    "B": Series("hard_swish", (StageStyle("ds"), _LOCAL, _LOCAL, _ATTENTION, _ATTENTION)),
    "L": Series(
        "gelu_tanh",
        (
            StageStyle("res"), _WIDE, _WIDE, StageStyle("mb", 4.0, "mb", 16.0, True),
            StageStyle("att", 6.0, "mb", 24.0, True),
        ),
    ),
    "XL": Series(
        "gelu_tanh",
        (
            StageStyle("res"), _WIDE, _WIDE, _WIDE, StageStyle("att", 4.0, "mb", 16.0, True, (3,)),
            StageStyle("att", 6.0, "mb", 24.0, True, (3,)),
        ),
    ),
}  # fmt: skip
_L, _XL = (32, 64, 128, 256, 512), (32, 64, 128, 256, 512, 1024)
VARIANTS = {
    "B0": Size("B", (8, 16, 32, 64, 128), (1, 2, 2, 2, 2), 16, (1024, 1280), 1e-5),
    "B1": Size("B", (16, 32, 64, 128, 256), (1, 2, 3, 3, 4), 16, (1536, 1600), 1e-5),
    "B2": Size("B", (24, 48, 96, 192, 384), (1, 3, 4, 4, 6), 32, (2304, 2560), 1e-5),
    "B3": Size("B", (32, 64, 128, 256, 512), (1, 4, 6, 6, 9), 32, (2304, 2560), 1e-5),
    "L0": Size("L", _L, (1, 1, 1, 4, 4), 32, (), 1e-6),
    "L1": Size("L", _L, (1, 1, 1, 6, 6), 32, (3072, 3200), 1e-7),
    "L2": Size("L", _L, (1, 2, 2, 8, 8), 32, (3072, 3200), 1e-7),
    "L3": Size("L", (64, 128, 256, 512, 1024), (1, 2, 2, 8, 8), 32, (6144, 6400), 1e-7),
    "XL0": Size("XL", _XL, (0, 1, 1, 2, 3, 3), 32, (), 1e-6),
    "XL1": Size("XL", _XL, (1, 2, 2, 4, 6, 6), 32, (), 1e-6),
}
PUBLISHED = tuple(name for name, size in VARIANTS.items() if size.head_widths)  # as classifiers; the others are SAM's
