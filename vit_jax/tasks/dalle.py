"""DALL-E's objective: the tokens of a text and then those of an image, each from those before it.

Ramesh et al., "Zero-shot text-to-image generation" (arXiv:2102.12092), section 2.2. Of samples for a text the authors
show the best ones by CLIP (section 2.6), see `vit_jax.checkpoints.reranking`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Shaped

from vit_jax.data.field import Field
from vit_jax.errors import UserError
from vit_jax.models.dalle import Dalle
from vit_jax.naming import build_model
from vit_jax.nn.decode import Sampling, check_top_k, decode
from vit_jax.ranges import Count, Decay, NonNegative, Range, Share
from vit_jax.tasks import Batch, DataInfo, Metrics, Variables, chosen
from vit_jax.tasks._image_tokens import TokenGenerator, cache_bytes, tokenizer_of, unit_range


@dataclasses.dataclass(frozen=True)
class DalleSampling:
    """How the tokens of an image are drawn; by default as the model says.

    Args:
        guidance: g of u + g (c - u), where c are the logits with the text and u those with paddings alone; 1 for none,
            as in the paper. Another value takes two passes.
        temperature: see `vit_jax.nn.decode.Sampling`, like `top_k` and `top_p`.
        cache: keys and values of the tokens so far are kept. Without, everything is computed again for each token, for
            comparison.
    """

    guidance: NonNegative = 1.0
    temperature: NonNegative = 1.0
    top_k: Count | None = None
    top_p: Annotated[float, Range(0, 1, open_low=True)] | None = None
    cache: bool = True


@dataclasses.dataclass(frozen=True)
class TextToImage(TokenGenerator):
    """The cross-entropies of the tokens of `batch["text"]` int32 [B, L] and of those of the image after it.

    Each is a mean over all tokens of its kind, paddings of texts among them, and the scalar weighs the two. Metrics:
    `loss`, `text_loss` and `image_loss` in nats, and `accuracy` of the image's tokens.

    Outputs: `token_losses` [B, T] of the image's tokens in nats, with `token_weights`, which are 1; `indices`,
    `reconstruction` and `original` of the tokenizer; `samples` for the texts of a batch.

    Args:
        field: of the texts.
        text_weight: of the text's mean; the rest is the image's.
    """

    model: Dalle
    field: Field | None = dataclasses.field(default=None, hash=False)
    text_weight: float = 1 / 8
    sampling: ClassVar[type] = DalleSampling

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        del step
        dropping, keys = jax.random.split(rng)
        indices, text = self._indices(variables, batch), batch["text"]
        dropped = jax.random.bernoulli(dropping, self.label_drop, (len(text), 1))
        texts, images, right = self._costs(
            variables, text, batch["text_mask"].astype(bool) & ~dropped, indices, train=True, rngs={"dropout": keys}
        )
        value = self.text_weight * texts.mean() + (1 - self.text_weight) * images.mean()
        rows = jnp.float32(len(text))
        metrics = {
            "loss": (value * rows, rows),
            "text_loss": (texts.sum(), jnp.float32(texts.size)),
            "image_loss": (images.sum(), jnp.float32(images.size)),
            "accuracy": (right.sum(dtype=jnp.float32), jnp.float32(right.size)),
        }
        return value, (metrics, variables["model_state"])

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        def losses() -> Array:
            return self._costs(variables, batch["text"], batch["text_mask"], self._indices(variables, batch))[1]

        def samples() -> Array:
            texts = {name: batch[name] for name in ("text", "text_mask")}
            return self.sample(variables, texts, rng, self.sampling())

        given = {
            "token_losses": losses,
            "token_weights": lambda: jnp.ones((len(rng), self._count)),
            "indices": lambda: self._indices(variables, batch),
            "reconstruction": lambda: self._pixels(variables, self._indices(variables, batch)),
            "original": lambda: unit_range(batch["image"]),
            "samples": samples,
        }
        return chosen(names, given)

    def conditions(self, prompts: Sequence[str], settings: DalleSampling) -> dict[str, Shaped[np.ndarray, "N L"]]:
        """`text` int32 [N, L] and bool `text_mask`; "" is no text at all."""
        del settings
        found = self.unprompted(np.arange(len(prompts)))
        for i, prompt in enumerate(prompts):
            if prompt.strip():
                row = self.field.batched("text", self.field.read(prompt, f"prompt {i + 1}", None))
                found["text"][i], found["text_mask"][i] = row["text"], row["text_mask"]
            elif not self.label_drop:
                raise UserError("This generator was always told a text", "Give one, or train with text_drop above 0")
        return found

    def unprompted(self, indices: Int[np.ndarray, " N"]) -> dict[str, Shaped[np.ndarray, "N L"]]:
        """No text."""
        shape = (len(indices), self.model.text_length)
        return {"text": np.zeros(shape, np.int32), "text_mask": np.zeros(shape, bool)}

    def sample(
        self, variables: Variables, conditions: Mapping[str, Array], keys: PRNGKeyArray, settings: DalleSampling
    ) -> Float[Array, "B H W 3"]:
        check_top_k(settings.top_k, self.model.image_vocab)
        guided = settings.guidance != 1.0
        self._check_guidance(guided)
        collections, rows = self._own(variables), len(conditions["text"])
        text, mask = (conditions[name] for name in ("text", "text_mask"))
        if guided:  # the half below has paddings alone
            text, mask = jnp.concatenate([text, text]), jnp.concatenate([mask, jnp.zeros_like(mask)])

        def doubled(ids: Int[Array, " B"]) -> Int[Array, " twice"]:
            return jnp.concatenate([ids, ids]) if guided else ids

        def combined(tokens: Float[Array, "twice D"]) -> Float[Array, "B V"]:
            logits = self.model.apply(collections, tokens, method="logits")
            with_text, without = logits[:rows], logits[rows:]
            return without + settings.guidance * (with_text - without) if guided else with_text

        beginning = self.model.apply(collections, text, mask, method="beginning")
        length = beginning.shape[1]

        def cached(ids: Array, at: Array, cache: PyTree) -> tuple[Array, PyTree]:
            # The last of the text is read once more: at the first step `ids` means nothing.
            ids = jnp.where(at[0] == length - 1, beginning[:, -1], doubled(ids))
            found, cache = self.model.apply(collections, ids[:, None], cache, at[0], method="further")
            return combined(found[:, 0]), cache

        def again(ids: Array, at: Array, known: Array) -> tuple[Array, Array]:
            """All of it once more: `known` is what has been read so far."""
            ids = jnp.where(at[0] == length - 1, beginning[:, -1], doubled(ids))
            known = jax.lax.dynamic_update_slice_in_dim(known, ids[:, None], at[0], 1)
            found, _ = self.model.apply(collections, known, None, None, method="further")
            return combined(jax.lax.dynamic_index_in_dim(found, at[0], 1, keepdims=False)), known

        if settings.cache:
            _, state = self.model.apply(
                collections, beginning, self.model.new_cache(len(beginning)), 0, method="further"
            )
        else:
            state = jnp.pad(beginning, ((0, 0), (0, self._count - 1)))
        how = Sampling(settings.temperature, settings.top_k, settings.top_p)
        first, at = jnp.zeros(rows, jnp.int32), jnp.full(rows, length - 1)
        step = cached if settings.cache else again
        tokens = decode(step, state, first, at, length=self._count, keys=keys, sampling=how)
        return self._pixels(variables, tokens)

    def sampling_costs(self, settings: DalleSampling) -> dict[str, int]:
        found = {"tokens": self._count, "passes": self._count + 1}
        if settings.cache:
            found["cache_bytes"] = cache_bytes(lambda: self.model.new_cache(1 + (settings.guidance != 1.0)))
        return found

    def forward_flops(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> float:
        """See `Task`; those of the generator, with masked products as the others."""
        del batch
        return self.model.token_flops()

    def _costs(
        self, variables: Variables, text: Array, text_mask: Array, indices: Int[Array, "B T"], **how: Any
    ) -> tuple[Float[Array, "B L"], Float[Array, "B T"], Float[Array, "B T"]]:
        """Nats of each token of text and image, and whether the latter is the likeliest one."""
        found = self.model.apply(self._own(variables), text, text_mask, indices, **how)
        padded = self.model.padded(text, text_mask)

        def nats(logits: Array, ids: Array) -> Array:
            return -jnp.take_along_axis(jax.nn.log_softmax(logits), ids[..., None], axis=2)[..., 0]

        images = found["image_logits"]
        return nats(found["text_logits"], padded), nats(images, indices), images.argmax(-1) == indices

    def _check_guidance(self, guided: bool) -> None:
        if guided and not self.label_drop:
            raise UserError(
                "This generator was trained without images of no text, away from which guidance would lead",
                "Sample without guidance, or train with text_drop above 0",
            )


def build(
    *,
    model: Mapping[str, Any],
    data: DataInfo,
    tokenizer: Mapping[str, Any],
    text_drop: Decay = 0.0,
    text_weight: Share = 1 / 8,
) -> TextToImage:
    """The task.

    Args:
        model: the section of a `dalle`; how many tokens there are is said here.
        tokenizer: section of the tokenizer's model; its parameters come by `init_from={"tokenizer": PATH}`.
        text_drop: share of training examples that are shown without their text, for guidance; none in the paper.
        text_weight: see `TextToImage`.
    """
    made, size = tokenizer_of(tokenizer, data)
    field = data.fields.get("text")
    if getattr(field, "tokenizer", None) is None or not hasattr(field, "length"):
        raise UserError("Images of texts need a field 'text' of tokens", "Set config.data.fields.text")
    grids = made.grids(size)
    if made.vocab_size is None or len(grids) != 1:
        raise UserError("This generator reads one map of tokens", "Use a tokenizer that gives one, such as dvae")
    if model.get("name") != "dalle":
        raise UserError(f"The model {model.get('name')!r} does not predict texts and images", "Name dalle")
    module, spec = build_model(
        model, image_vocab=made.vocab_size, text_vocab=field.tokenizer.vocab_size, text_length=field.length,
        grid=list(grids[0]),
    )  # fmt: skip
    return TextToImage(module, spec, made, size, (), text_drop, field, text_weight)
