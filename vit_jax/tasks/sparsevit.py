"""Sparsity-aware adaptation: a Swin gets used to windows that are left out (SparseViT, arXiv:2303.17605, section 3.2).

In each step the ratios of all layers are drawn anew, so that afterwards any of them can be tried without training: that
is what `vit_jax search-sparsity` does. Fine-tuning at the ratios that it found is the task `classify`, with
`model.pruning_ratios`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.models.sparse_swin import SparseSwin
from vit_jax.naming import construct
from vit_jax.nn.pruning import drawn_ratios, pairs_of
from vit_jax.tasks import DataInfo, Metrics, Variables, classify, in_training
from vit_jax.tasks.classify import Classify


@dataclasses.dataclass(frozen=True)
class SparseViT(Classify):
    """Classification with other pruning ratios in each step, a function of seed and step; see `Classify`.

    Each pair of blocks has a ratio of {0, 0.1, ..., 0.8}, those of a stage in order, of which none leaves a stage
    without windows. Evaluation has those of the model. A microbatch has ratios of its own.

    `pruned`, among the metrics, is the mean ratio.
    """

    def _in_training(
        self, variables: Variables, images: Float[Array, "B H W 3"], rng: PRNGKeyArray
    ) -> tuple[dict[str, Array], Any, Metrics]:
        own, *keys = jax.random.split(rng, 3)
        encoder = self.model.encoder
        pairs = [pairs_of(depth) for depth in encoder.depths]
        ratios = drawn_ratios(own, encoder.windows(images.shape[1:3]), pairs)
        params, state = variables["params"], variables["model_state"]
        outputs, state = in_training(self.model, params, state, jnp.stack(keys), images, ratios)
        every = jnp.concatenate(ratios)
        return outputs, state, {"pruned": (every.sum(), jnp.float32(every.size))}


def build(*, model: Mapping[str, Any], data: DataInfo, **kwargs: Any) -> SparseViT:
    """The task for the classes that the data names.

    Args:
        kwargs: see `vit_jax.tasks.classify.build`.

    Raises:
        UserError: also for a model that has no windows to leave out.
    """
    task = construct(classify.build, kwargs, "config.task", model=model, data=data)
    if not isinstance(task.model, SparseSwin):
        raise UserError(
            f"The model '{model['name']}' has no windows that can be left out", "Set config.model.name=sparse_swin"
        )
    return SparseViT(**{field.name: getattr(task, field.name) for field in dataclasses.fields(task)})
