"""SimCLR: Chen et al., "A simple framework for contrastive learning of visual representations" (arXiv:2002.05709).

Two views of each of N images are embedded by a trunk and a projection head. For each of the 2N views, the other view
of its image is to be found among the 2N - 1 other views by cosine similarity: the NT-Xent loss (section 2.1,
equation 1). Downstream the head is thrown away: the trunk alone is the representation.

Version 2, "Big self-supervised models are strong semi-supervised learners" (arXiv:2006.10029), has a head of three
layers and keeps the first of them: `head_layers=3`, `representation=1`.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.naming import build_model
from vit_jax.nn.norm import unit
from vit_jax.nn.projection import ProjectionHead
from vit_jax.ranges import Count, Natural, Positive
from vit_jax.tasks import Batch, DataInfo, Metrics, Task, Variables, chosen, model_outputs
from vit_jax.tasks._two_views import embed, init_heads, views_of


def nt_xent(
    first: Float[Array, "n d"], second: Float[Array, "n d"], temperature: float
) -> tuple[Float[Array, " 2n"], Float[Array, " 2n"]]:
    """The normalised, temperature-scaled cross-entropy of each of 2N views, and whether the right one was nearest.

    The paper's loss is the mean over the 2N views; see `build` for the authors' code.
    """
    n = first.shape[0]
    z = unit(jnp.concatenate([first, second]))
    similarity = jnp.matmul(z, z.T, precision="highest") / temperature
    # A view is neither its own positive nor its own negative: 2N - 2 negatives are left beside the positive.
    similarity = jnp.where(jnp.eye(2 * n, dtype=bool), -jnp.inf, similarity)
    positive = (jnp.arange(2 * n) + n) % (2 * n)
    losses = optax.softmax_cross_entropy_with_integer_labels(similarity, positive)
    return losses, (similarity.argmax(-1) == positive).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class SimCLR(Task):
    """Contrastive learning on `batch["image"]` float [B, 2, H, W, 3], two views of each image.

    Args:
        model: the trunk, called as `model(images, train=...)`, returns a dict with `features` [B, D].
        model_spec: what rebuilds it from a checkpoint.
        projector: the head.
        temperature: of the similarities.
        representation: how many layers of the head the features have gone through.
        loss_per: "view" or "image".
        downstream: what version 2 fine-tunes: the trunk with the layers of the head that stay.
    """

    model: nn.Module
    model_spec: Mapping[str, Any] = dataclasses.field(hash=False)
    projector: ProjectionHead
    temperature: float
    representation: int
    loss_per: str = "view"
    downstream: Mapping[str, Any] | None = dataclasses.field(default=None, hash=False)
    whole_batch: ClassVar[str] = "every other view of the batch is a negative"

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        return init_heads(rng, self.model, {"projector": self.projector}, views_of(batch)[:, 0])

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        del step
        views = views_of(batch)
        # The two views of an image stay side by side, and with them on their device.
        images = views.reshape(-1, *views.shape[2:])
        heads = {"projector": self.projector}
        z, state = embed(self.model, heads, variables["params"], variables["model_state"], images, rng)
        losses, correct = nt_xent(z[::2], z[1::2], self.temperature)
        count = jnp.float32(losses.size)
        total = losses.sum() * (2 if self.loss_per == "image" else 1)
        return total / count, ({"loss": (total, count), "accuracy": (correct.sum(), count)}, state)

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        del rng
        params, state = variables["params"], variables["model_state"]
        found = model_outputs(self.model, variables, batch["image"], names)
        head = {"params": params["projector"], "batch_stats": state["batch_stats"]["projector"]}

        def projected(until: int | None = None) -> Array:
            return self.projector.apply(head, found["features"], train=False, until=until)

        features = functools.partial(projected, self.representation) if self.representation else found["features"]
        return chosen(names, {**found, "features": features, "projections": projected})

    def flops(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> float | None:
        """See `Task`: two views, forward and backward, through the trunk alone."""
        forward = self.forward_flops(batch)
        return forward and 6 * forward


def build(
    *,
    model: Mapping[str, Any],
    data: DataInfo,
    temperature: Positive = 0.1,
    head_layers: Count = 2,
    head_hidden: Count | None = None,
    head_out: Count = 128,
    representation: Natural = 0,
    loss_per: Literal["view", "image"] = "view",
) -> SimCLR:
    """The task.

    Args:
        temperature: 0.1 on ImageNet, 0.5 on CIFAR-10 (section B.9).
        head_layers: 2 in version 1, 3 in version 2.
        head_hidden: width of the head's hidden layers; None for that of the features.
        head_out: width of what is compared.
        representation: 0 for the trunk's features; 1 for those after the head's first layer, which version 2
            fine-tunes and evaluates.
        loss_per: "view" is the paper's loss, the mean over all views (equation 1); "image" that of the authors' code,
            the mean over the images of the sum over their two views, which is twice that. LARS divides that out of the
            kernels' updates, but of nothing else.
    """
    del data
    if not temperature > 0:
        raise UserError(f"config.task.temperature is {temperature}", "Use a positive one, usually 0.1")
    if head_layers < 1 or not 0 <= representation < head_layers:
        raise UserError(
            f"config.task.representation={representation} is not a layer inside a head of {head_layers}",
            "Count the hidden layers from 1; 0 is the trunk",
        )
    module, spec = build_model(model, num_classes=0)
    downstream = None
    if representation:
        kept = {"projection": representation, "hidden": head_hidden, "norm": "none", "frozen": False}
        downstream = {"name": "probed", "kwargs": {"trunk": dict(model), **kept}}
    projector = ProjectionHead(head_layers, head_out, head_hidden)
    return SimCLR(module, spec, projector, temperature, representation, loss_per, downstream)
