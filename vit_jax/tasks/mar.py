"""MAR: Li et al., "Autoregressive image generation without vector quantization" (arXiv:2406.11838).

Most tokens of an image are masked, and the diffusion head learns to give them from what the Transformer makes of the
rest (sections 3.2 and 3.4). The tokens are an autoencoder's latents and have no codebook.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.models.mar import MAR, Passes, fill_in, masked_counts
from vit_jax.naming import build_model
from vit_jax.nn.token_order import random_orders
from vit_jax.nn.xavier import xavier_redrawn
from vit_jax.ranges import Count, Decay, NonNegative
from vit_jax.tasks import Batch, DataInfo, Metrics, Variables, chosen, in_training
from vit_jax.tasks._image_tokens import TokenGenerator, tokenizer_of, unit_range

_PASSES = 256
_GUIDANCE = 2.9  # the authors' for MAR-B; 3.0 for L and 3.2 for H
_DEVIATION = 0.25  # of the masked share, a normal distribution around 1 that is cut there and at the least (section 4)


@dataclasses.dataclass(frozen=True)
class MARSampling:
    """How images are drawn; the defaults are the paper's.

    Args:
        steps: passes through the Transformer; None for 256, or one for each token where there are fewer.
        guidance: g of u + g (c - u), where c is the noise that the head sees given the class and u without; 1 for none.
            None for 2.9 where there is a null class.
        guidance_schedule: "linear" grows from nearly 1 to g with the share of tokens that are there, "constant" is g.
        head_steps: of the diffusion of each token.
        temperature: of its noise; 0.95 is the authors' without guidance.
    """

    steps: Count | None = None
    guidance: NonNegative | None = None
    guidance_schedule: Literal["linear", "constant"] = "linear"
    head_steps: Count = 100
    temperature: NonNegative = 1.0


@dataclasses.dataclass(frozen=True)
class MaskedTokens(TokenGenerator):
    """The diffusion loss of the masked tokens of each image, their mean over the image, and the mean over images.

    The share that is masked is drawn for each image; the authors draw one for the images of a device, which all weigh
    the same then as here.

    Latents are drawn anew from their Gaussians, where the tokenizer gives `moments` or the batch has them; a batch's
    `latents` are taken as they are.

    Metrics: `loss`, of which `noise` is the squared error of the noise and `bound` the variational bound's term.

    Outputs: `features` [B, D], the mean of the encoder's tokens of whole images without a class; `latents` and, where
    the tokenizer has them, `moments`; `reconstruction` and `original`; `samples` of the classes in `label`, or of all
    in turn.

    Args:
        repeats: how often the head sees each token with other noise.
    """

    model: MAR
    repeats: int = 4
    takes: ClassVar[tuple[str, ...]] = ("latents", "moments")
    sampling: ClassVar[type] = MARSampling

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        del batch
        own, redrawing, tokenizing = jax.random.split(rng, 3)
        params = self.model.init({"params": own}, *self.model.example_inputs(None), train=False)["params"]
        # As the authors' code draws the Transformer; the head has its own ways, with zeros at its end.
        head = params.pop("head")
        params = xavier_redrawn(params, redrawing, fused_qkv=True, tokens={})
        return self._with_tokenizer(tokenizing, {"params": {**params, "head": head}, "model_state": {}})

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        del step
        drawing, dropping, masking, diffusing, *keys = jax.random.split(rng, 6)
        tokens = self.model.patchify(self._drawn_latents(variables, batch, drawing))
        order, masked = self._masked(masking, len(tokens))
        own = self._own(variables)
        labels = self._shown_labels(batch, dropping)
        z, _ = in_training(self.model, own["params"], {}, keys, tokens, order, masked, labels)
        losses = self.model.apply(
            own, z.reshape(-1, z.shape[-1]), tokens.reshape(-1, tokens.shape[-1]), diffusing, self.repeats,
            method="losses",
        )  # fmt: skip
        hidden = (jnp.argsort(order, axis=1) < masked[:, None]).astype(jnp.float32)
        of_images = [(x.reshape(hidden.shape) * hidden).sum(1) / masked for x in losses]
        both, count = sum(of_images), jnp.float32(len(tokens))
        metrics = {"loss": both, "noise": of_images[0], "bound": of_images[1]}
        return both.mean(), ({name: (x.sum(), count) for name, x in metrics.items()}, variables["model_state"])

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        def samples() -> Array:
            labels = self._asked_labels(batch, len(rng))
            return self.sample(variables, {"label": labels}, rng, self.sampling())

        given = {
            "features": lambda: self._features(variables, self._latents(variables, batch)),
            "latents": lambda: self._latents(variables, batch),
            "reconstruction": lambda: self._decoded(variables, self._latents(variables, batch)),
            "original": lambda: unit_range(batch["image"]),
            "samples": samples,
        }
        if self._has_moments:
            given["moments"] = lambda: self._tokenizing(variables, batch["image"], method="moments")
        return chosen(names, given)

    def sample(
        self, variables: Variables, conditions: Mapping[str, Array], keys: PRNGKeyArray, settings: MARSampling
    ) -> Float[Array, "B H W 3"]:
        how = self._passes(settings)
        ordering, beginning, stepping = jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, 3))(keys), 1, 0)
        most = int(-np.diff(masked_counts(self.model.tokens, how.count)).min())

        def normal(keys: PRNGKeyArray) -> Float[Array, "B p c"]:
            return jax.vmap(lambda key: jax.random.normal(key, (most, self.model.token_width)))(keys)

        def at(keys: PRNGKeyArray, i: Int[Array, ""]) -> PRNGKeyArray:
            return jax.vmap(jax.random.fold_in, (0, None))(keys, i)

        latents = fill_in(
            self.model, self._own(variables), conditions["label"], random_orders(ordering, self.model.tokens),
            lambda i: normal(at(beginning, i)), lambda i, n: normal(at(at(stepping, i), n)), how,
        )  # fmt: skip
        return self._decoded(variables, latents)

    def sampling_costs(self, settings: MARSampling) -> dict[str, int]:
        """See `Task`: passes of the Transformer, of which guidance takes twice as many rows."""
        return super().sampling_costs(settings) | {"passes": self._passes(settings).count}

    def forward_flops(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> float:
        """See `Task`; those of the generator, with the least tokens masked."""
        del batch
        model = self.model
        return model.flops(model.tokens - model.least_masked, self.repeats * model.tokens)

    @property
    def _has_moments(self) -> bool:
        return hasattr(self.tokenizer, "moments")

    def _drawn_latents(self, variables: Variables, batch: Batch, rng: PRNGKeyArray) -> Float[Array, "B h w D"]:
        """Latents as training sees them."""
        if "moments" not in batch and ("latents" in batch or not self._has_moments):
            return self._latents(variables, batch)
        if "moments" in batch:
            moments = batch["moments"].astype(jnp.float32)
        else:
            moments = self._tokenizing(variables, batch["image"], method="moments")
        mean, log_variance = jnp.split(jax.lax.stop_gradient(moments), 2, axis=-1)
        return mean + jnp.exp(0.5 * log_variance) * jax.random.normal(rng, mean.shape)

    def _latents(self, variables: Variables, batch: Batch) -> Float[Array, "B h w D"]:
        if "moments" in batch:
            return jnp.split(batch["moments"].astype(jnp.float32), 2, axis=-1)[0]
        return super()._latents(variables, batch)

    def _masked(self, rng: PRNGKeyArray, rows: int) -> tuple[Int[Array, "B n"], Int[Array, " B"]]:
        """An order for each image, of whose first tokens so many are masked."""
        ordering, sharing = jax.random.split(rng)
        lowest = (self.model.mask_ratio_min - 1) / _DEVIATION
        share = 1 + _DEVIATION * jax.random.truncated_normal(sharing, lowest, 0.0, (rows,))
        masked = jnp.ceil(share * self.model.tokens).astype(jnp.int32)
        order = random_orders(jax.random.split(ordering, rows), self.model.tokens)
        return order, jnp.clip(masked, self.model.least_masked, self.model.tokens)

    def _features(self, variables: Variables, latents: Float[Array, "B h w D"]) -> Float[Array, "B D"]:
        tokens, model = self.model.patchify(latents), self.model
        rows = len(tokens)
        order = jnp.broadcast_to(jnp.arange(model.tokens), (rows, model.tokens))
        known, nothing = jnp.zeros(rows, jnp.int32), jnp.full(rows, len(self.classes))
        encoded = model.apply(
            self._own(variables), tokens, order, known, nothing, least=0, train=False, method="encode"
        )  # fmt: skip
        return encoded[:, model.buffer :].mean(axis=1).astype(jnp.float32)

    def _decoded(self, variables: Variables, latents: Float[Array, "B h w D"]) -> Float[Array, "B H W 3"]:
        return unit_range(self._tokenizing(variables, latents, method="decode"))

    def _passes(self, settings: MARSampling) -> Passes:
        """The settings with what depends on the model.

        Raises:
            UserError: for more passes than tokens, or guidance without a null class.
        """
        tokens = self.model.tokens
        count = min(_PASSES, tokens) if settings.steps is None else settings.steps
        if count > tokens:
            raise UserError(f"There are {tokens} tokens to fill in, not {count}", f"Use at most {tokens} steps")
        guidance = settings.guidance
        if guidance is None:
            guidance = _GUIDANCE if self._has_null else 1.0
        self._check_guidance(guidance != 1.0)
        return Passes(count, guidance, settings.guidance_schedule, settings.head_steps, settings.temperature)


def build(
    *,
    model: Mapping[str, Any],
    data: DataInfo,
    tokenizer: Mapping[str, Any],
    label_drop: Decay = 0.1,
    conditional: bool = True,
    repeats: Count = 4,
) -> MaskedTokens:
    """The task.

    Args:
        model: the section of a `mar`; the size of the latents and the number of classes are said here.
        tokenizer: section of the tokenizer's model; its parameters come by `init_from={"tokenizer": PATH}`.
        label_drop: share of training examples that are shown without their class, for guidance.
        conditional: whether images are generated of the classes that the data have.
        repeats: see `MaskedTokens`.
    """
    made, size = tokenizer_of(tokenizer, data)
    grids = made.grids(size)
    if made.vocab_size is not None or len(grids) != 1:
        raise UserError("MAR generates continuous tokens of one map", "Use a tokenizer such as kl_autoencoder")
    if model.get("name") != "mar":
        raise UserError(f"The model {model.get('name')!r} does not predict continuous tokens", "Name mar")
    classes = tuple(data.label_names) if conditional else ()
    module, spec = build_model(
        model, grid=list(grids[0]), channels=made.latent_width, num_classes=len(classes)
    )  # fmt: skip
    return MaskedTokens(module, spec, made, size, classes, label_drop if classes else 0.0, repeats)
