"""Published segmenters: the heads of EfficientViT-Seg by trunk and data set, as in the authors' code (seg.py)."""

from collections.abc import Mapping
from typing import Any

from vit_jax.errors import UserError
from vit_jax.naming import nearest


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

# Trunks by the names that the recipes have for them.
_TRUNKS: dict[str, dict[str, Any]] = {
    **{f"efficientvit_{v.lower()}": {"name": "efficientvit", "variant": v} for v, _ in EFFICIENTVIT},
    **{f"swin_{v.lower()}": {"name": "swin", "variant": v} for v in "TSB"},
    **{f"vit_{v.lower()}": {"name": "vit", "variant": f"{v}/16"} for v in "SBL"},
}


def recipe(trunk: str, data: str) -> dict[str, Any]:
    """The model section of a recipe: a trunk, and the head that goes with it.

    EfficientViT has its authors' head for the data, Swin UPerNet, and a ViT the linear one on its last four layers.

    Args:
        trunk: such as "efficientvit_b1", "swin_t" or "vit_b".
        data: "cityscapes" or "ade20k".

    Raises:
        UserError: for a trunk without a head for this data.
    """
    known = [name for name, of in _TRUNKS.items() if _head(of, data) is not None]
    if trunk not in known:
        raise UserError(f"There is no recipe for the trunk {trunk!r} on {data}", nearest(trunk, known))
    return {"name": "segmenter", "trunk": dict(_TRUNKS[trunk]), "head": _head(_TRUNKS[trunk], data)}


def _head(trunk: Mapping[str, Any], data: str) -> dict[str, Any] | None:
    if trunk["name"] == "swin":
        return {"name": "upernet", "map_norms": True}
    if trunk["name"] == "vit":
        return {"name": "linear", "last": 4}
    sizes = EFFICIENTVIT.get((trunk["variant"], data))
    return sizes and {"name": "efficientvit", **sizes}
