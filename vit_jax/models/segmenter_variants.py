"""Published segmenters: the heads of EfficientViT-Seg by trunk and data set, as in the authors' code (seg.py)."""

from typing import Any


def _mobile(width: int, depth: int, final_expand: int | None) -> dict[str, Any]:
    return {"width": width, "depth": depth, "block": "mb", "expand_ratio": 4, "final_expand": final_expand}


def _fused(width: int, depth: int, expand_ratio: int, final_expand: int | None) -> dict[str, Any]:
    sizes = {"width": width, "depth": depth, "block": "fmb", "expand_ratio": expand_ratio}
    return {**sizes, "final_expand": final_expand, "activation": "gelu_tanh", "norm_epsilon": 1e-7}


# The arguments of `EfficientViTHead` by (variant of the trunk, data set).
EFFICIENTVIT: dict[tuple[str, str], dict[str, Any]] = {
    ("B0", "cityscapes"): _mobile(32, 1, 4),
    ("B1", "cityscapes"): _mobile(64, 3, 4),
    ("B2", "cityscapes"): _mobile(96, 3, 4),
    ("B3", "cityscapes"): _mobile(128, 3, 4),
    ("L1", "cityscapes"): _fused(256, 3, 1, None),
    ("L2", "cityscapes"): _fused(256, 5, 1, None),
    ("B1", "ade20k"): _mobile(64, 3, None),
    ("B2", "ade20k"): _mobile(96, 3, None),
    ("B3", "ade20k"): _mobile(128, 3, None),
    ("L1", "ade20k"): _fused(128, 3, 4, 8),
    ("L2", "ade20k"): _fused(128, 3, 4, 8),
}
