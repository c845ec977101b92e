"""Several sources as one, drawn from by weight: `{"name": "mixture", "sources": {"a": {..., "weight": 0.7}, ...}}`."""

from collections.abc import Mapping
from typing import Any

from vit_jax.data.order import Mixture
from vit_jax.errors import UserError
from vit_jax.naming import build_named


def build(sources: Mapping[str, Mapping[str, Any]]) -> Mixture:
    """The mixture of some sources.

    In training every stretch of examples holds the parts in proportion to their weights, whatever their sizes: a
    small part is seen in more epochs. Evaluation takes every example of every part once. Classes of the same name
    are one class.

    Args:
        sources: by a name of your choice, each a source's section (`name` and arguments) with an optional `weight`, 1
            by default.

    Raises:
        UserError: for a section that is not one, an empty part, or weights that are not positive.
    """
    parts, weights = [], []
    for key, section in sources.items():
        if not isinstance(section, Mapping):
            raise UserError(f"{key!r} in the mixture is {section!r}", "Make it a section with the name of a source")
        values = dict(section)
        weights.append(values.pop("weight", 1.0))
        parts.append(build_named("source", values, f"sources.{key}"))
    return Mixture(parts, weights)
