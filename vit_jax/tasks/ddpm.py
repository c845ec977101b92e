"""Denoising diffusion: Ho et al., "Denoising diffusion probabilistic models" (arXiv:2006.11239, DDPM), with DDIM's
sampler (arXiv:2010.02502), iDDPM's variances (arXiv:2102.09672) and ADM's guidance by a classifier (arXiv:2105.05233).

Noise is added to images, and a network learns to see it. In pixels, or in the latents of an autoencoder.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.naming import build_model, build_named
from vit_jax.nn.diffusion import (
    BetaSchedule,
    Noising,
    Prediction,
    Spacing,
    Steps,
    Variance,
    add_noise,
    check_betas,
    guided,
    losses,
    spaced,
    target,
)
from vit_jax.nn.image_tokenizer import Grid, ImageTokenizer
from vit_jax.nn.reverse_process import Diffuses, ReverseProcess
from vit_jax.ranges import Count, Decay, NonNegative, Positive, Range
from vit_jax.tasks import Batch, DataInfo, Metrics, Picture, Variables, chosen, in_training
from vit_jax.tasks._image_tokens import TOKENIZER, TokenGenerator, repainting_pictures, tokenizer_of, unit_range
from vit_jax.tasks._tenths import by_tenths

CLASSIFIER = "classifier"


@dataclasses.dataclass(frozen=True)
class DiffusionSampling:
    """How images are drawn; the defaults are DDPM's.

    Args:
        sampler: "ddpm" draws from the reverse process, "ddim" goes on with the noise that the network sees.
        steps: how many of the T that training has; None for all.
        spacing: which, see `vit_jax.nn.diffusion.spaced`.
        eta: of DDIM: 0 adds no noise, 1 as much as DDPM.
        guidance: g of u + g (c - u) of what the network predicts, 1 for none.
        clip: the predicted image is cut to -1..1 at each step; None to do so in pixels, and not in latents.
        fit_noise: of DDIM that cuts: beside a cut image the noise is what is left of x_t, not what the network sees.
        strength: of an image that samples begin with, the share of the steps that it is drawn anew by; None for 0.8,
            and for 1 where a mask says what is to be new.
        classifier_scale: s of the gradient of log p(class | x_t) that a classifier leads by (ADM, section 4); None for
            1 where there is a classifier.
    """

    sampler: Literal["ddpm", "ddim"] = "ddpm"
    steps: Count | None = None
    spacing: Spacing = "leading"
    eta: NonNegative = 0.0
    guidance: NonNegative = 1.0
    clip: bool | None = None
    fit_noise: bool = False
    strength: Annotated[float, Range(0, 1, open_low=True)] | None = None
    classifier_scale: NonNegative | None = None


@dataclasses.dataclass(frozen=True)
class Diffusion(Diffuses, TokenGenerator):
    """The squared error of what a network predicts of images with noise, each at a step drawn evenly from all; where it
    learns the variance too, and `bound_weight` times the variational bound (iDDPM, equation 16).

    A batch has `image` float [B, H, W, 3] in -1..1, or for latents what their autoencoder makes of it; and `label`
    int32 [B], where there are classes.

    Metrics: `loss`, of which `simple` is the squared error and `bound` the bound's term in bits a dimension where there
    is one; and `simple_t0` to `simple_t9`, the squared error by tenths of the steps, least noise first.

    Outputs: `original`, and `samples` of the classes in `label`, or of all in turn, [B, H, W, 3] in 0..1; `latents`
    where there is an autoencoder.

    Args:
        tokenizer: the autoencoder; None for pixels.
        prediction: what the network says of x_t, see `vit_jax.nn.diffusion.Prediction`.
        variance: of a step back; "learned_range" takes twice as many channels from the network.
        schedule: of the noise, with `first` and `last`, see `vit_jax.nn.diffusion.betas`.
        steps: T.
        bound_weight: of the bound, all T terms of it.
        classifier: what leads samples beside the network, see `vit_jax.tasks.noisy_classifier`; it stays as it is.
    """

    tokenizer: ImageTokenizer | None
    prediction: Prediction = "epsilon"
    variance: Variance = "large"
    schedule: BetaSchedule = "linear"
    steps: int = 1000
    first: float = 1e-4
    last: float = 0.02
    bound_weight: float = 0.001
    classifier: nn.Module | None = None
    locked_when_loaded: ClassVar[tuple[str, ...]] = (TOKENIZER, CLASSIFIER)
    takes: ClassVar[tuple[str, ...]] = ("latents",)
    sampling: ClassVar[type] = DiffusionSampling

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        del batch
        own, tokenizing = jax.random.split(rng)
        params = self.model.init({"params": own}, *self.model.example_inputs(self._places))["params"]
        if hasattr(self.model, "redrawn"):
            params = self.model.redrawn(params, jax.random.fold_in(own, 1))
        if self.classifier is not None:
            inputs = self.classifier.example_inputs(self._places)
            params[CLASSIFIER] = self.classifier.init({"params": jax.random.fold_in(own, 2)}, *inputs)["params"]
        variables = {"params": params, "model_state": {}}
        return variables if self.tokenizer is None else self._with_tokenizer(tokenizing, variables)

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        del step
        dropping, timing, noising, *keys, mapping = jax.random.split(rng, 6)
        x0 = self._data(variables, batch)
        times = jax.random.randint(timing, (len(x0),), 0, self.steps)
        noise = jax.random.normal(noising, x0.shape)
        xt = add_noise(self.chain(), x0, noise, times)
        params = self._own(variables)["params"]
        reads = _beside(xt, self._map_in_training(batch, mapping))
        output, _ = in_training(self.model, params, {}, keys, reads, times, self._shown_labels(batch, dropping))
        simple, bound = self._losses(output, x0, noise, times)
        count = jnp.float32(len(x0))
        metrics: Metrics = {"simple": (simple.sum(), count)}
        if self.variance == "learned_range":
            total = simple + self.bound_weight * self.steps * bound
            metrics["bound"] = (bound.sum(), count)
        else:
            total = simple
        metrics["loss"] = (total.sum(), count)
        metrics |= by_tenths("simple", simple, times, self.steps)
        return total.mean(), (metrics, variables["model_state"])

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        def samples() -> Array:
            labels = self._asked_labels(batch, len(rng))
            return self.sample(variables, {"label": labels}, rng, self.sampling())

        given = {"original": lambda: unit_range(batch["image"]), "samples": samples}
        if self.tokenizer is not None:
            given["latents"] = lambda: self._latents(variables, batch)
        return chosen(names, given)

    def pictures(self, settings: DiffusionSampling) -> dict[str, Picture]:
        """See `Task`."""
        del settings
        return repainting_pictures(self.image_size)

    def sample(
        self, variables: Variables, conditions: Mapping[str, Array], keys: PRNGKeyArray, settings: DiffusionSampling
    ) -> Float[Array, "B H W 3"]:
        """All steps are one `lax.scan`; with guidance each sees the batch with its classes and without.

        Args:
            conditions: `label` [B]; with `image` samples begin with it, and with `mask` too they keep it where that is
                0, see `vit_jax.nn.reverse_process.ReverseProcess`.

        Raises:
            UserError: for more steps than training has, guidance without a null class, a strength without an image or
                that leaves no step, or noise fitted to what is not cut.
        """
        process = self.reverse_process(variables, conditions, settings)
        return process.decode(process.sample(keys))

    def reverse_process(
        self, variables: Variables, conditions: Mapping[str, Array], settings: DiffusionSampling
    ) -> ReverseProcess:
        count = self._count_of(settings)
        self._check_guidance(settings.guidance != 1.0)
        noising = self.chain()
        if count < self.steps:
            noising = Noising.of(self._betas, spaced(count, self.steps, settings.spacing))
        own, labels, known = self._own(variables), conditions["label"], self._map_beside(conditions)

        def apply(x: Array, step: Array, labels: Array) -> Array:
            return self.model.apply(own, _beside(x, known), jnp.full(len(x), step), labels)

        def predict(x: Array, step: Int[Array, ""]) -> Array:
            if settings.guidance == 1.0:
                return apply(x, step, labels)
            nothing = jnp.full_like(labels, len(self.classes))
            both = apply(jnp.concatenate([x, x]), step, jnp.concatenate([labels, nothing]))
            told, untold = jnp.split(both, 2)
            led = guided(told[..., : self._channels], untold[..., : self._channels], settings.guidance)
            # The variance is that of the class.
            return jnp.concatenate([led, told[..., self._channels :]], axis=-1)

        def decode(x: Array) -> Array:
            return unit_range(x if self.tokenizer is None else self._tokenizing(variables, x, method="decode_near"))

        clip = self.tokenizer is None if settings.clip is None else settings.clip
        if settings.fit_noise and not (clip and settings.sampler == "ddim"):
            raise UserError("fit_noise is of DDIM whose images are cut", "Use sampler ddim with clip, or leave it out")
        how = Steps(
            settings.sampler, self.prediction, self.variance, clip, eta=settings.eta, fit_noise=settings.fit_noise
        )
        process = ReverseProcess(
            predict, noising, how, (*self._places, self._channels),
            encode=lambda images: self._data(variables, {"image": images}), decode=decode,
            gradient=self._gradient(variables, labels, settings.classifier_scale),
        )  # fmt: skip
        return process.redrawing(conditions, settings.strength)

    def _gradient(
        self, variables: Variables, labels: Int[Array, " B"], scale: float | None
    ) -> Callable[[Array, Int[Array, ""]], Array] | None:
        """That of log p(label | x_t) times the scale, as the classifier says it; 0 for the null class."""
        if self.classifier is None and scale:
            raise UserError(
                f"classifier_scale={scale:g} is of a classifier, and this model has none",
                "Train with config.task.classifier, or leave it out",
            )
        if self.classifier is None or scale == 0:
            return None
        params = {"params": variables["params"][CLASSIFIER]}

        def likely(x: Array, step: Int[Array, ""]) -> Array:
            logits = self.classifier.apply(params, x, jnp.full(len(x), step))["logits"]
            # A row of zeros for the null class.
            return (jax.nn.log_softmax(logits) * jax.nn.one_hot(labels, logits.shape[-1])).sum()

        return lambda x, step: (1.0 if scale is None else scale) * jax.grad(likely)(x, step)

    def _own(self, variables: Variables) -> dict[str, Any]:
        own = super()._own(variables)
        return own | {"params": {name: tree for name, tree in own["params"].items() if name != CLASSIFIER}}

    def _map_in_training(self, batch: Batch, rng: PRNGKeyArray) -> Float[Array, "B h w k"] | None:
        """What the network reads beside x_t, as training shows it; None for nothing."""
        del batch, rng
        return None

    def _map_beside(self, conditions: Mapping[str, Array]) -> Float[Array, "B h w k"] | None:
        """The same of what samples go by."""
        del conditions
        return None

    def sampling_costs(self, settings: DiffusionSampling) -> dict[str, int]:
        """See `Task`: passes of the network, of which guidance takes twice as many rows."""
        return {"passes": self._count_of(settings)}

    def forward_flops(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> float:
        """See `Task`; those of the denoiser."""
        del batch
        return self.model.flops(self._places)

    @property
    def _places(self) -> Grid:
        """Rows and columns of what is diffused."""
        return self.image_size if self.tokenizer is None else self._grids[0]

    @property
    def _channels(self) -> int:
        return 3 if self.tokenizer is None else self.tokenizer.latent_width

    def _data(self, variables: Variables, batch: Batch) -> Float[Array, "B h w c"]:
        """What is diffused."""
        return batch["image"] if self.tokenizer is None else self._latents(variables, batch)

    def _losses(self, output: Array, x0: Array, noise: Array, times: Array) -> tuple[Array, Array]:
        """Squared error and the bound's term of each example [B]; the latter 0 where nothing learns from it."""
        if self.variance == "learned_range":
            return losses(self.chain(), output, x0, noise, times, self.prediction)
        error = jnp.square(output - target(self.chain(), x0, noise, times, self.prediction))
        return error.mean(axis=(1, 2, 3)), jnp.zeros(len(x0))

    def _count_of(self, settings: DiffusionSampling) -> int:
        return self.steps if settings.steps is None else self.checked_steps(settings.steps)


