"""Vector-quantised autoencoders: squared errors of pixels, the codebook and the commitment (arXiv:1711.00937)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.nn.code_usage import usage_remarks
from vit_jax.ranges import Positive
from vit_jax.tasks import Batch, DataInfo, Metrics, Variables, in_training
from vit_jax.tasks._tokenizer import TokenizerTask, tokenizer_model


@dataclasses.dataclass(frozen=True)
class VectorQuantised(TokenizerTask):
    """The mean squared error over all pixels and channels in -1..1, over `variance`, and the quantiser's loss.

    Metrics: `loss`, `error` (the mean square itself), `quantizer_loss`, and see `vit_jax.nn.code_usage.usage`.
    Outputs: `reconstruction` and `original` [B, H, W, 3] in 0..1, `indices` int32 [B, T], `latents` [B, h, w, D] before
    they are quantised, `features` [B, D] their mean.

    Args:
        variance: that errors are measured in; sonnet takes that of the data.
    """

    variance: float = 1.0

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        del step
        images = batch["image"]
        found, state = in_training(
            self.model, variables["params"], variables["model_state"], jax.random.split(rng), images
        )
        errors = jnp.square(found["reconstruction"] - images).mean((1, 2, 3))
        total = errors.mean() / self.variance + found["quantizer_loss"]
        count = jnp.float32(len(images))
        metrics = {
            "loss": (total * count, count),
            "error": (errors.sum(), count),
            "quantizer_loss": (found["quantizer_loss"] * count, count),
            **self._usage(found["indices"], images.shape[1:3]),
        }
        return total, (metrics, state)

    def remarks(self, averages: Mapping[str, float]) -> dict[str, str]:
        """A codebook of which one code is left, see `usage_remarks`."""
        return usage_remarks(averages, self.model.vocab_size)


def build(*, model: Mapping[str, Any], data: DataInfo, variance: Positive = 1.0) -> VectorQuantised:
    """The task.

    Raises:
        UserError: for a model that makes no codes, or whose places do not divide the images.
    """
    module, spec = tokenizer_model(model)
    if module.vocab_size is None:
        raise UserError(f"The model {spec['name']!r} has no codes", "Name one that quantises, such as vqvae")
    if data.image_size is not None:
        module.grids(tuple(data.image_size))
    return VectorQuantised(module, spec, variance=variance)
