"""SAM: Kirillov et al., "Segment anything" (arXiv:2304.02643), trained as its appendix A says.

Of each image some masks are targets. A first prompt is drawn for each, a point in it or a box around it, and then
clicks into what the last answer got wrong, with that answer's logits as a prompt beside them. The image is encoded once
for all rounds. To one point or box there are three answers, of which only the best one's loss counts, since each may be
right; to more there is one. The next round starts from the answer that the model itself thinks best.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from vit_jax.data.fields import Fields
from vit_jax.errors import UserError
from vit_jax.naming import build_model, construct
from vit_jax.nn.drawn_prompts import Drawn, correction, several_answers
from vit_jax.nn.mask_loss import binary_cross_entropy, dice_loss, focal_loss, iou
from vit_jax.nn.prompts import PADDING
from vit_jax.nn.resize import resize_maps
from vit_jax.ranges import Count, Natural, NonNegative, Range, Share
from vit_jax.tasks import Answer, Batch, DataInfo, Metrics, Task, Variables, chosen, in_training, model_outputs

_OF_MODEL, _OF_PROMPTS = ("tokens", "features", "maps"), ("mask_logits", "iou", "picked")


@dataclasses.dataclass(frozen=True)
class Weights:
    """The `task.weights` section: what each part of the loss counts.

    Args:
        focal, dice, cross_entropy: of the mask, see `vit_jax.nn.mask_loss`.
        iou: of the squared error of the predicted overlap.
    """

    focal: NonNegative = 20.0
    dice: NonNegative = 1.0
    cross_entropy: NonNegative = 0.0
    iou: NonNegative = 1.0


class First(NamedTuple):
    """The first prompt for each target of a batch.

    Args:
        points, labels: in the slots of `Drawn`.
        beside: what the model's `predict` is told in all rounds beside points and masks, by its names.
    """

    points: Float[Array, "B Q n 2"]
    labels: Int[Array, "B Q n"]
    beside: Mapping[str, Array] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class SegmentAnything(Task):
    """Masks for prompts that are drawn from `batch["masks"]` [B, M, s, s] where `batch["masks_valid"]` [B, M].

    Losses are a mean over the targets of an image, then over images, so that they accumulate.

    Args:
        model: has `embed(images, train) -> [B, h, w, C]`, `predict(embedding, points, labels, masks, has_mask)` and
            `stride`, see `vit_jax.models.sam.Sam`.
        targets: masks of an image that are asked for in a step, drawn from those it has.
        drawn: how a first prompt is drawn.
        corrections: clicks into what is wrong.
        refinements: rounds without a new click: the last one, and of two another one somewhere among the corrections.
        multimask: whether one point or box has three answers.
        weights: of the loss.
        remat: whether a round's activations are computed again in the backward pass, instead of kept.
    """

    model: nn.Module
    model_spec: Mapping[str, Any] = dataclasses.field(hash=False)
    targets: int
    drawn: Drawn = dataclasses.field(default_factory=Drawn)
    corrections: int = 8
    refinements: int = 2
    multimask: bool = True
    weights: Weights = dataclasses.field(default_factory=Weights)
    remat: bool = False
    takes: tuple[str, ...] = ("embedding",)

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        variables = dict(self.model.init({"params": rng}, batch["image"], train=False))
        return {"params": variables.pop("params"), "model_state": variables}

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        del step
        params, state = variables["params"], variables["model_state"]
        prompting, *keys = jax.random.split(rng, 3)
        embedding = batch.get("embedding")
        if embedding is None:
            embedding, state = in_training(self.model, params, state, keys, batch["image"], method="embed")
        count, own = batch["masks"].shape[1], self._draws + 1 + self.corrections + self.refinements + 1
        # All that is left to chance at once.
        size = count + min(self.targets, count) * own
        chance = jax.random.uniform(prompting, (len(batch["masks"]), size))
        masks, valid = jax.vmap(self._targets)(chance[:, :count], batch["masks"] > 0, batch["masks_valid"])
        chance = chance[:, count:].reshape(*masks.shape[:2], own)
        collections = {"params": params, **state}
        first = self._first(collections, batch, masks, chance[..., : self._draws], self._frame(embedding))
        rounds = self._rounds(collections, embedding, masks, first, chance[..., self._draws :])
        # Means over an image's targets; an image without any adds nothing.
        share = valid / jnp.maximum(valid.sum(1, keepdims=True), 1)
        of_image = {name: (values * share).sum(-1) for name, values in rounds.items()}
        images = valid.any(1).sum(dtype=jnp.float32)
        metrics = {name: (values.mean(0).sum(), images) for name, values in of_image.items() if name != "iou"}
        for name, number in {"iou_first": 0, "iou_last": -1}.items():
            metrics[name] = (of_image["iou"][number].sum(), images)
        return of_image["loss"].mean(), (metrics, state)

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        """See `Task`: `embedding [B, h, w, C]` of the image; `prompt_size [2]`, height and width
        in which points are given; and with the prompts "points" [B, Q, n, 2],
        "point_labels" [B, Q, n] and, where there are some, "prior" [B, Q, 4h, 4w] and "has_prior" [B, Q], and
        "meant" [B, Q, E] and "has_meant" [B, Q], embeddings of texts or of what looks like what is meant, of a batch
        `mask_logits [B, Q, 4, 4h, 4w]` and the predicted `iou [B, Q, 4]` of all four answers, and `picked [B, Q]`,
        which of them counts. A batch with an "embedding" need not have the image. And what the model gives of
        images: `features`, `tokens`, `maps`."""
        del rng
        collections = {"params": variables["params"], **variables["model_state"]}
        given: dict[str, Any] = dict.fromkeys((*_OF_MODEL, "embedding", "prompt_size", *_OF_PROMPTS))
        if not names.isdisjoint(_OF_MODEL):
            given |= model_outputs(self.model, variables, batch["image"], names)
        if names.isdisjoint(("embedding", "prompt_size", *_OF_PROMPTS)):
            return chosen(names, given)
        image = batch.get("embedding")
        image = self.model.apply(collections, batch["image"], method="embed") if image is None else image
        given |= {"embedding": image, "prompt_size": jnp.float32(self._frame(image))}
        if names.isdisjoint(_OF_PROMPTS):
            return chosen(names, given)
        labels = batch["point_labels"]
        has_prior = batch.get("has_prior", jnp.zeros(labels.shape[:2], bool))
        prior = batch.get("prior", jnp.zeros((*labels.shape[:2], *self._mask_size(image)), jnp.float32))
        asked = (image, batch["points"], labels, prior, has_prior)
        meant = {"text": batch["meant"], "has_text": batch["has_meant"]} if "meant" in batch else {}
        logits, overlap = self.model.apply(collections, *asked, **meant, method="predict")
        others = (has_prior, batch["has_meant"]) if meant else (has_prior,)
        picked = self._picked(overlap, several_answers(labels, *others))
        return chosen(names, {**given, "mask_logits": logits, "iou": overlap, "picked": picked})

    def answers(self, outputs: Mapping[str, Array], fields: Fields) -> list[Answer]:
        raise UserError("This model answers to prompts", "Use 'vit_jax segment' with --points, --box or --everything")

    def _targets(
        self, chance: Float[Array, " M"], masks: Bool[Array, "M s s"], valid: Bool[Array, " M"]
    ) -> tuple[Bool[Array, "Q s s"], Bool[Array, " Q"]]:
        """Some of an image's masks, each with equal odds; an empty one has nothing to be clicked."""
        valid = valid & masks.any((1, 2))
        order = jnp.argsort(jnp.where(valid, chance, 2.0))[: self.targets]
        return masks[order], valid[order]

    @property
    def _draws(self) -> int:
        """Numbers from [0, 1) that a first prompt takes."""
        return self.drawn.draws

    def _first(
        self,
        variables: Mapping[str, Any],
        batch: Batch,
        masks: Bool[Array, "B Q s s"],
        chance: Float[Array, "B Q draws"],
        size: tuple[int, int],
    ) -> First:
        """The first prompt for each mask."""
        del variables, batch
        return First(*_each(functools.partial(self.drawn, size=size))(chance, masks))

    def _rounds(
        self,
        variables: Mapping[str, Any],
        embedding: Float[Array, "B h w C"],
        masks: Bool[Array, "B Q s s"],
        first: First,
        chance: Float[Array, "B Q draws"],
    ) -> dict[str, Float[Array, "R B Q"]]:
        """What each round costs for each target, and how much of it the answer that goes on has got right."""
        count, size = 1 + self.corrections + self.refinements, self._frame(embedding)
        # A number for each round, and one for the round that is idle.
        of_idle, of_rounds = jnp.split(chance, [1], axis=-1)
        room = ((0, 0), (0, 0), (0, count - 1))
        points = jnp.pad(first.points, (*room, (0, 0)))
        labels = jnp.pad(first.labels, room, constant_values=PADDING)
        idle = 1 + (of_idle[..., 0] * (self.corrections + 1)).astype(jnp.int32)

        def one(carry: tuple[Array, ...], number: Int[Array, ""]) -> tuple[tuple[Array, ...], dict[str, Array]]:
            points, labels, prior = carry
            found = self._at(prior, masks.shape[2:]) > 0
            clicks, kinds = _each(functools.partial(correction, size=size))(of_rounds[..., number], found, masks)
            rests = (number == 0) | (number == count - 1 if self.refinements else False)
            rests = rests | (number == idle if self.refinements > 1 else False)
            here = (jnp.arange(labels.shape[2]) == self.drawn.slots + number - 1) & ~rests[..., None]
            points = jnp.where(here[..., None], clicks[:, :, None], points)
            labels = jnp.where(here, kinds[:, :, None], labels)
            asked = jnp.full(labels.shape[:2], number > 0)
            prompts = (points, labels, prior, asked)
            logits, overlap = self.model.apply(variables, embedding, *prompts, **first.beside, method="predict")
            costs, picked = self._costs(logits, overlap, masks, number == 0)
            prior = jnp.take_along_axis(logits, picked[..., None, None, None], axis=2)[:, :, 0]
            return (points, labels, jax.lax.stop_gradient(prior.astype(jnp.float32))), costs

        prior = jnp.zeros((*masks.shape[:2], *self._mask_size(embedding)), jnp.float32)
        body = jax.checkpoint(one) if self.remat else one
        return jax.lax.scan(body, (points, labels, prior), jnp.arange(count))[1]

    def _costs(
        self,
        logits: Float[Array, "B Q 4 a b"],
        overlap: Float[Array, "B Q 4"],
        masks: Bool[Array, "B Q s s"],
        first: Bool[Array, ""],
    ) -> tuple[dict[str, Float[Array, "B Q"]], Int[Array, "B Q"]]:
        """The parts of a round's loss, and which answer goes on."""
        logits = self._at(logits.astype(jnp.float32), masks.shape[2:])
        wanted, several = jnp.broadcast_to(masks[:, :, None], logits.shape), first & self.multimask
        weights, parts = self.weights, {}
        for name, loss in {"focal": focal_loss, "dice": dice_loss, "cross_entropy": binary_cross_entropy}.items():
            if getattr(weights, name):
                parts[name] = loss(logits, wanted)
        of_mask = sum(getattr(weights, name) * values for name, values in parts.items())
        best = jnp.where(several, 1 + of_mask[..., 1:].argmin(-1), 0)
        real = jax.lax.stop_gradient(iou(logits > 0, wanted))
        error = jnp.square(overlap.astype(jnp.float32) - real)
        # All three learn how good they are, or they could not be compared.
        error = jnp.where(several, error[..., 1:].mean(-1), error[..., 0])
        picked = self._picked(overlap, jnp.broadcast_to(several, masks.shape[:2]))

        def take(values: Float[Array, "B Q 4"], which: Int[Array, "B Q"]) -> Float[Array, "B Q"]:
            return jnp.take_along_axis(values, which[..., None], axis=-1)[..., 0]

        costs = {name: take(values, best) for name, values in parts.items()}
        costs["loss"] = take(of_mask, best) + weights.iou * error
        return costs | {"iou_error": error, "iou": take(real, picked)}, picked

    def _picked(self, overlap: Float[Array, "B Q 4"], several: Bool[Array, "B Q"]) -> Int[Array, "B Q"]:
        """Which answer counts: the one that is thought best, or the only one."""
        return jnp.where(several & self.multimask, 1 + overlap[..., 1:].argmax(-1), 0)

    def _at(self, logits: Float[Array, "*m a b"], size: tuple[int, int]) -> Float[Array, "*m s s"]:
        return resize_maps(logits[..., None], size, "half_pixel")[..., 0]

    def _mask_size(self, embedding: Float[Array, "B h w C"]) -> tuple[int, int]:
        return 4 * embedding.shape[1], 4 * embedding.shape[2]

    def _frame(self, embedding: Float[Array, "B h w C"]) -> tuple[int, int]:
        """Height and width in which points are counted."""
        return self.model.stride * embedding.shape[1], self.model.stride * embedding.shape[2]


def _each(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of every target of every image."""
    return jax.vmap(jax.vmap(function))


def build(
    *,
    model: Mapping[str, Any],
    data: DataInfo,
    targets: Count = 1,
    boxes: Share = 0.5,
    points: Count = 1,
    corrections: Natural = 8,
    refinements: Annotated[int, Range(0, 2)] = 2,
    multimask: bool = True,
    weights: Mapping[str, Any] | None = None,
    remat: bool = False,
) -> SegmentAnything:
    """The task; the defaults are the paper's, but for the targets of an image, which are as many as memory holds.

    Args:
        model: the section of a model of prompts, such as `sam`.
        boxes: how often the first prompt is a box; otherwise it is a number of `points` from 1 to this.
        weights: see `Weights`.
        targets, corrections, refinements, multimask, remat: see `SegmentAnything`.
    """
    module, spec = build_model(model, num_classes=0)
    if not hasattr(module, "predict"):
        raise UserError(f"The model {spec['name']!r} takes no prompts", "Set config.model.name=sam")
    del data
    return SegmentAnything(
        module,
        spec,
        targets,
        Drawn(boxes, points),
        corrections,
        refinements,
        multimask,
        construct(Weights, weights or {}, "config.task.weights"),
        remat,
    )
