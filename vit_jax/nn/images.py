"""What every model refuses at its door."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.errors import UserError


def check_images(images: Float[Array, "b h w c"]) -> None:
    """Refuses what is not a batch of normalised images.

    Raises:
        UserError: for bytes, which would be computed with as if they were normalised and give nonsense without a word,
            and for a single image without a batch axis.
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(
            f"A model takes normalised images of floats, these are {images.dtype}",
            "Make them with `preprocess` of what `vit_jax.load` gives, or normalise them yourself",
        )
    if images.ndim != 4:
        raise UserError(
            f"A model takes images [B, H, W, C], these are {list(images.shape)}",
            "Give one image as images[None]" if images.ndim == 3 else "Stack them along a first axis",
        )
