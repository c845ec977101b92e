"""Positions in a row as sines and cosines ("Attention is all you need", section 3.5)."""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from vit_jax.errors import UserError
from vit_jax.nn.style import check_choice

Layout = Literal["pairs", "halves"]


def sinusoids(
    length: int, width: int, layout: Layout = "pairs", temperature: float = 1e4
) -> Float[np.ndarray, "length width"]:
    """The table of fixed positions, float32: sines and cosines of p temperature^(-2i / width), i below width / 2.

    Args:
        length: positions, from 0.
        width: of the embeddings, even.
        layout: "pairs" has the sine of frequency i in feature 2i and its cosine in 2i + 1, as the paper prints it;
            "halves" all sines first and the cosines after, as the authors' code and Marian have it.
        temperature: the ratio of the largest frequency to that which would come after the smallest.

    Raises:
        UserError: for an odd width or an unknown layout.
    """
    check_choice("layout of the positions", layout, get_args(Layout))
    if width % 2:
        raise UserError(f"Sines and cosines cannot fill a width of {width}", "Use an even width")
    angles = np.arange(length)[:, None] * temperature ** (-np.arange(width // 2) / (width / 2))
    both = np.sin(angles), np.cos(angles)
    table = np.stack(both, axis=-1).reshape(length, width) if layout == "pairs" else np.concatenate(both, axis=-1)
    return table.astype(np.float32)
