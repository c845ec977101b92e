"""MoCo v3: Chen, Xie and He, "An empirical study of training self-supervised Vision Transformers" (arXiv:2104.02057).

An encoder with a projector and a predictor turns one view of each image into a query; the moving average of encoder
and projector turns the other view into a key. A query is to find the key of its own image among those of the whole
batch (section 3, equation 1 and algorithm 1), both ways round. There is no queue of negatives.

The moving average is the run's: `config.ema_decay` with the cosine from 0.99 to 1 of the paper. Algorithm 1 updates it
with the parameters of this step before it computes keys; the loop does that at the end of the step before.
Stability (section 4): the random patch projection stays as it is with `config.optim.frozen`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.naming import build_model
from vit_jax.nn.norm import unit
from vit_jax.nn.projection import ProjectionHead
from vit_jax.nn.xavier import xavier_redrawn
from vit_jax.ranges import Count, Positive
from vit_jax.tasks import Batch, DataInfo, Metrics, Task, Variables, chosen, model_outputs
from vit_jax.tasks._two_views import embed, init_heads, views_of


def contrast(
    queries: Float[Array, "n d"], keys: Float[Array, "n d"], temperature: float
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """2 tau times the cross-entropy of each query over the keys of all images, and whether the right key was nearest.

    Under `jit` the keys are those of the global batch, on however many devices they lie.
    """
    similarity = jnp.matmul(unit(queries), unit(keys).T, precision="highest") / temperature
    own = jnp.arange(queries.shape[0])
    losses = 2 * temperature * optax.softmax_cross_entropy_with_integer_labels(similarity, own)
    return losses, (similarity.argmax(-1) == own).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class MoCoV3(Task):
    """Contrastive learning on `batch["image"]` float [B, 2, H, W, 3], two views of each image.

    Args:
        model: the trunk, called as `model(images, train=...)`, returns a dict with `features` [B, D].
        model_spec: what rebuilds it from a checkpoint.
        projector: from features to what is compared.
        predictor: from there to the queries; keys do not pass it.
        temperature: tau.
    """

    model: nn.Module
    model_spec: Mapping[str, Any] = dataclasses.field(hash=False)
    projector: ProjectionHead
    predictor: ProjectionHead
    temperature: float
    whole_batch: ClassVar[str] = "the keys of the whole batch are each query's negatives"
    product: ClassVar[str] = "params"  # the paper transfers the encoder, not its average

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        heads = {"projector": self.projector, "predictor": self.predictor}
        variables = init_heads(rng, self.model, heads, views_of(batch)[:, 0])
        params = variables["params"]
        if "block_00" in params["encoder"]:
            # A ViT's, as the authors' code: the patches too, which are never trained; q, k and v apart.
            encoder = xavier_redrawn(
                params["encoder"], jax.random.fold_in(rng, 1), fused_qkv=False, tokens={"cls": 1e-6}
            )
            params = {**params, "encoder": encoder}
        return {**variables, "params": params}

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        del step
        if "ema" not in variables:
            raise UserError(
                "MoCo v3 computes its keys with a moving average of the encoder, and this run has none",
                "Set config.ema_decay, in the paper {'name': 'cosine', 'start': 0.99, 'end': 1.0}",
            )
        views, rngs = views_of(batch), jax.random.split(rng, 4)
        state = variables["model_state"]
        encoder = {"projector": self.projector}
        queries, keys = [], []
        for i in range(2):
            # Each pass normalises by the statistics of its own view; the running ones are those of the queries.
            q, new_state = embed(
                self.model, {**encoder, "predictor": self.predictor}, variables["params"], state, views[:, i], rngs[i]
            )
            k, _ = embed(self.model, encoder, variables["ema"], state, views[:, i], rngs[2 + i])
            queries.append(q)
            keys.append(jax.lax.stop_gradient(k))
            state = new_state
        first, first_right = contrast(queries[0], keys[1], self.temperature)
        second, second_right = contrast(queries[1], keys[0], self.temperature)
        losses, count = first + second, jnp.float32(first.size)
        right = (first_right + second_right).sum()
        return losses.mean(), ({"loss": (losses.sum(), count), "accuracy": (right, 2 * count)}, state)

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        del rng
        params, state = variables["params"], variables["model_state"]
        found = model_outputs(self.model, variables, batch["image"], names)
        head = {"params": params["projector"], "batch_stats": state["batch_stats"]["projector"]}
        projections = lambda: self.projector.apply(head, found["features"], train=False)  # noqa: E731
        return chosen(names, {**found, "projections": projections})

    def flops(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> float | None:
        """See `Task`: two views forward and backward, and two forward for the keys, through the trunk alone."""
        forward = self.forward_flops(batch)
        return forward and 8 * forward


def build(
    *,
    model: Mapping[str, Any],
    data: DataInfo,
    temperature: Positive = 0.2,
    projector_layers: Count = 3,
    hidden: Count = 4096,
    out: Count = 256,
    predictor_norm: bool = True,
) -> MoCoV3:
    """The task; the defaults are the paper's for ViT.

    Args:
        temperature: tau.
        projector_layers: 3 for ViT, 2 for ResNet-50.
        hidden: width of the hidden layers of projector and predictor.
        out: width of what is compared.
        predictor_norm: batch normalisation after the predictor's last layer: for ViT, not for ResNet-50.
    """
    del data
    if not temperature > 0:
        raise UserError(f"config.task.temperature is {temperature}", "Use a positive one, usually 0.2")
    if projector_layers < 1:
        raise UserError(f"config.task.projector_layers is {projector_layers}", "Use 3, or 2 for a ResNet")
    module, spec = build_model(model, num_classes=0)
    projector = ProjectionHead(projector_layers, out, hidden, last_norm="plain")
    predictor = ProjectionHead(2, out, hidden, last_norm="plain" if predictor_norm else "none")
    return MoCoV3(module, spec, projector, predictor, temperature)
