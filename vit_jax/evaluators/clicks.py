"""How well a model of prompts segments what it is shown: by clicks, one after the other, and by boxes.

Kirillov et al., "Segment anything" (arXiv:2304.02643), section 7.1 and appendix D.1: the first click is in the middle
of a mask, each further one in what is wrong after the one before, and to the first there are three answers, of which
the one counts that the model thinks best; beside it stands the best one of the three.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from vit_jax.data.pipeline import EvalPipeline
from vit_jax.errors import UserError
from vit_jax.evaluators import Apply, EvaluationRun, PipelineFactory
from vit_jax.nn.clicks import rim
from vit_jax.nn.drawn_prompts import central_prompt, correction, exact_box
from vit_jax.nn.mask_loss import overlap
from vit_jax.nn.resize import resize_maps
from vit_jax.ranges import Count

_WITHIN = 0.95  # of a mask's pixels lie in another: a click into it may mean either
_RIM = 0.02  # of the image's diagonal: how far the boundary reaches that boundary IoU compares
_BINS = 10

Counted = dict[str, Int[Array, "..."]]  # pixels that answers share with a mask, and those of either


@dataclasses.dataclass(frozen=True)
class Clicks:
    """Mean IoU over all masks of a set, at their own resolution, in shares.

    `click_1`, `click_2`, ... after so many clicks, and `box` for the box around a mask: of the answer that counts;
    `click_1_best`, `box_best`: of the best of three; `click_1_single`, `box_single`: of the fourth, which is for
    prompts that leave no doubt. `nested_` and `apart_`: of masks with another one in or around them, and of the others.
    `click_1_boundary`, `click_N_boundary`, `box_boundary`: boundary IoU (arXiv:2103.16562). `iou_error`: how far the
    predicted IoU of answers to one click is off; `iou_calibration`: the same of the means of ten groups of as many
    answers, from those that are thought worst to the best.

    Args:
        pipeline: the examples.
        clicks: into each mask.
        further: whether each click but the first is the pixel deepest in what is wrong, or any of it.
    """

    pipeline: EvalPipeline = dataclasses.field(hash=False)
    clicks: Count = 5
    further: Literal["centre", "uniform"] = "centre"

    def measure(self, apply: Apply, batch: Mapping[str, Array]) -> dict[str, Any]:
        masks = batch["masks"] > 0
        valid = batch["masks_valid"] & (batch["valid"] > 0)[:, None] & masks.any((2, 3))
        of_image = apply(batch, ("embedding", "prompt_size"))
        embedding, size = of_image["embedding"], of_image["prompt_size"]
        points, labels = _each(lambda mask: central_prompt(mask, size, self.clicks + 1))(masks)
        shape = (self.clicks, masks.shape[1])
        chance = jax.vmap(lambda index: jax.random.uniform(jax.random.key(index), shape))(batch["index"])

        def answered(masks: Array, points: Array, labels: Array, **prior: Array) -> tuple[Counted, Array, Array]:
            asked = {"embedding": embedding, "points": points, "point_labels": labels, "index": batch["index"]}
            found = apply({**asked, **prior}, ("mask_logits", "iou", "picked"))
            logits, picked = found["mask_logits"].astype(jnp.float32), found["picked"]
            full = resize_maps(logits[..., None], masks.shape[2:], "half_pixel")[..., 0] > 0
            chosen = jnp.take_along_axis(full, picked[..., None, None, None], axis=2)[:, :, 0]
            wide = max(1, round(_RIM * float(np.hypot(*masks.shape[2:]))))
            edges = [_each(lambda mask: rim(mask, wide))(each) for each in (chosen, masks)]
            both, either = overlap(full, jnp.broadcast_to(masks[:, :, None], full.shape))
            rim_both, rim_either = overlap(*edges)
            counted = {"both": both, "either": either, "rim_both": rim_both, "rim_either": rim_either}
            prior = jnp.take_along_axis(logits, picked[..., None, None, None], axis=2)[:, :, 0]
            return {**counted, "iou": found["iou"].astype(jnp.float32), "picked": picked}, chosen, prior

        def further(carry: tuple[Array, ...], number: Int[Array, ""]) -> tuple[tuple[Array, ...], Counted]:
            points, labels, chosen, prior = carry
            if self.further == "centre":
                clicks, kinds = _each(lambda a, b: correction(None, a, b, size=size))(chosen, masks)
            else:
                clicks, kinds = _each(functools.partial(correction, size=size))(chance[:, number], chosen, masks)
            here = jnp.arange(labels.shape[2]) == number + 1  # after the first and the token that there is no box
            points = jnp.where(here[:, None], clicks[:, :, None], points)
            labels = jnp.where(here, kinds[:, :, None], labels)
            has_prior = jnp.ones(labels.shape[:2], bool)
            counted, chosen, prior = answered(masks, points, labels, prior=prior, has_prior=has_prior)
            return (points, labels, chosen, prior), counted

        # Clicks and boxes in one call: the model is compiled for it once.
        boxes = _each(lambda mask: exact_box(mask, size, self.clicks + 1))(masks)
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), (masks, points, labels), (masks, *boxes))
        found, count = answered(*both), masks.shape[1]
        first, chosen, prior = jax.tree.map(lambda x: x[:, :count], found)
        carry = (points, labels, chosen, prior)
        rest = jax.lax.scan(further, carry, jnp.arange(1, self.clicks))[1] if self.clicks > 1 else {}
        return {
            "click": first,
            "rest": rest,
            "box": jax.tree.map(lambda x: x[:, count:], found[0]),
            "valid": valid,
            "nested": _nested(masks & valid[..., None, None]),
        }

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        parts = list(run(self.pipeline))
        there = [part["valid"] for part in parts]
        if not any(valid.any() for valid in there):
            raise UserError("There is no mask in the evaluation data", "Evaluate on scenes with objects")

        def kept(values: Sequence[Shaped[np.ndarray, "B M ..."]]) -> Shaped[np.ndarray, "N ..."]:
            return np.concatenate([value[valid] for value, valid in zip(values, there, strict=True)])

        def answers(name: str, number: int | None = None) -> "_Answers":
            of = [part[name] if number is None else {k: v[number] for k, v in part[name].items()} for part in parts]
            return _Answers(**{key: kept([each[key] for each in of]) for key in of[0]})

        nested = kept([part["nested"] for part in parts])
        found = {"masks": float(len(nested)), "nested": float(nested.mean())}
        asked = {"click_1": answers("click"), "box": answers("box")}
        further = {f"click_{2 + number}": answers("rest", number) for number in range(self.clicks - 1)}
        for name, each in (asked | further).items():
            found[name] = each.counting.mean()
        for name, each in asked.items():
            found |= {f"{name}_best": each.best.mean(), f"{name}_single": each.real[:, 0].mean()}
            for which, group in {"nested": nested, "apart": ~nested}.items():
                if group.any():
                    own = {"": each.counting, "_best": each.best, "_single": each.real[:, 0]}
                    found |= {f"{which}_{name}{kind}": values[group].mean() for kind, values in own.items()}
        for name in {"click_1", f"click_{self.clicks}", "box"}:
            found[f"{name}_boundary"] = (asked | further)[name].boundary.mean()
        return found | asked["click_1"].calibration()


@dataclasses.dataclass(frozen=True)
class _Answers:
    """What was counted of N masks, as float64 shares."""

    both: Int[np.ndarray, "N 4"]
    either: Int[np.ndarray, "N 4"]
    rim_both: Int[np.ndarray, " N"]
    rim_either: Int[np.ndarray, " N"]
    iou: Float[np.ndarray, "N 4"]
    picked: Int[np.ndarray, " N"]

    @property
    def real(self) -> Float[np.ndarray, "N 4"]:
        return self.both / np.maximum(self.either, 1)

    @property
    def counting(self) -> Float[np.ndarray, " N"]:
        return self.real[np.arange(len(self.picked)), self.picked]

    @property
    def best(self) -> Float[np.ndarray, " N"]:
        return self.real[:, 1:].max(axis=1)

    @property
    def boundary(self) -> Float[np.ndarray, " N"]:
        return self.rim_both / np.maximum(self.rim_either, 1)

    def calibration(self) -> dict[str, float]:
        """How far the predicted IoU is off, of single answers and of groups of them."""
        predicted = self.iou[np.arange(len(self.picked)), self.picked].astype(np.float64)
        order = np.argsort(predicted, kind="stable")
        groups = [group for group in np.array_split(order, _BINS) if len(group)]
        off = sum(len(g) * abs(predicted[g].mean() - self.counting[g].mean()) for g in groups)
        return {"iou_error": np.abs(predicted - self.counting).mean(), "iou_calibration": off / len(order)}


def _each(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of every mask of every image."""
    return jax.vmap(jax.vmap(function))


def _nested(masks: Bool[Array, "B M h w"]) -> Bool[Array, "B M"]:
    """Whether a mask lies in another one of its image, or another one in it."""
    flat = masks.reshape(*masks.shape[:2], -1).astype(jnp.float32)
    both = jnp.einsum("bip,bjp->bij", flat, flat, precision="highest")
    areas = jnp.diagonal(both, axis1=1, axis2=2)
    within = (both >= _WITHIN * areas[:, :, None]) & (areas[:, :, None] > 0) & (areas[:, None] > 0)
    within = within & ~jnp.eye(masks.shape[1], dtype=bool)
    return within.any(1) | within.any(2)


def build(
    pipeline: PipelineFactory,
    source: Mapping[str, Any] | None = None,
    clicks: Count = 5,
    further: Literal["centre", "uniform"] = "centre",
) -> Clicks:
    """Evaluates on `source`, or on the config's `data.eval`; `clicks` and `further` as in `Clicks`."""
    return Clicks(pipeline(source=source), clicks, further)
