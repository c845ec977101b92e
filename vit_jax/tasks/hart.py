"""HART: Tang et al., "HART: efficient visual generation with hybrid autoregressive transformer" (arXiv:2410.10812).

The Transformer learns the codes of all scales, of a text or a class, and a small diffusion model what the codes of the
last one leave of the latents (section 3.2). No code of training is public; what its objective computes is in that of
inference (github.com/mit-han-lab/hart), but for how the two losses are weighed.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from vit_jax.data.field import Field
from vit_jax.errors import UserError
from vit_jax.models.hart import HART
from vit_jax.models.hart_sampling import Codes, Drawing, draw
from vit_jax.models.hart_tokenizer import HARTTokenizer
from vit_jax.naming import build_model
from vit_jax.nn.decode import Sampling, check_top_k, pick
from vit_jax.nn.text_trunk import TextTrunk
from vit_jax.nn.token_order import random_orders
from vit_jax.ranges import Count, Decay, Natural, NonNegative, Range
from vit_jax.tasks import Batch, DataInfo, Metrics, Variables, chosen, in_training
from vit_jax.tasks._image_tokens import TOKENIZER, TokenGenerator, cache_bytes, tokenizer_of, unit_range

_TEXT, _VECTORS = "text", "text_embeddings"
_LATE = 7  # scales from here on have another top_k
_TRAINING = Sampling(top_k=600, top_p=0.96)  # the codes whose remainders are learned are the model's own


@dataclasses.dataclass(frozen=True)
class HARTSampling:
    """How images are drawn; the defaults are the authors'.

    Args:
        guidance: g of (1 + t) c - t u, of logits and of what the head sees, where t grows from 0 in the first scale to
            g in the last but one; 0 for none. None for 4.5 of texts and 1.5 of classes, where there is a null one.
        steps: of the diffusion of what codes leave; 0 for codes alone.
        passes: in so many the last scale is filled in.
        temperature: of the codes, see `vit_jax.nn.decode.Sampling`, like `top_k` and `top_p`.
        top_k: of the first seven scales. All, where there are fewer codes.
        top_k_late: of the others.
    """

    guidance: NonNegative | None = None
    steps: Natural = 8
    passes: Count = 1
    temperature: NonNegative = 1.0
    top_k: Count | None = 600
    top_k_late: Count | None = 300
    top_p: Annotated[float, Range(0, 1, open_low=True)] | None = None


@dataclasses.dataclass(frozen=True)
class HybridTokens(TokenGenerator):
    """The cross-entropy of the codes, a mean over all that are looked at, and the diffusion loss of what they leave.

    Of the last scale half of the places are looked at, others in each image. Texts are `batch["text"]` int32 [B, L]
    with `text_mask`, which the frozen tower `params["text"]` reads; or `batch["text_embeddings"]` float [B, L, E], made
    before by any other, of which zeros are no token.

    Metrics: `loss`, `token_loss` in nats, `accuracy`, and `noise` and `bound` of the diffusion loss.

    Outputs: `token_losses` [B, T] with `token_weights` and `token_bytes`, for the evaluator `perplexity`; `indices`,
    `latents`, `reconstruction` of the latents and `discrete_reconstruction` of the codes; `original`; `samples`.

    Args:
        text: the tower, of which the trunk is used; None without one.
        field: of its texts.
        repeats: how often the head sees each token with other noise.
    """

    model: HART
    tokenizer: HARTTokenizer
    text: nn.Module | None = None
    field: Field | None = dataclasses.field(default=None, hash=False)
    repeats: int = 4
    takes: ClassVar[tuple[str, ...]] = ("latents",)
    locked_when_loaded: ClassVar[tuple[str, ...]] = (TOKENIZER, _TEXT)
    sampling: ClassVar[type] = HARTSampling

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        del batch
        own, redrawing, tokenizing, reading = jax.random.split(rng, 4)
        params = self.model.init(own, *self.model.example_inputs(None))["params"]
        params = self.model.redrawn(params, redrawing)
        if self.text is not None:
            params[_TEXT] = self._trunk.init(reading, jnp.zeros((1, 1), jnp.int32))["params"]
        return self._with_tokenizer(tokenizing, {"params": params, "model_state": {}})

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        del step
        dropping, choosing, drawing, diffusing, *keys = jax.random.split(rng, 6)
        latents = self._latents(variables, batch)
        rows, count = len(latents), self._last
        places = random_orders(jax.random.split(choosing, rows), count)[:, : -(-count // 2)]
        hybrid = self._tokenizing(variables, latents, self._grids, method="hybrid")
        own = self._own(variables)
        what, positions = self._shown_conditions(variables, batch, dropping)
        (logits, hidden), _ = in_training(self.model, own["params"], {}, keys, what, positions, hybrid.inputs, places)
        indices = jnp.concatenate([hybrid.indices[:, :-count], _at(hybrid.indices[:, -count:], places)], axis=1)
        nats, right = _nats(logits, indices), logits.argmax(-1) == indices

        # The model's own codes stand where the image's would: so they do when it generates.
        own_logits = jax.lax.stop_gradient(logits[:, -places.shape[1] :])
        drawn = pick(own_logits, jax.random.split(drawing, rows), _TRAINING)
        codes = self._tokenizing(variables, drawn, method="codes")
        z = self.model.apply(own, hidden, codes, method="conditions")
        left = _at(hybrid.last, places) - codes
        losses = self.model.apply(
            own, _flat(z), _flat(left), diffusing, self.repeats,
            method=lambda model, *args: model.residual.losses(*args),
        )  # fmt: skip
        value = nats.mean() + losses.simple.mean() + losses.bound.mean()
        metrics = {
            "loss": (value * rows, jnp.float32(rows)),
            "token_loss": (nats.sum(), jnp.float32(nats.size)),
            "accuracy": (right.sum(dtype=jnp.float32), jnp.float32(right.size)),
            "noise": (losses.simple.sum(), jnp.float32(losses.simple.size)),
            "bound": (losses.bound.sum(), jnp.float32(losses.bound.size)),
        }
        return value, (metrics, variables["model_state"])

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        def losses() -> Array:
            hybrid = self._tokenizing(variables, self._latents(variables, batch), self._grids, method="hybrid")
            everywhere = jnp.broadcast_to(jnp.arange(self._last), (len(rng), self._last))
            what, positions = self._asked(variables, batch)
            logits, _ = self.model.apply(self._own(variables), what, positions, hybrid.inputs, everywhere)
            return _nats(logits, hybrid.indices)

        def samples() -> Array:
            asked = {name: batch[name] for name in (_TEXT, "text_mask", _VECTORS) if name in batch}
            if not self._of_texts:
                labels = self._asked_labels(batch, len(rng))
                asked = {"label": labels}
            return self.sample(variables, asked, rng, self.sampling())

        def decoded(latents: Array) -> Array:
            return unit_range(self._tokenizing(variables, latents, method="decode"))

        given = {
            "token_losses": losses,
            "token_weights": lambda: jnp.ones((len(rng), self._count)),
            "token_bytes": lambda: jnp.zeros((len(rng), self._count)),
            "indices": lambda: self._indices(variables, batch),
            "latents": lambda: self._latents(variables, batch),
            "reconstruction": lambda: decoded(self._latents(variables, batch)),
            "discrete_reconstruction": lambda: self._pixels(variables, self._indices(variables, batch)),
            "original": lambda: unit_range(batch["image"]),
            "samples": samples,
        }
        return chosen(names, given)

    def conditions(self, prompts: Sequence[str], settings: HARTSampling) -> dict[str, Shaped[np.ndarray, "N ..."]]:
        """`label`; or `text` int32 [N, L] and bool `text_mask`. "" is no condition."""
        if not self._of_texts:
            return super().conditions(prompts, settings)
        if self.text is None:
            raise UserError("This generator has no tower that reads texts", "Give it vectors, text_embeddings")
        found = self.unprompted(np.arange(len(prompts)))
        for i, prompt in enumerate(prompts):
            if prompt.strip():
                row = self.field.batched(_TEXT, self.field.read(prompt, f"prompt {i + 1}", None))
                found[_TEXT][i], found["text_mask"][i] = row[_TEXT], row["text_mask"]
            elif not self.label_drop:
                raise UserError("This generator was always told a text", "Give one, or train with label_drop above 0")
        return found

    def unprompted(self, indices: Int[np.ndarray, " N"]) -> dict[str, Shaped[np.ndarray, "N ..."]]:
        """All classes in turn; no text."""
        if not self._of_texts:
            return super().unprompted(indices)
        shape = (len(indices), self.model.asked.text_length)
        if self.text is None:
            return {_VECTORS: np.zeros((*shape, self.model.asked.text_width), np.float32)}
        return {_TEXT: np.zeros(shape, np.int32), "text_mask": np.zeros(shape, bool)}

    def sample(
        self, variables: Variables, conditions: Mapping[str, Array], keys: PRNGKeyArray, settings: HARTSampling
    ) -> Float[Array, "B H W 3"]:
        how, grids = self._drawing(settings), self._grids
        ordering, picking, diffusing = jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, 3))(keys), 1, 0)

        def at(keys: PRNGKeyArray, *numbers: Any) -> PRNGKeyArray:
            for number in numbers:
                keys = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
            return keys

        def drawn(logits: Float[Array, "B t V"], scale: int, i: int) -> Int[Array, "B t"]:
            top_k = settings.top_k if scale < _LATE else settings.top_k_late
            return pick(logits, at(picking, scale, i), Sampling(settings.temperature, top_k, settings.top_p))

        def noise(i: int, count: int, n: Int[Array, ""] | None) -> Float[Array, "B n c"]:
            of_step = at(diffusing, i, how.head_steps if n is None else n)
            return jax.vmap(lambda key: jax.random.normal(key, (count, self.model.latent_width)))(of_step)

        def added(summed: Array, indices: Array, scale: int) -> tuple[Array, Array]:
            return self._tokenizing(variables, summed, indices, scale, grids, method="added")

        what, positions = self._asked(variables, conditions)
        nothing = jnp.zeros_like(what) if self._of_texts else jnp.full_like(what, len(self.classes))
        latents = draw(
            self.model, self._own(variables), Codes(added, lambda x: self._tokenizing(variables, x, method="codes")),
            what, nothing, positions, random_orders(ordering, self._last), drawn, noise, how,
        )  # fmt: skip
        return unit_range(self._tokenizing(variables, latents, method="decode"))

    def sampling_costs(self, settings: HARTSampling) -> dict[str, int]:
        """See `Task`."""
        how = self._drawing(settings)
        held = cache_bytes(lambda: self.model.new_cache(1 + (how.guidance != 0)))
        passes = len(self._grids) - 1 + how.passes
        return super().sampling_costs(settings) | {"passes": passes, "cache_bytes": held}

    def forward_flops(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> float:
        """See `Task`; those of the generator, with half of the last scale."""
        del batch
        half = -(-self._last // 2)
        return self.model.flops(half, self.repeats * half)

    @property
    def _last(self) -> int:
        """Tokens of the last scale."""
        rows, columns = self._grids[-1]
        return rows * columns

    @property
    def _of_texts(self) -> bool:
        """Whether texts are asked for, and not classes."""
        return self.model.asked.text_length > 0

    @property
    def _trunk(self) -> TextTrunk:
        return self.text.text

    def _own(self, variables: Variables) -> dict[str, Any]:
        own = super()._own(variables)
        return {**own, "params": {name: tree for name, tree in own["params"].items() if name != _TEXT}}

    def _asked(self, variables: Variables, batch: Batch) -> tuple[Array, Int[Array, "B L"] | None]:
        """What `HART` takes of a batch or of conditions: classes, or texts and the positions of their tokens."""
        if not self._of_texts:
            return self._labels(batch), None
        if _VECTORS in batch:
            vectors = batch[_VECTORS].astype(jnp.float32)
            mask = (vectors != 0).any(axis=-1)
        else:
            mask = batch["text_mask"].astype(bool)
            frozen = jax.lax.stop_gradient({"params": variables["params"][_TEXT]})
            vectors, _ = self._trunk.apply(frozen, batch[_TEXT], token_mask=mask)
        # Paddings have the place of the last word, and where there is none there is no text.
        positions = jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)
        there = mask.any(axis=1)[:, None, None]
        return jnp.where(there, jax.lax.stop_gradient(vectors).astype(jnp.float32), 0.0), positions

    def _shown_conditions(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray
    ) -> tuple[Array, Int[Array, "B L"] | None]:
        """The same as training shows it, some as none. Positions of a text that is dropped stay, as the authors'."""
        if not self._of_texts:
            return self._shown_labels(batch, rng), None
        vectors, positions = self._asked(variables, batch)
        dropped = jax.random.bernoulli(rng, self.label_drop, (len(vectors), 1, 1))
        return jnp.where(dropped, 0.0, vectors), positions

    def _drawing(self, settings: HARTSampling) -> Drawing:
        """The settings with what depends on the model.

        Raises:
            UserError: for guidance without a null condition, or more passes, codes or steps than there are.
        """
        usual = HARTSampling()
        for name in ("top_k", "top_k_late"):
            if (value := getattr(settings, name)) != getattr(usual, name):
                check_top_k(value, self.model.vocab_size)
        if settings.passes > self._last:
            raise UserError(
                f"There are {self._last} tokens in the last scale, not {settings.passes}", "Use fewer passes"
            )
        guidance = settings.guidance
        if guidance is None:
            guidance = 0.0 if not self._has_null else 4.5 if self._of_texts else 1.5
        self._check_guidance(guidance != 0.0)
        return Drawing(guidance, settings.passes, settings.steps)

    @property
    def _has_null(self) -> bool:
        return bool(self.label_drop and (self.classes or self._of_texts))

    def _check_guidance(self, guided: bool) -> None:
        if guided and not self._has_null:
            raise UserError(
                "This generator was trained without a null condition, away from which guidance would lead",
                "Sample with guidance=0, or train with label_drop above 0",
            )


