"""A share of another source that is held out, or all of it but that share."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from vit_jax.data.subset import Subset
from vit_jax.errors import UserError
from vit_jax.naming import build_named
from vit_jax.ranges import Decay, Natural


def build(*, source: Mapping[str, Any], share: Decay, part: Literal["held", "rest"], seed: Natural = 0) -> Subset:
    """Part of a source by a seeded permutation of its examples: a development set for a source that has none.

    Args:
        source: the section of the other source.
        share: of its examples that is held out, above 0; at least one is.
        part: what is held out ("held"), or the others ("rest"); each in the source's order.

    Raises:
        UserError: for a share of 0, or a source of which nothing would be left.
    """
    if not isinstance(source, Mapping):
        raise UserError(f"held_out takes a part of a source, and got {source!r}", "Give the section of a source")
    whole = build_named("source", source, "held_out.source")
    held = max(1, round(share * len(whole)))
    if not share or held >= len(whole):
        raise UserError(
            f"A share of {share} of {len(whole)} examples holds out {'nothing' if not share else 'all of them'}",
            "Give a share between 0 and 1, such as 0.1",
        )
    drawn = np.random.default_rng(seed).permutation(len(whole))
    return Subset(whole, np.sort(drawn[:held] if part == "held" else drawn[held:]))
