"""Variational autoencoders: the evidence lower bound (arXiv:1312.6114), with a weight of the divergence (beta-VAE,
Higgins et al., ICLR 2017)."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.models.vae import VAE
from vit_jax.nn import variational
from vit_jax.ranges import Count, NonNegative
from vit_jax.tasks import Batch, DataInfo, Metrics, Variables, chosen
from vit_jax.tasks._class_conditions import ClassConditions
from vit_jax.tasks._image_tokens import unit_range
from vit_jax.tasks._tokenizer import TokenizerTask, tokenizer_model


@dataclasses.dataclass(frozen=True)
class LatentSampling:
    """How latents are drawn.

    Args:
        temperature: that multiplies the deviation of the standard Gaussian.
    """

    temperature: NonNegative = 1.0


@dataclasses.dataclass(frozen=True)
class Variational(ClassConditions, TokenizerTask):
    """-log p(x | z) + beta KL(q(z | x) | p(z)) of one draw of z, in nats an image; with a beta of 1 the negative ELBO.

    Metrics, means over images: `loss`, `log_likelihood`, `divergence`. Outputs: `reconstruction` (of the mean) and
    `original` [B, H, W, 3] in 0..1, `moments` [B, h, w, 2 D], `latents` [B, h, w, D], `features` [B, D] their mean,
    `elbo` [B] of as many draws as `importance_bound` [B], see `vit_jax.nn.variational`; `samples` [B, H, W, 3].

    Args:
        model: the autoencoder.
        image_size: height and width of samples in pixels.
        beta: weight of the divergence.
        draws: of latents for the bounds.
    """

    model: VAE
    image_size: tuple[int, int] = (0, 0)
    beta: float = 1.0
    draws: int = 16
    sampling: ClassVar[type] = LatentSampling

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        del step
        images = batch["image"]
        moments = self._run(variables, images, method="moments")
        latents = variational.drawn(jax.random.split(rng, len(images)), moments)
        likely = self._run(variables, latents, images, method="log_likelihood")
        apart = variational.divergence(moments)
        losses = self.beta * apart - likely
        count = jnp.float32(len(images))
        each = {"loss": losses, "log_likelihood": likely, "divergence": apart}
        return losses.mean(), ({k: (v.sum(), count) for k, v in each.items()}, variables["model_state"])

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        of_model = names - {"elbo", "importance_bound", "features", "samples"}
        found: dict[str, Any] = {"samples": lambda: self.sample(variables, {}, rng, self.sampling())}
        if "image" in batch:
            found |= super().outputs(variables, batch, of_model | {"latents"}, rng)
            found["features"] = lambda: found["latents"].mean((1, 2))
            weights = functools.cache(lambda: self._log_weights(variables, batch["image"], rng))
            found["elbo"] = lambda: weights().mean(0)
            found["importance_bound"] = lambda: variational.importance_bound(weights())
        return chosen(names, found)

    def sample(
        self, variables: Variables, conditions: Mapping[str, Array], keys: PRNGKeyArray, settings: LatentSampling
    ) -> Float[Array, "B H W 3"]:
        del conditions
        shape = (*self.model.grids(self.image_size)[0], self.model.latent_width)
        latents = settings.temperature * jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
        return unit_range(self._run(variables, latents, method="decode"))

    def _run(self, variables: Variables, *args: Array, method: str) -> Array:
        return self.model.apply({"params": variables["params"]}, *args, method=method)

    def _log_weights(
        self, variables: Variables, images: Float[Array, "B H W 3"], keys: PRNGKeyArray
    ) -> Float[Array, "draws B"]:
        """log p(x | z) + log p(z) - log q(z | x) of some draws of z for each image."""
        moments = self._run(variables, images, method="moments")
        mean, log_variance = variational.split_moments(moments)

        def weight(number: Int[Array, ""]) -> Float[Array, " B"]:
            latents = variational.drawn(jax.vmap(lambda key: jax.random.fold_in(key, number))(keys), moments)
            likely = self._run(variables, latents, images, method="log_likelihood")
            prior = variational.gaussian(latents, jnp.zeros_like(latents), 0.0)
            return likely + prior - variational.gaussian(latents, mean, log_variance)

        return jax.lax.map(weight, jnp.arange(self.draws))


def build(*, model: Mapping[str, Any], data: DataInfo, beta: NonNegative = 1.0, draws: Count = 16) -> Variational:
    """The task for images of the data's size.

    Raises:
        UserError: for a model that is no `vae`, or data without images or size.
    """
    module, spec = tokenizer_model(model)
    if not isinstance(module, VAE):
        raise UserError(f"The model {spec['name']!r} has no likelihood", "Set config.model.name=vae")
    if data.image_size is None:
        raise UserError("The data says no size of images", "Set config.data.image_size")
    module.grids(tuple(data.image_size))
    return Variational(module, spec, image_size=tuple(data.image_size), beta=beta, draws=draws)
