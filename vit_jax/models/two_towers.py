"""Any image model beside any text model: LiT (arXiv:2111.07991), transformers' VisionTextDualEncoder, one's own.

What the two give is compared in one space, see `vit_jax.nn.two_towers.TwoTowers`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn

from vit_jax.errors import UserError
from vit_jax.naming import build_named, named_module
from vit_jax.nn.style import EXECUTION_KEYS
from vit_jax.nn.two_towers import Projection, TwoTowers
from vit_jax.ranges import Count, Natural, Positive


def build(
    *,
    image: Mapping[str, Any],
    text: Mapping[str, Any],
    vocab_size: Count,
    end_id: Natural | None = None,
    embed_dim: Count | None = None,
    project_image: Projection = "plain",
    project_text: Projection = "plain",
    temperature: Positive = 0.07,
    max_scale: Positive | None = 100.0,
    logit_bias: float | None = None,
) -> TwoTowers:
    """Two towers from their own model sections.

    Args:
        image: the section of an image model, such as {"name": "vit", "variant": "B/16"}.
        text: that of a text model, such as {"name": "bert", "variant": "base"}.
        vocab_size: number of token ids.
        end_id: id of the token that ends a text, for a text model that asks.
        embed_dim: width of the space; None for that of the tower without a projection.
        project_image: see `TwoTowers`, like `project_text`, `temperature`, `max_scale` and `logit_bias`.

    Raises:
        UserError: for an unknown section, key or value, or without an `embed_dim` where nothing says it.
    """
    towers = image_model(image), text_model(text, vocab_size, end_id)
    embed_dim = embed_dim or _width(*towers, project_image, project_text)
    return TwoTowers(*towers, embed_dim, project_image, project_text, temperature, max_scale, logit_bias)


def image_model(section: Mapping[str, Any]) -> nn.Module:
    """The image tower of a section."""
    return build_named("model", section, "config.model.image", num_classes=0)


def text_model(section: Mapping[str, Any], vocab_size: int, end_id: int | None) -> nn.Module:
    """The text tower of a section; it is told the end of a text if it asks."""
    given = {"end_id": end_id} if "end_id" in _keys(section) else {}
    return build_named("model", section, "config.model.text", vocab_size=vocab_size, **given)


def downstream(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section of what goes on from two towers on images alone."""
    return kwargs["image"]


def texts(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section of the text tower alone."""
    return told(kwargs["text"], kwargs)


def run_as(image: Mapping[str, Any], text: Mapping[str, Any]) -> dict[str, Any]:
    """The section of a text tower that is run as its image tower, with its dtype, where it reads that and does not say
    otherwise."""
    known = _keys(text)
    return {name: image[name] for name in (*EXECUTION_KEYS, "dtype") if name in image and name in known} | dict(text)


def told(section: Mapping[str, Any], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section with what the two towers are told of the tokenizer."""
    given = ("vocab_size", "end_id") if "end_id" in _keys(section) else ("vocab_size",)
    return {**section, **{name: kwargs[name] for name in given if name in kwargs}}


def _keys(section: Mapping[str, Any]) -> Sequence[str]:
    return getattr(named_module("model", section.get("name")), "KEYS", ())


def _width(image: nn.Module, text: nn.Module, project_image: Projection, project_text: Projection) -> int:
    if project_text == "none":
        return text.text.width
    width = getattr(getattr(image, "encoder", None), "width", None)
    if project_image != "none" or width is None:
        raise UserError("Nothing says how wide the space of images and texts is", "Set config.model.embed_dim")
    return width
