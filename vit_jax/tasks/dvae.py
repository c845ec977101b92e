"""DALL-E's discrete VAE: the evidence lower bound with draws that are relaxed less and less (arXiv:2102.12092,
section 2.1 and appendix A.2 and A.3)."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.models.dvae import DVAE, logit_laplace, squeezed
from vit_jax.nn.code_usage import usage, usage_remarks
from vit_jax.ranges import Natural, NonNegative, Positive
from vit_jax.tasks import Batch, DataInfo, Metrics, Variables
from vit_jax.tasks._tokenizer import TokenizerTask, tokenizer_model


@dataclasses.dataclass(frozen=True)
class DiscreteVAE(TokenizerTask):
    """The negative log density of an image's pixels and `kl_weight` times the divergence of its codes from equal ones,
    both summed over the image, over the number of its values: at the paper's size the weight becomes 1/192 of itself.

    Metrics: `loss`; `nll` a value and `kl` a place, in nats; `tau`, `kl_weight`; and see
    `vit_jax.nn.code_usage.usage`. Outputs: see `TokenizerTask` and `vit_jax.models.dvae.DVAE`.

    Args:
        tau_end: temperature of the draws after `tau_steps`, from 1 on along half a cosine.
        tau_steps: of the way there.
        kl_weight: after `kl_steps`, from 0 on along half a cosine.
        kl_steps: of the way there.
    """

    tau_end: float = 1 / 16
    tau_steps: int = 150_000
    kl_weight: float = 6.6
    kl_steps: int = 5_000

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        images = batch["image"]
        tau = along_cosine(step, 1.0, self.tau_end, self.tau_steps)
        weight = along_cosine(step, 0.0, self.kl_weight, self.kl_steps)
        found = self.model.apply(
            {"params": variables["params"]}, images, train=True, tau=tau, rngs={"dropout": rng}
        )  # fmt: skip
        densities = logit_laplace(squeezed(images), found["location"], found["log_scale"])
        nll, values, places = -densities.mean((1, 2, 3)), math.prod(images.shape[1:]), found["indices"].shape[1]
        losses, kl, count = nll + weight * found["kl"] / values, found["kl"] / places, jnp.float32(len(images))
        metrics = {
            "loss": (losses.sum(), count),
            "nll": (nll.sum(), count),
            "kl": (kl.sum(), count),
            "tau": (tau * count, count),
            "kl_weight": (weight * count, count),
            **usage(found["indices"], self.model.vocab_size),
        }
        return losses.mean(), (metrics, variables["model_state"])

    def remarks(self, averages: Mapping[str, float]) -> dict[str, str]:
        """A codebook of which one code is left, see `usage_remarks`."""
        return usage_remarks(averages, self.model.vocab_size)


def along_cosine(step: Int[Array, ""], start: float, end: float, steps: int) -> Float[Array, ""]:
    """From `start` at step 0 to `end` at `steps`, and there on."""
    share = jnp.minimum(step.astype(jnp.float32) / max(steps, 1), 1.0) if steps else jnp.float32(1)
    return end + (start - end) * 0.5 * (1 + jnp.cos(jnp.pi * share))


def build(
    *,
    model: Mapping[str, Any],
    data: DataInfo,
    tau_end: Positive = 1 / 16,
    tau_steps: Natural = 150_000,
    kl_weight: NonNegative = 6.6,
    kl_steps: Natural = 5_000,
) -> DiscreteVAE:
    """The task.

    Raises:
        UserError: for another model than a discrete VAE with its decoder, or one whose places do not divide the images.
    """
    module, spec = tokenizer_model(model)
    if not isinstance(module, DVAE) or not module.has_decoder:
        raise UserError(f"The model {spec['name']!r} is no discrete VAE with a decoder", "Set config.model.name=dvae")
    if data.image_size is not None:
        module.grids(tuple(data.image_size))
    return DiscreteVAE(module, spec, tau_end=tau_end, tau_steps=tau_steps, kl_weight=kl_weight, kl_steps=kl_steps)
