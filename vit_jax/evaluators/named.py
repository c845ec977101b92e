"""How well a model of prompts finds what is named: all objects of a class by the class's name, and nothing else.

After Kirillov et al., "Segment anything" (arXiv:2304.02643), section 7.5, which shows pictures and no figures. Beside a
name stand the embedding that the model was trained on, that of the objects' own crop, which needs no text; and the
names of other classes, with which a model that listens is wrong.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from vit_jax.checkpoints.tokenized import tokenized
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.errors import UserError
from vit_jax.evaluators import Apply, EvaluationRun, PipelineFactory
from vit_jax.nn.prompts import NOT_A_POINT, PADDING
from vit_jax.nn.resize import resize_maps


@dataclasses.dataclass(frozen=True)
class Named:
    """Mean IoU over the classes of each image, of the union of a class's masks, in shares.

    `named`: of the answer to the class's name. `crop`: to the embedding of the objects' own crop. `other`: to the names
    of all other classes, on average. `told_apart`: of images with two classes or more, how often the answer to a name
    has more in common with what is named than with any other class. `asked`: how many there are. `left_out`: objects
    that the field of masks had no slot for, which are no part of what is named here: above 0 it has too few.

    Args:
        pipeline: the examples.
        tokens: the names of the classes from 1, as the field of texts reads them, with what it has beside the ids.
    """

    pipeline: EvalPipeline = dataclasses.field(hash=False)
    tokens: Mapping[str, np.ndarray] = dataclasses.field(hash=False)

    def measure(self, apply: Apply, batch: Mapping[str, Array]) -> dict[str, Any]:
        said = apply({name: jnp.asarray(x) for name, x in self.tokens.items()}, ("text_embedding",))["text_embedding"]
        numbers = jnp.arange(1, len(said) + 1)
        wanted = _of_classes(batch["masks"] > 0, batch["masks_class"], batch["masks_valid"], numbers)
        image = {"image": batch["image"], "index": batch["index"]}
        seen = apply({**image, "masks": wanted}, ("crop_embedding", "embedding"))
        named = jnp.broadcast_to(said, seen["crop_embedding"].shape)
        meant = jnp.concatenate([named, seen["crop_embedding"]], axis=1)
        labels = jnp.broadcast_to(jnp.int32([PADDING, NOT_A_POINT]), (*meant.shape[:2], 2))
        asked = {"points": jnp.zeros((*labels.shape, 2)), "point_labels": labels, "meant": meant}
        asked |= {"has_meant": jnp.ones(labels.shape[:2], bool), "embedding": seen["embedding"]}
        found = apply({**asked, "index": batch["index"]}, ("mask_logits", "picked"))
        logits, picked = found["mask_logits"].astype(jnp.float32), found["picked"][..., None, None, None]
        logits = jnp.take_along_axis(logits, picked, axis=2)[:, :, 0]
        answers = resize_maps(logits[..., None], wanted.shape[2:], "half_pixel")[..., 0] > 0
        # Exact: counts of pixels are whole numbers below 2^24.
        flat, own = (x.reshape(*x.shape[:2], -1).astype(jnp.float32) for x in (answers, wanted))
        both = jnp.einsum("bqp,bkp->bqk", flat, own, precision="highest")
        return {
            "both": both,
            "either": flat.sum(-1)[..., None] + own.sum(-1)[:, None] - both,
            "there": wanted.any((2, 3)) & (batch["valid"] > 0)[:, None],
            "left_out": batch["masks_dropped"] * (batch["valid"] > 0),
        }

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        parts = list(run(self.pipeline))
        both, either, there = (np.concatenate([part[key] for part in parts]) for key in ("both", "either", "there"))
        if not there.any():
            raise UserError("There is no named object in the evaluation data", "Evaluate on scenes with classes")
        overlap = both.astype(np.float64) / np.maximum(either, 1)
        count = there.shape[1]
        by_name, by_crop = overlap[:, :count], np.diagonal(overlap[:, count:], axis1=1, axis2=2)
        own = np.diagonal(by_name, axis1=1, axis2=2)
        found = {"named": own[there].mean(), "crop": by_crop[there].mean()}
        if count > 1:
            found["other"] = ((by_name.sum(1) - own) / (count - 1))[there].mean()
        several = there & (there.sum(1, keepdims=True) > 1)
        if several.any():
            rivals = np.where(there[:, None] & ~np.eye(count, dtype=bool), by_name, -1.0).max(2)
            found["told_apart"] = (own > rivals)[several].mean()
        found |= {"asked": there.sum(), "left_out": sum(part["left_out"].sum() for part in parts)}
        return {name: float(value) for name, value in found.items()}


def _of_classes(
    masks: Bool[Array, "B M h w"], kinds: Array, valid: Bool[Array, "B M"], numbers: Array
) -> Bool[Array, "B K h w"]:
    """All that belongs to each class."""
    which = (kinds[:, :, None] == numbers) & valid[:, :, None]
    counted: Float[Array, "B K h w"] = jnp.einsum(
        "bmk,bmhw->bkhw", which.astype(jnp.float32), masks.astype(jnp.float32)
    )
    return counted > 0


def build(pipeline: PipelineFactory, source: Mapping[str, Any] | None = None, template: str = "{}") -> Named:
    """Evaluates on `source`, or on the config's `data.eval`: scenes with masks, whose class 0 is the background.

    Args:
        template: what is asked, with {} for the name of a class.

    Raises:
        UserError: for a source without names, masks without classes, data without texts, or a template without {}.
    """
    data = pipeline(source=source)
    names = [name.replace("_", " ") for name in data.source.label_names[1:]]
    if not names:
        raise UserError("The classes of the evaluation data have no names", "Use a source that names them")
    if getattr(data.fields.get("masks"), "classes", 0) <= len(names):
        raise UserError(
            f"The field 'masks' does not say of which of {len(names) + 1} classes a mask is",
            f"Set config.data.fields.masks.classes={len(names) + 1}",
        )
    if "{}" not in template:
        raise UserError(f"The template {template!r} has no place for a name", "Write {} in it")
    texts = [template.replace("{}", name) for name in names]
    return Named(data, tokenized(data.fields, texts, "The evaluation data"))
