"""What a masked autoencoder makes of images of which it sees some patches (MAE, figures 2 and 3)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from vit_jax.checkpoints.load import Loaded
from vit_jax.errors import UserError
from vit_jax.models.mae import MaskedAutoencoder, random_orders
from vit_jax.nn.patch import patchify, unpatchify

_HIDDEN = 127  # grey


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """Images uint8 [B, H, W, 3].

    Args:
        masked: the images with grey where the encoder saw nothing.
        completed: the patches that were seen, and for the others what the decoder made of them.
    """

    masked: UInt8[np.ndarray, "B H W 3"]
    completed: UInt8[np.ndarray, "B H W 3"]


def can_reconstruct(loaded: Loaded) -> bool:
    """Whether the checkpoint is that of a masked autoencoder with its decoder."""
    return isinstance(loaded.model, MaskedAutoencoder) and "decoder" in loaded.params


def reconstruct(loaded: Loaded, images: UInt8[np.ndarray, "B H W 3"], seed: int = 0) -> Reconstruction:
    """Masks patches at random, with the mask ratio of pretraining, and has them predicted.

    A decoder that predicts normalised pixels says nothing of the brightness and the contrast of a patch: those are
    taken from the original, so that the picture flatters it.

    Args:
        loaded: what `vit_jax.load` gave.
        images: as `loaded.preprocess.to_uint8` makes them.
        seed: of the masks.

    Raises:
        UserError: for a model that is not a masked autoencoder.
    """
    if not can_reconstruct(loaded):
        raise UserError("This model has no decoder to reconstruct images with", "Use the checkpoint of an MAE")
    model, size = loaded.model, images.shape[1:3]
    grid, visible = model.grid(size), model.visible(size)
    pixels = jnp.asarray(loaded.preprocess.normalize(images))
    orders = random_orders(jax.random.key(seed), len(images), grid[0] * grid[1])
    predicted = jax.jit(lambda params, x, o: model.apply({"params": params}, x, o, method="reconstruct"))(
        loaded.params, pixels, orders
    )
    patches = patchify(pixels, model.encoder.patch_size).reshape(predicted.shape)
    if model.normalize_pixels:
        spread = patches.std(-1, ddof=1, keepdims=True)
        predicted = predicted * spread + patches.mean(-1, keepdims=True)
    seen = np.zeros((*orders.shape, 1), bool)
    np.put_along_axis(seen, np.asarray(orders)[:, :visible, None], True, axis=1)
    completed = jnp.where(seen, patches, predicted).reshape(len(images), *grid, -1)
    completed = np.asarray(unpatchify(completed, model.encoder.patch_size), np.float32)
    shown = seen.reshape(len(images), *grid, 1)
    for axis, side in zip((1, 2), model.encoder.patch_size, strict=True):
        shown = shown.repeat(side, axis=axis)
    return Reconstruction(
        masked=np.where(shown, images, np.uint8(_HIDDEN)),
        # Exactly the image where it was seen: normalising and back rounds.
        completed=np.where(shown, images, loaded.preprocess.to_pixels(completed)),
    )
