"""Test-time augmentation: the mean of what a classifier says of several views of an image."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vit_jax.data.batch import NotedBatch
from vit_jax.data.fields import Fields
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.data.preprocess import Preprocess
from vit_jax.errors import UserError
from vit_jax.evaluators import Apply
from vit_jax.naming import nearest

VIEWS = ("flip", "ten_crop")
_WIDER = 8 / 7  # 256 for crops of 224


@dataclasses.dataclass(frozen=True)
class Views:
    """Which parts of a batch's images are seen.

    Args:
        size: (height, width) of a view.
        places: of each view its top, its left, and 1 where it is mirrored.
    """

    size: tuple[int, int]
    places: tuple[tuple[int, int, int], ...]

    def logits(self, apply: Apply, batch: NotedBatch, objective: str) -> Float[Array, "B K"]:
        """Logits whose probabilities are the mean over the views of the model's.

        The views are gone through one after the other by one compiled program, with the memory of one.
        """

        def seen(place: Int[Array, "3"]) -> Float[Array, "B K"]:
            top, left, mirrored = place
            image = batch["image"]
            view = jax.lax.dynamic_slice(image, (0, top, left, 0), (len(image), *self.size, image.shape[3]))
            view = jnp.where(mirrored, view[:, :, ::-1], view)
            return apply(batch.replaced(image=view), ("logits",))["logits"].astype(jnp.float32)

        logits = jax.lax.map(seen, jnp.array(self.places))
        # Of logarithms, since probabilities themselves round to 0 and 1.
        if objective == "softmax":
            return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - jnp.log(len(logits))
        yes, no = (jax.nn.logsumexp(jax.nn.log_sigmoid(sign * logits), axis=0) for sign in (1, -1))
        return yes - no


def views_of(name: str, pipeline: EvalPipeline) -> tuple[EvalPipeline, Views]:
    """A pipeline whose images hold all views, and the views.

    Args:
        name: 'flip' for the image and its mirror image; 'ten_crop' for the four corners and the centre and the mirror
            image of each (Krizhevsky et al., "ImageNet classification with deep convolutional neural networks", section
            4.1), out of the square that evaluation crops its centre from, or of one 8/7 as large where it crops none.

    Raises:
        UserError: for another name, and for data without images.
    """
    if name not in VIEWS:
        raise UserError(f"There are no views named {name!r}", nearest(name, VIEWS))
    preprocess = getattr(pipeline.fields.get("image"), "preprocess", None)
    if preprocess is None:
        raise UserError("The data has no images of one size to see in several views", "Leave out views")
    height, width = preprocess.image_size
    if name == "flip":
        return pipeline, Views((height, width), ((0, 0, 0), (0, 0, 1)))
    wider = _wider(preprocess)
    below, beside = wider.image_size[0] - height, wider.image_size[1] - width
    corners = [(0, 0), (0, beside), (below, 0), (below, beside), (below // 2, beside // 2)]
    places = tuple((top, left, mirrored) for mirrored in (0, 1) for top, left in corners)
    kinds: Mapping = {
        **pipeline.fields.kinds,
        "image": dataclasses.replace(pipeline.fields["image"], preprocess=wider),
    }
    fields = Fields(kinds, pipeline.fields.explicit)
    return pipeline.over(pipeline.source, fields, None), Views((height, width), places)


def _wider(preprocess: Preprocess) -> Preprocess:
    """With more around the centre: what the preprocessing makes before it crops."""
    size, to = np.array(preprocess.image_size), preprocess.resize_to
    ratio = 1.0 if to is None else float((np.array(to) / (size.max() if isinstance(to, int) else size)).min())
    whole = tuple(round(side * (ratio if ratio > 1 else _WIDER)) for side in preprocess.image_size)
    if ratio > 1:
        return dataclasses.replace(preprocess, image_size=whole, trim=(0, 0))
    return preprocess.resized(whole)