def _at(x: Shaped[Array, "B n ..."], places: Int[Array, "B k"]) -> Shaped[Array, "B k ..."]:
    return jnp.take_along_axis(x, places if x.ndim == 2 else places[..., None], axis=1)


def _flat(x: Float[Array, "B n d"]) -> Float[Array, "Bn d"]:
    return x.reshape(-1, x.shape[-1])


def _nats(logits: Float[Array, "B T V"], indices: Int[Array, "B T"]) -> Float[Array, "B T"]:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), indices[..., None], axis=2)[..., 0]


def build(
    *,
    model: Mapping[str, Any],
    data: DataInfo,
    tokenizer: Mapping[str, Any],
    text: Mapping[str, Any] | None = None,
    label_drop: Decay = 0.1,
    repeats: Count = 4,
) -> HybridTokens:
    """The task. Images are generated of texts where there is a tower for them, or the data have their vectors in a
    field `text_embeddings` [L, E]; otherwise of the classes that the data have.

    Args:
        model: the section of a `hart`; maps of tokens and what is asked for are said here.
        tokenizer: section of a `hart_tokenizer`; its parameters come by `init_from={"tokenizer": PATH}`.
        text: section of a text model, such as `text_tower` or `gpt`, whose trunk reads the field `text`; its parameters
            come by `init_from={"text": PATH}`.
        label_drop: share of training examples that are shown without their class or text, for guidance.
        repeats: see `HybridTokens`.
    """
    made, size = tokenizer_of(tokenizer, data)
    if not isinstance(made, HARTTokenizer):
        raise UserError("HART generates hybrid tokens", "Use a hart_tokenizer, which a var_tokenizer's weights fit too")
    if model.get("name") != "hart":
        raise UserError(f"The model {model.get('name')!r} does not predict hybrid tokens", "Name hart")
    tower, field, classes = None, None, ()
    if text is not None:
        field = data.fields.get(_TEXT)
        if getattr(field, "tokenizer", None) is None or not hasattr(field, "length"):
            raise UserError("Images of texts need a field 'text' of tokens", "Set config.data.fields.text")
        tower = build_model(text, vocab_size=field.tokenizer.vocab_size)[0]
        if not isinstance(getattr(tower, _TEXT, None), TextTrunk):
            raise UserError(
                f"The model {text.get('name')!r} reads no texts", "Name one such as text_tower, bert or gpt"
            )
        asked = {"text_width": tower.text.width, "text_length": field.length}
    elif _VECTORS in data.fields:
        length, width = data.fields[_VECTORS].spec(_VECTORS)[_VECTORS].shape
        asked = {"text_width": width, "text_length": length}
    else:
        classes = tuple(data.label_names)
        asked = {"num_classes": len(classes) or 1}
    module, spec = build_model(
        model, grids=[list(grid) for grid in made.grids(size)], vocab_size=made.vocab_size,
        latent_width=made.latent_width, **asked,
    )  # fmt: skip
    drop = label_drop if classes or "text_length" in asked else 0.0
    return HybridTokens(module, spec, made, size, classes, drop, tower, field, repeats)
