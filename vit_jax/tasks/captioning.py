"""Captions from images: Desai and Johnson, "VirTex" (arXiv:2006.06666), the second baseline of CLIP's
(arXiv:2103.00020, figure 2).

The decoder is given a caption up to each token and guesses the next one (teacher forcing), from its start and, with a
decoder of both directions, from its end; the loss is the sum of the two (section 3). A language model as CLIP's authors
tried it reads onwards alone: `both_ways=False`.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from vit_jax.data.fields import Fields
from vit_jax.data.fields.tokens import Tokens
from vit_jax.errors import UserError
from vit_jax.models.captioner import Captioner
from vit_jax.naming import build_model
from vit_jax.nn.decode import beam_search
from vit_jax.nn.next_token import next_token_losses
from vit_jax.ranges import Count
from vit_jax.tasks import Answer, Batch, DataInfo, Metrics, Task, Variables, chosen, in_training, model_outputs


def turned(ids: Int[Array, "B L"], mask: Shaped[Array, "B L"]) -> Int[Array, "B L"]:
    """Rows from their last token that is no padding to their first; the padding stays behind."""
    places, count = jnp.arange(ids.shape[1]), mask.astype(jnp.int32).sum(1, keepdims=True)
    return jnp.take_along_axis(ids, jnp.where(places < count, count - 1 - places, places), axis=1)


@dataclasses.dataclass(frozen=True)
class Captioning(Task):
    """From `batch["image"]` float [B, H, W, 3] to `batch["text"]` int32 [B, L], with its start and its end.

    The loss is the mean over the tokens of a batch's captions, so that all weigh alike, and the sum of both directions.

    Metrics: `loss`; onwards `nats_per_token` and `token_accuracy`, and `backward_nats_per_token` the other way.

    Args:
        model: the image model with the decoder.
        model_spec: what rebuilds it from a checkpoint.
        text: the field of captions.
        beams: of the search that `samples` come from.
    """

    model: Captioner
    model_spec: Mapping[str, Any] = dataclasses.field(hash=False)
    text: Tokens = dataclasses.field(hash=False)
    beams: int = 5
    answered_by: ClassVar[tuple[str, ...]] = ("samples",)
    whole_batch: ClassVar[str] = "its loss is a mean over the batch's tokens, of which a part may have more or fewer"

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        variables = dict(self.model.init({"params": rng}, batch["image"], *self._given(batch)))
        return {"params": variables.pop("params"), "model_state": variables}

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        del step
        given = self._given(batch)
        found, state = in_training(
            self.model, variables["params"], variables["model_state"], jax.random.split(rng), batch["image"], *given
        )
        mask = batch["text_mask"]
        losses, weight = next_token_losses(found["logits"], given[0], mask)
        count, metrics = weight.sum(), {}
        total = losses.sum()
        if self.model.text.both_ways:
            back, _ = next_token_losses(found["backward_logits"], given[1], mask)
            metrics["backward_nats_per_token"] = (back.sum(), count)
            total = total + back.sum()
        right = (found["logits"][:, :-1].argmax(-1) == given[0][:, 1:]) * weight
        metrics |= {
            "loss": (total, count),
            "nats_per_token": (losses.sum(), count),
            "token_accuracy": (right.sum(), count),
        }
        return total / jnp.maximum(count, 1), (metrics, state)

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        """Of images `features [B, D]`, `tokens [B, T, D]`, `maps`, and `samples [B, L]`, the caption that a search with
        beams finds; of images and captions `token_losses [B, L - 1]` in nats, onwards, and `counted [B, L - 1]`, which
        tokens have one."""
        del rng
        given: dict[str, Any] = {"samples": lambda: self._sampled(variables, batch["image"])}
        if names & {"features", "tokens", "maps"}:
            given |= model_outputs(self.model, variables, batch["image"], names)
        if "text" in batch:
            forced = functools.cache(lambda: self._forced(variables, batch))
            given |= {"token_losses": lambda: forced()[0], "counted": lambda: forced()[1]}
        return chosen(names, given)

    def answers(self, outputs: Mapping[str, Array], fields: Fields) -> list[Answer]:
        return [self.text.text(ids) for ids in np.asarray(outputs["samples"])]

    def forward_flops(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> float | None:
        """See `Task`: of one image and its caption, padding included; the image is taken for one token a place."""
        image = self.model.flops(batch["image"].shape[-3:-1])
        if image is None or "text" not in batch:
            return image
        shape = jax.ShapeDtypeStruct((1, *batch["image"].shape[-3:]), jnp.float32)
        variables = jax.eval_shape(self.model.init, jax.random.key(0), *self.model.example_inputs(shape.shape[1:3]))
        memory = jax.eval_shape(functools.partial(self.model.apply, method="remember"), variables, shape)
        return image + self.model.text.flops(batch["text"].shape[-1], memory.shape[1])

    def _given(self, batch: Batch) -> tuple[Int[Array, "B L"], ...]:
        """Captions in the directions that the decoder reads. Their last tokens are given too: what they guess does not
        count."""
        ids = batch["text"]
        return (ids, turned(ids, batch["text_mask"])) if self.model.text.both_ways else (ids,)

    def _forced(self, variables: Variables, batch: Batch) -> tuple[Float[Array, "B s"], Float[Array, "B s"]]:
        collections = {"params": variables["params"], **variables["model_state"]}
        found = self.model.apply(collections, batch["image"], batch["text"])
        return next_token_losses(found["logits"], batch["text"], batch["text_mask"])

    def _sampled(self, variables: Variables, images: Float[Array, "B H W 3"]) -> Int[Array, "B L"]:
        apply = functools.partial(self.model.apply, {"params": variables["params"], **variables["model_state"]})
        rows, length, tokenizer = images.shape[0], self.text.length, self.text.tokenizer
        memory = apply(images, method="remember")
        first, at = jnp.full(rows, tokenizer.bos_id, jnp.int32), jnp.zeros(rows, jnp.int32)
        cache = self.model.text.new_cache(rows, length, memory.shape[1])
        _, cache = apply(first[:, None], memory, cache, 0, method="step")

        def step(ids: Array, at: Array, cache: Any) -> tuple[Array, Any]:
            logits, cache = apply(ids[:, None], None, cache, at, method="step")
            return logits[:, 0], cache

        ids, _ = beam_search(
            step, cache, first, at, length=length - 1, beams=self.beams, eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
        )  # fmt: skip
        return ids[:, 0]


def build(*, model: Mapping[str, Any], data: DataInfo, beams: Count = 5) -> Captioning:
    """The task.

    Args:
        model: the section of a `captioner`, without `vocab_size`.
        beams: of the search for captions; VirTex's are 5, without a length penalty.

    Raises:
        UserError: for data without images or without a field "text" of tokens that start and end.
    """
    text = data.fields.get("text")
    if not isinstance(text, Tokens):
        raise UserError(
            "Captioning reads a field 'text' of tokens, which the data does not have",
            "Set config.data.fields.text with the name 'tokens'",
        )
    if not (text.bos and text.eos):
        raise UserError("Captions do not say where they start and end", "Set bos=True and eos=True for the field text")
    if data.image_size is None:
        raise UserError("Captions are made of images, and the data has none", "Set config.data.image_size")
    section = {"name": "captioner", **model}
    if section["name"] != "captioner":
        raise UserError(
            f"The model {section['name']!r} has no decoder of captions",
            "Set config.model.name=captioner, and that model as config.model.image",
        )
    module, spec = build_model(section, vocab_size=text.tokenizer.vocab_size)
    return Captioning(module, spec, text, beams)
