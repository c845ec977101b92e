"""Tokenizers of images that a discriminator and a network's eyes teach to be sharp: VQGAN ("Taming transformers for
high-resolution image synthesis", arXiv:2012.09841, section 3.1) and the autoencoders of latent diffusion
(arXiv:2112.10752, section 3.1 and appendix G).

Of an image x and its reconstruction y, the tokenizer lowers |x - y| + the perceptual distance + what its quantiser or
its Gaussian costs + w a s(y), where s is what the discriminator makes of y, w a weight and a makes both pull the last
layer of the decoder equally hard. The discriminator, from the same step, learns to tell x from y.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from vit_jax.errors import UserError
from vit_jax.naming import construct
from vit_jax.nn.code_usage import usage_remarks
from vit_jax.nn.discriminator import DiscriminatorNorm, PatchDiscriminator
from vit_jax.nn.gan_loss import GanLoss, adaptive_weight, discriminator_loss, generator_loss, gradient_penalty
from vit_jax.ranges import Count, Natural, NonNegative
from vit_jax.tasks import Batch, DataInfo, Metrics, Variables, in_training
from vit_jax.tasks._perceptual import PERCEPTUAL, Perceptual, perceptual_of
from vit_jax.tasks._tokenizer import TokenizerTask, tokenizer_model

DISCRIMINATOR = "discriminator"  # the subtree
# Subtrees beside the model's that nothing but the loss needs: files of others have none.
TRAINING_ONLY = (DISCRIMINATOR, PERCEPTUAL)
_STATISTICS = "batch_stats"


@dataclasses.dataclass(frozen=True)
class Adversary:
    """Who tells reconstructions from images, and from when on.

    Args:
        network: below `params["discriminator"]`.
        loss: see `vit_jax.nn.gan_loss`.
        weight: of the generator's loss.
        adaptive: whether it is also weighed by `adaptive_weight`.
        start: the step, counted from 0, in which both begin; before it nothing of them is computed.
        r1: weight of the penalty on the gradient of images' scores, see `vit_jax.nn.gan_loss.gradient_penalty`; 0 for
            none.
    """

    network: PatchDiscriminator
    loss: GanLoss = "hinge"
    weight: NonNegative = 0.8
    adaptive: bool = True
    start: Natural = 0
    r1: NonNegative = 0.0


@dataclasses.dataclass(frozen=True)
class AdversarialTokenizer(TokenizerTask):
    """See the module. Parameters: those of the model, and `discriminator` and `perceptual` where there are such. The
    discriminator learns by the same scalar as all else; a config gives it a group of its own, and freezes `perceptual`.

    Metrics: `loss`, the scalar, without the discriminator's part; `error`, the mean of |x - y| or its square; the
    perceptual distance by its name; `quantizer_loss` and the use of codes, or `kl` in nats an image; and of the
    adversary, from its start, `adversarial`, `adaptive_weight`, `discriminator`, `score_real`, `score_made`, `r1`.
    Outputs: see `TokenizerTask`.

    Args:
        squared: whether the error is the square.
        summed: errors are summed over an image's numbers, as the authors of latent diffusion do, and not averaged: so
            their weight of the divergence, 1e-6, is one for 196,608 errors at 256 pixels.
        perceptual: None for none; `perceptual_weight` is that of its distance.
        quantizer_weight: of the quantiser's loss.
        kl_weight: of the divergence of the latents' Gaussians.
        adversary: None for none.
        last_layer: path of the kernel whose gradients the adaptive weight compares.
    """

    squared: bool = False
    summed: bool = False
    perceptual: Perceptual | None = None
    perceptual_weight: float = 1.0
    quantizer_weight: float = 1.0
    kl_weight: float = 1e-6
    adversary: Adversary | None = None
    last_layer: str = "decoder/conv_out/kernel"
    locked_when_loaded: ClassVar[tuple[str, ...]] = (PERCEPTUAL,)

    def static(self, step: int) -> bool:
        """Whether the adversary has begun."""
        return self.adversary is not None and step >= self.adversary.start

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        variables = super().init(rng, batch)
        if self.adversary and self.adversary.adaptive:
            _leaf(variables["params"], self.last_layer)
        params, state = variables["params"], dict(variables["model_state"])
        keys = jax.random.split(jax.random.fold_in(rng, 1))
        others = []
        if self.perceptual is not None:
            others.append((PERCEPTUAL, self.perceptual.init(keys[0], batch["image"])))
        if self.adversary is not None:
            others.append((DISCRIMINATOR, self.adversary.network.init(keys[1], batch["image"])))
        for name, found in others:
            found = dict(found)
            params = {**params, name: found.pop("params")}
            for kind, tree in found.items():
                state[kind] = {**state.get(kind, {}), name: tree}
        return {"params": params, "model_state": state}

    def loss(
        self,
        variables: Variables,
        batch: Batch,
        rng: PRNGKeyArray,
        step: Int[Array, ""],
        *,
        static: Hashable = True,
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        del step
        images, params, state = batch["image"], variables["params"], variables["model_state"]
        own, own_state = (
            _but(params, *TRAINING_ONLY),
            {kind: _but(tree, *TRAINING_ONLY) for kind, tree in state.items()},
        )
        own_state = {kind: tree for kind, tree in own_state.items() if tree}
        keys = jax.random.split(rng)

        def generate(kernel: Array | None) -> tuple[Float[Array, "B H W 3"], tuple[Any, Any]]:
            replaced = own if kernel is None else _with_leaf(own, self.last_layer, kernel)
            found, new = in_training(self.model, replaced, own_state, keys, images)
            return found["reconstruction"], (found, new)

        begun = self.adversary is not None and bool(static)
        adaptive = begun and self.adversary.adaptive
        pull: Callable[[Array], Array] | None = None
        if adaptive:
            made, backwards, (found, new) = jax.vjp(generate, _leaf(own, self.last_layer), has_aux=True)
            pull = lambda gradient: backwards(gradient)[0]  # noqa: E731
        else:
            made, (found, new) = generate(None)
        similar = functools.partial(self._similar, params, state, images)
        total, metrics = similar(made)
        cost, costs = self._cost(found, images)
        metrics |= costs
        total += cost
        taught = jnp.float32(0)
        if self.adversary is not None:
            fooled, taught, measured, statistics = (
                self._against(params, state, images, made, lambda y: similar(y)[0], pull)
                if begun
                else (jnp.float32(0), jnp.float32(0), {}, state.get(_STATISTICS, {}).get(DISCRIMINATOR))
            )
            total += fooled
            # The same names in each step, with nothing to average before the start.
            names = ("adversarial", "adaptive_weight", "discriminator", "score_real", "score_made", "r1")
            metrics |= {n: (measured.get(n, jnp.float32(0)), jnp.float32(n in measured)) for n in names}
            if statistics is not None:
                new = {**new, _STATISTICS: {**new.get(_STATISTICS, {}), DISCRIMINATOR: statistics}}
        for kind, tree in state.items():  # what stays as it is
            kept = {name: x for name, x in tree.items() if name == PERCEPTUAL}
            new = {**new, kind: {**new.get(kind, {}), **kept}} if kept else new
        metrics["loss"] = (total, jnp.float32(1))
        return total + taught, (metrics, new)

    def remarks(self, averages: Mapping[str, float]) -> dict[str, str]:
        """A codebook of which one code is left, see `usage_remarks`."""
        return {} if self.model.vocab_size is None else usage_remarks(averages, self.model.vocab_size)

    def flops(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> float | None:
        """Not counted where others than the model compute."""
        return None if self.perceptual or self.adversary else super().flops(batch)

    def _similar(
        self, params: PyTree, state: PyTree, images: Float[Array, "B H W 3"], made: Float[Array, "B H W 3"]
    ) -> tuple[Float[Array, ""], Metrics]:
        """What a reconstruction costs by how it looks, and its parts."""
        errors = (jnp.square(images - made) if self.squared else jnp.abs(images - made)).mean((1, 2, 3))
        count = jnp.float32(len(images))
        each, metrics = errors, {"error": (errors.sum(), count)}
        if self.perceptual is not None:
            collections = {"params": params, **state}
            below = {kind: tree[PERCEPTUAL] for kind, tree in collections.items() if PERCEPTUAL in tree}
            distances = self.perceptual(below, made, images)
            each = each + self.perceptual_weight * distances
            metrics[self.perceptual.name] = (distances.sum(), count)
        total = each.mean()
        return total * images[0].size if self.summed else total, metrics

    def _cost(self, found: Mapping[str, Array], images: Float[Array, "B H W 3"]) -> tuple[Float[Array, ""], Metrics]:
        """What the latents cost."""
        count = jnp.float32(len(images))
        if self.model.vocab_size is None:
            return self.kl_weight * found["kl"].mean(), {"kl": (found["kl"].sum(), count)}
        cost = found["quantizer_loss"]
        metrics = {"quantizer_loss": (cost * count, count), **self._usage(found["indices"], images.shape[1:3])}
        return self.quantizer_weight * cost, metrics

    def _against(
        self,
        params: PyTree,
        state: PyTree,
        images: Float[Array, "B H W 3"],
        made: Float[Array, "B H W 3"],
        similar: Callable[[Float[Array, "B H W 3"]], Float[Array, ""]],
        pull: Callable[[Float[Array, "B H W 3"]], Array] | None,
    ) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, Float[Array, ""]], Any]:
        """The generator's loss with its weights, the discriminator's, their parts, and the new running statistics.

        Args:
            similar: what a reconstruction costs by how it looks.
            pull: from a gradient by the reconstruction to that by the last layer; None for no adaptive weight.
        """
        adversary, fixed = self.adversary, jax.lax.stop_gradient
        statistics = state.get(_STATISTICS, {}).get(DISCRIMINATOR)
        kept = {} if statistics is None else {_STATISTICS: statistics}

        def score(params: PyTree, images: Float[Array, "B H W 3"], kept: Any) -> tuple[Float[Array, "B h w"], Any]:
            return adversary.network.apply({"params": params, **kept}, images, train=True, mutable=list(kept))

        network = params[DISCRIMINATOR]

        def fool(made: Float[Array, "B H W 3"]) -> Float[Array, ""]:
            return generator_loss(adversary.loss, score(fixed(network), made, kept)[0])

        fooled, weight = fool(made), jnp.float32(1)
        if pull is not None:
            seen = fixed(made)
            weight = adaptive_weight(*(fixed(pull(jax.grad(of)(seen))) for of in (similar, fool)))
        real, kept_real = score(network, images, kept)
        told, new = score(network, fixed(made), {**kept, **kept_real})
        taught = discriminator_loss(adversary.loss, real, told)
        measured = {"adversarial": fooled, "adaptive_weight": weight, "discriminator": taught,
                    "score_real": real.mean(), "score_made": told.mean()}  # fmt: skip
        if adversary.r1:
            penalty = gradient_penalty(lambda images: score(network, images, kept)[0], images)
            taught = taught + adversary.r1 * penalty
            measured["r1"] = penalty
        return adversary.weight * weight * fooled, taught, fixed(measured), new.get(_STATISTICS, statistics)


def _but(tree: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in tree.items() if name not in names}


def _leaf(tree: Mapping[str, Any], path: str) -> Array:
    try:
        return functools.reduce(lambda node, key: node[key], path.split("/"), tree)
    except (KeyError, TypeError, IndexError):
        raise UserError(
            f"The model has no parameter {path!r}, whose gradients the adaptive weight would compare",
            "Set config.task.last_layer to the kernel of the decoder's last layer, or config.task.adaptive=False",
        ) from None


def _with_leaf(tree: Mapping[str, Any], path: str, leaf: Array) -> dict[str, Any]:
    key, _, rest = path.partition("/")
    return {**tree, key: _with_leaf(tree[key], rest, leaf) if rest else leaf}


def _network_and_start(
    *, channels: Count = 64, num_layers: Count = 3, norm: DiscriminatorNorm = "batch", after: Natural = 0
) -> tuple[PatchDiscriminator, int]:
    return PatchDiscriminator(channels, num_layers, norm), after


def build(
    *,
    model: Mapping[str, Any],
    data: DataInfo,
    reconstruction: Literal["l1", "l2"] = "l1",
    reduction: Literal["mean", "sum"] | None = None,
    perceptual: Mapping[str, Any] | None = None,
    perceptual_weight: NonNegative = 1.0,
    quantizer_weight: NonNegative = 1.0,
    kl_weight: NonNegative = 1e-6,
    discriminator: Mapping[str, Any] | None = None,
    gan: GanLoss = "hinge",
    disc_weight: NonNegative = 0.8,
    adaptive: bool = True,
    r1: NonNegative = 0.0,
    last_layer: str = "decoder/conv_out/kernel",
) -> AdversarialTokenizer:
    """The task, for any model that is a tokenizer.

    Args:
        reconstruction: the error, |x - y| or its square.
        reduction: see `AdversarialTokenizer.summed`; None for the sum where latents have a Gaussian, and the mean for
            codes, as the authors have them.
        perceptual: a classifier's section, see `vit_jax.tasks._perceptual`: `vgg` (with `hidden=0`) for LPIPS. It is
            loaded with `init_from={"perceptual": "PATH::"}` and frozen. None for none.
        discriminator: arguments of `vit_jax.nn.discriminator.PatchDiscriminator`, {} for the paper's, and `after`, the
            steps without it; None for none.
        gan: see `Adversary.loss`; for what follows see `Adversary` and `AdversarialTokenizer`.

    Raises:
        UserError: for a model that is no tokenizer, or a penalty beside batch normalisation.
    """
    module, spec = tokenizer_model(model)
    if data.image_size is not None:
        module.grids(tuple(data.image_size))
    adversary = None
    if discriminator is not None:
        network, start = construct(_network_and_start, discriminator, "config.task.discriminator")
        adversary = Adversary(network, gan, disc_weight, adaptive, start, r1)
        if r1 and network.norm == "batch":
            raise UserError(
                "The penalty r1 is on the gradient of each image's own score, and batch normalisation mixes the images",
                "Set config.task.discriminator.norm=none, or r1=0",
            )
    return AdversarialTokenizer(
        module,
        spec,
        squared=reconstruction == "l2",
        summed=module.vocab_size is None if reduction is None else reduction == "sum",
        perceptual=None if perceptual is None else perceptual_of(perceptual),
        perceptual_weight=perceptual_weight,
        quantizer_weight=quantizer_weight,
        kl_weight=kl_weight,
        adversary=adversary,
        last_layer=last_layer,
    )
