"""CLIP's sizes, whichever library keeps them."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from vit_jax.checkpoints.name_map import NDArray
from vit_jax.checkpoints.parts import vit as parts
from vit_jax.checkpoints.parts.towers import log_scale_limit
from vit_jax.checkpoints.published import Published
from vit_jax.models.clip import VARIANTS
from vit_jax.models.vit_variants import Variant

STYLE = {"activation": "quick_gelu", "norm_epsilon": 1e-5}  # of both towers, where nobody says otherwise
_DEPTH, _LENGTH = 12, 77


def vit_tower(size: Variant, patch: tuple[int, int], image_size: int) -> dict[str, Any]:
    """The arguments of `vit_jax.models.clip.build` for an image tower, by its name where it is published."""
    kwargs = parts.size_kwargs(size, patch)
    larger = f"{kwargs['variant']}@{image_size}"
    return {**kwargs, "variant": larger} if larger in VARIANTS and "width" not in kwargs else kwargs


def whole(
    image: Mapping[str, Any],
    text: Mapping[str, Any],
    embed_dim: int,
    vocab_size: int,
    image_style: Mapping[str, Any],
    text_style: Mapping[str, Any],
) -> dict[str, Any]:
    """The arguments of the whole model, without those that its variant says.

    Args:
        image: `variant` and, of a size of its own, further arguments of the image tower.
        text: `width`, `depth`, `num_heads`, `mlp_dim` and `max_length`.
        embed_dim: width of the space.
        vocab_size: number of token ids.
        image_style: `activation` and `norm_epsilon`, like `text_style`.
    """
    known = VARIANTS.get(image["variant"]) if set(image) == {"variant"} else None
    width = known.text_width if known else 0
    usual = {
        "width": width, "depth": _DEPTH, "num_heads": known.text_heads if known else 0, "mlp_dim": 4 * width,
        "max_length": _LENGTH,
    }  # fmt: skip
    of_text = ({} if dict(text) == usual else dict(text)) | _unusual(text_style)
    kwargs = {**image, **_unusual(image_style)}
    if of_text:
        kwargs["text"] = of_text
    if known is None or embed_dim != known.embed_dim:
        kwargs["embed_dim"] = embed_dim
    return {**kwargs, "vocab_size": vocab_size}


def settled(published: Published, tensor: Callable[[str], NDArray]) -> Published:
    """Without the limit on the logits' factor where the file's is beyond it: the libraries do not limit it in use."""
    if log_scale_limit(tensor("logit_scale")) is not None:
        return published
    return dataclasses.replace(published, kwargs={**published.kwargs, "max_scale": None})


def _unusual(style: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in style.items() if value != STYLE[key]}