def _beside(x: Float[Array, "b h w c"], known: Float[Array, "B h w k"] | None) -> Float[Array, "b h w ck"]:
    """Both, the latter as often as x repeats the batch."""
    if known is None:
        return x
    return jnp.concatenate([x, jnp.concatenate([known] * (len(x) // len(known)))], axis=-1)


def build(
    *,
    model: Mapping[str, Any],
    data: DataInfo,
    tokenizer: Mapping[str, Any] | None = None,
    conditional: bool = False,
    label_drop: Decay = 0.0,
    prediction: Prediction = "epsilon",
    variance: Variance = "large",
    schedule: BetaSchedule = "linear",
    steps: Count = 1000,
    first: Positive = 1e-4,
    last: Positive = 0.02,
    bound_weight: NonNegative = 0.001,
    classifier: Mapping[str, Any] | None = None,
) -> Diffusion:
    """The task.

    Args:
        model: the section of a denoiser, such as `unet`; channels and the number of classes are said here.
        tokenizer: section of a continuous autoencoder, whose parameters come by `init_from={"tokenizer": PATH}`; None
            for pixels.
        conditional: whether images are generated of the classes that the data have.
        label_drop: share of training examples that are shown without their class, for guidance.
        prediction: see `Diffusion`, like all others.
        classifier: section of the classifier of a run of `noisy_classifier` with the same noise, whose parameters come
            by `init_from={"classifier": "PATH::"}`; samples are then of classes even where the model is told of none.

    Raises:
        UserError: for a tokenizer with codes, a size that the denoiser cannot take, data without size, or a classifier
            of data without classes.
    """
    check_betas(first, last)
    parts = parts_of(model, data, conditional, label_drop, variance, tokenizer, classifier)
    return Diffusion(
        **parts, prediction=prediction, variance=variance, schedule=schedule, steps=steps, first=first, last=last,
        bound_weight=bound_weight,
    )  # fmt: skip


def parts_of(
    model: Mapping[str, Any],
    data: DataInfo,
    conditional: bool,
    label_drop: float,
    variance: Variance,
    tokenizer: Mapping[str, Any] | None = None,
    classifier: Mapping[str, Any] | None = None,
    beside: int = 0,
) -> dict[str, Any]:
    """Arguments of `Diffusion` that take making, see `build`.

    Args:
        beside: channels that the denoiser reads beside x_t.
    """
    made, channels = None, 3
    if tokenizer is not None:
        made, size = tokenizer_of(tokenizer, data)
        if (made.vocab_size is not None and not made.finds_codes) or len(made.grids(size)) != 1:
            raise UserError("Diffusion is of continuous latents", "Use a tokenizer such as kl_autoencoder")
        channels = made.latent_width
    if data.image_size is None:
        raise UserError("The data says no size of images", "Set config.data.image_size")
    size = tuple(data.image_size)
    label_drop = label_drop if conditional and data.label_names else 0.0
    outputs = channels * (2 if variance == "learned_range" else 1)
    told = len(data.label_names) + (label_drop > 0) if conditional else 0
    module, spec = build_model(model, inputs=channels + beside, outputs=outputs, num_classes=told)
    module.check_size(size if made is None else made.grids(size)[0])
    if hasattr(module, "context_keys_values") and not told:
        raise UserError(
            f"The model {spec['name']!r} attends to classes, and is told none"
            + (", since the data names none" if conditional else ""),
            "Use data with classes, or the model unet"
            if conditional
            else "Set config.task.conditional, or use the model unet",
        )
    leading = None
    if classifier is not None:
        if not data.label_names:
            raise UserError(
                "A classifier leads to classes, and the data names none", "Leave out config.task.classifier"
            )
        leading = build_named(
            "model", classifier, "config.task.classifier", inputs=channels, num_classes=len(data.label_names)
        )  # fmt: skip
    classes = tuple(data.label_names) if conditional or leading is not None else ()
    return {
        "model": module, "model_spec": spec, "tokenizer": made, "image_size": size, "classes": classes,
        "label_drop": label_drop, "classifier": leading,
    }  # fmt: skip
