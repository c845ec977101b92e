"""A part of a photo drawn anew by a generator of tokens, without training for it: in-painting, out-painting, and
editing by class (MaskGIT, arXiv:2202.04200, section 4.3; VAR, arXiv:2404.02905, section 5.3).

They differ in the region alone: a hole in the photo, all around a part of it, or a box whose content is to be of
another class. The tokens outside of it stay as they are.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from vit_jax.checkpoints.given_pictures import check_pictures
from vit_jax.checkpoints.given_pictures import pasted as with_own_pixels
from vit_jax.checkpoints.load import Loaded
from vit_jax.checkpoints.sampling import BATCH_SIZE, Samples, asked, draw, name_of, settings_of
from vit_jax.checkpoints.tokenized import image_rows
from vit_jax.errors import UserError


def box_region(size: tuple[int, int], box: tuple[int, int, int, int], outside: bool = False) -> Bool[np.ndarray, "H W"]:
    """The pixels of a box (left, top, right, bottom), or all others, of an image of (height, width)."""
    left, top, right, bottom = box
    height, width = size
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise UserError(f"The box {box} is not in an image of {height}x{width}", "Give left, top, right and bottom")
    region = np.zeros(size, bool)
    region[top:bottom, left:right] = True
    return ~region if outside else region


def repainted(
    loaded: Loaded,
    photos: Sequence[Any],
    regions: Bool[np.ndarray, "N H W"],
    *,
    prompts: Sequence[str] = (),
    samples: int = 1,
    pasted: bool = True,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    **settings: Any,
) -> Samples:
    """Photos with their regions drawn anew: all samples of the first photo, then those of the second, ...

    Args:
        loaded: a checkpoint of a generator that fills in a part of an image, such as MaskGIT or VAR.
        photos: paths, bytes or uint8 [h, w, 3], which are prepared as in training's evaluation.
        regions: of the prepared photos, True where they are to be new. A token is new where a pixel of it is.
        prompts: one for each photo, such as its class; none for what the task draws unasked.
        samples: of each photo.
        pasted: whether all pixels outside of the regions are the photo's own; otherwise they are what the tokenizer
            makes of its tokens.
        settings: see `Loaded.sample`.

    Raises:
        UserError: for a task that draws whole images alone, regions or prompts of another number or size, or a region
            of all pixels or of none.
    """
    task = loaded.task
    chosen = settings_of(task, settings, "a generator that fills in a part of an image, such as 'maskgit'")
    if "mask" not in task.pictures(chosen):
        raise UserError(
            f"The task '{name_of(task)}' draws whole images alone", "Use a checkpoint of 'maskgit' or 'var'"
        )
    if samples < 1 or not len(photos):
        raise UserError(f"{samples} samples of {len(photos)} photos are none", "Ask for at least 1")
    regions, size = np.asarray(regions, bool), tuple(loaded.preprocess.image_size)
    if regions.shape != (len(photos), *size):
        raise UserError(
            f"The regions are {regions.shape}, and there are {len(photos)} photos of {size[0]}x{size[1]} pixels",
            "Give one for each, of the size that the model sees",
        )
    if len(prompts) not in (0, len(photos)):
        raise UserError(f"There are {len(prompts)} prompts for {len(photos)} photos", "Give one for each")
    rows = image_rows(loaded.fields, photos)["image"]
    images = np.asarray(loaded.fields.on_device({"image": jnp.asarray(rows)})["image"])
    photo, sample = np.divmod(np.arange(len(photos) * samples), samples)
    pictures = {"image": images, "mask": regions[..., None].astype(np.float32)}
    check_pictures(task, chosen, pictures)
    conditions = asked(task, photo, chosen, prompts, pictures)
    parts = []
    for drawn, given in draw(task, loaded.variables, chosen, conditions, sample, seed, batch_size):
        drawn = with_own_pixels(drawn, given) if pasted else drawn
        parts.append(Samples(np.stack(task.shown(drawn, given)), given))
    return Samples.joined(parts)
