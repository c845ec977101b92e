"""What the tasks of latent diffusion of texts have in common: prompts, latents in and out, the loss and the way back.

"High-resolution image synthesis with latent diffusion models" (arXiv:2112.10752), as Stable Diffusion does it. A task
that conditions on more says what its network sees beside latents and text, by overriding `_beside` or `_denoiser`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped, UInt8

from vit_jax.data.fields.tokens import Tokens
from vit_jax.errors import UserError
from vit_jax.models.latent_diffusion import LatentDiffusion
from vit_jax.naming import build_model
from vit_jax.nn.diffusion import (
    BetaSchedule,
    Noising,
    Prediction,
    Spacing,
    Steps,
    add_noise,
    check_betas,
    guided,
    spaced,
    target,
)
from vit_jax.nn.image_tokenizer import Grid
from vit_jax.nn.reverse_process import Diffuses, ReverseProcess
from vit_jax.ranges import Count, NonNegative, Range
from vit_jax.tasks import Batch, DataInfo, Metrics, Picture, Task, Variables, chosen, in_training
from vit_jax.tasks._class_conditions import as_pictures
from vit_jax.tasks._image_tokens import repainting_pictures, unit_range
from vit_jax.tasks._tenths import by_tenths

# Latents with noise [B, h, w, C], timesteps [B] and a context, or what is prepared of one, to what the network says.
Denoiser = Callable[[Array, Array, Any], Float[Array, "B h w C"]]
_FROZEN = ("autoencoder", "text")


@dataclasses.dataclass(frozen=True)
class LatentSampling:
    """How images are drawn; the defaults are Stable Diffusion's.

    Args:
        steps: how many of the T that training has.
        guidance: g of u + g (c - u) of what the network predicts, with the prompt and with the negative one; 1 for
            none.
        negative: the prompt away from which guidance leads.
        sampler: "ddim" goes on with the noise that the network sees, "ddpm" draws from the reverse process.
        eta: of DDIM: 0 adds no noise, 1 as much as DDPM.
        size: of images in pixels, both sides; None for what the networks were trained with.
        strength: of an image that samples begin with, the share of the steps that it is drawn anew by; None for 0.8,
            and for 1 where a mask says what is to be new.
    """

    steps: Count = 50
    guidance: NonNegative = 7.5
    negative: str = ""
    sampler: Literal["ddim", "ddpm"] = "ddim"
    eta: NonNegative = 0.0
    size: Count | None = None
    strength: Annotated[float, Range(0, 1, open_low=True)] | None = None


@dataclasses.dataclass(frozen=True)
class LatentDiffusionTask(Diffuses, Task):
    """The squared error of what the U-Net predicts of latents with noise, each at a step drawn evenly from all.

    `params["autoencoder"]` and `params["text"]` are frozen and loaded. A batch has `image` float [B, H, W, 3] in -1..1,
    or the `moments` of its latents, and `text` int32 [B, L].

    Metrics: `loss`, and `simple_t0` to `simple_t9`, the same by tenths of the steps, least noise first.

    Outputs: `original`, `reconstruction` of the autoencoder, `moments` and `latents`; `samples` for the texts of a
    batch, [B, H, W, 3] in 0..1.

    Args:
        model: the networks.
        image_size: height and width in pixels.
        field: of the texts.
        text_drop: share of training examples that are shown with the empty text.
        prediction: what the U-Net says of x_t, see `vit_jax.nn.diffusion.Prediction`.
        variance: of a DDPM step back.
        schedule: of the noise, with `first` and `last`, see `vit_jax.nn.diffusion.betas`.
        steps: T.
        spacing: which steps a sampler takes, with `offset`, see `vit_jax.nn.diffusion.spaced`.
        to_image: whether DDIM's last step ends without noise, see `vit_jax.nn.diffusion.Noising.of`.
    """

    model: LatentDiffusion
    model_spec: Mapping[str, Any] = dataclasses.field(hash=False)
    image_size: Grid
    field: Tokens
    text_drop: float = 0.1
    prediction: Prediction = "epsilon"
    variance: Literal["small", "large"] = "small"
    schedule: BetaSchedule = "scaled_linear"
    steps: int = 1000
    first: float = 0.00085
    last: float = 0.012
    spacing: Spacing = "leading"
    offset: int = 1
    to_image: bool = False
    _goes_by: ClassVar[tuple[str, ...]] = ()  # of a batch, beside the text, what samples of it are asked for
    _sees_mask: ClassVar[bool] = False
    takes: ClassVar[tuple[str, ...]] = ("moments",)
    locked_when_loaded: ClassVar[tuple[str, ...]] = _FROZEN
    answered_by: ClassVar[tuple[str, ...]] = ("samples",)
    encodes: ClassVar[tuple[str, ...]] = ("text", "negative")
    sampling: ClassVar[type] = LatentSampling

    def __post_init__(self):
        check_betas(self.first, self.last)

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        del batch
        own, redrawing = jax.random.split(rng)
        fresh = dict(self.model.init(own, *self.model.example_inputs(self.image_size)))
        return {"params": self.model.redrawn(fresh.pop("params"), redrawing), "model_state": fresh}

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        del step
        dropping, drawing, timing, noising, *keys = jax.random.split(rng, 6)
        x0 = self._drawn_latents(variables, batch, drawing)
        dropped = jax.random.bernoulli(dropping, self.text_drop, (len(x0), 1))
        context = self._context(variables, jnp.where(dropped, self._empty, batch["text"]))
        times = jax.random.randint(timing, (len(x0),), 0, self.steps)
        noise = jax.random.normal(noising, x0.shape)
        every = self.chain()
        output = self._denoiser(variables, batch, keys)(add_noise(every, x0, noise, times), times, context)
        error = jnp.square(output - target(every, x0, noise, times, self.prediction)).mean(axis=(1, 2, 3))
        metrics: Metrics = {"loss": (error.sum(), jnp.float32(len(x0)))}
        metrics |= by_tenths("simple", error, times, self.steps)
        return error.mean(), (metrics, variables["model_state"])

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        asked = {name: batch[name] for name in ("text", *self._goes_by) if name in batch}
        given = {
            "original": lambda: unit_range(batch["image"]),
            "moments": lambda: self._apply(variables, batch["image"], method="moments"),
            "latents": lambda: self._apply(variables, batch["image"], method="encode"),
            "reconstruction": lambda: self._pixels(variables, self._apply(variables, batch["image"], method="encode")),
            "samples": lambda: self.sample(variables, asked, rng, self.sampling()),
        }
        return chosen(names, given)

    def conditions(self, prompts: Sequence[str], settings: LatentSampling) -> dict[str, Shaped[np.ndarray, "N ..."]]:
        """`text` and `negative` int32 [N, L]; and `text_cut` and `negative_cut` [N], 1 where one is longer than the
        model reads: its end token is kept."""
        rows = [self._row(prompt, f"prompt {i}") for i, prompt in enumerate(prompts, 1)]
        negative = self._row(settings.negative, "the negative prompt")
        found = {name: np.stack([row[name] for row in rows]) for name in ("text", "text_cut")}
        return found | {
            name.replace("text", "negative"): np.broadcast_to(negative[name], x.shape) for name, x in found.items()
        }

    def unprompted(self, indices: Int[np.ndarray, " N"]) -> dict[str, Int[np.ndarray, "N L"]]:
        """The empty text."""
        if not self.text_drop:
            raise UserError("This generator was always told a text", "Give one, or train with text_drop above 0")
        return {"text": np.broadcast_to(self._empty, (len(indices), self.field.length))}

    def pictures(self, settings: LatentSampling) -> dict[str, Picture]:
        """See `Task`."""
        return repainting_pictures(self._size(settings))

    def sample(
        self, variables: Variables, conditions: Mapping[str, Array], keys: PRNGKeyArray, settings: LatentSampling
    ) -> Float[Array, "B H W 3"]:
        """All steps are one `lax.scan`; what they share of the texts is computed before it.

        Args:
            conditions: `text`, and for guidance `negative`, by default the empty text; of either what `encoded` makes
                of it will do. With `image` samples begin with it, and with `mask` they keep it where that is 0, see
                `vit_jax.nn.reverse_process.ReverseProcess`.

        Raises:
            UserError: for more steps than training has, sides that do not divide, guidance without empty texts, or a
                strength without an image or that leaves no step.
        """
        process = self.reverse_process(variables, conditions, settings)
        return process.decode(process.sample(keys))

    def reverse_process(
        self, variables: Variables, conditions: Mapping[str, Array], settings: LatentSampling
    ) -> ReverseProcess:
        noising = self._noising(settings)
        shape = (*self.model.places(self._size(settings)), self.model.autoencoder.latent_width)
        context, led = self._context(variables, conditions["text"]), settings.guidance != 1.0
        if led:
            if not self.text_drop:
                raise UserError(
                    "This generator was trained without empty texts, away from which guidance would lead",
                    "Sample with guidance 1, or train with text_drop above 0",
                )
            nothing = jnp.broadcast_to(self._empty, (len(context), self.field.length))
            context = jnp.concatenate([self._context(variables, conditions.get("negative", nothing)), context])
        shared, denoiser = self._shared(variables, context), self._denoiser(variables, conditions, settings=settings)

        def predict(x: Array, step: Int[Array, ""]) -> Array:
            if not led:
                return denoiser(x, jnp.full(len(x), step), shared)
            untold, told = jnp.split(denoiser(jnp.concatenate([x, x]), jnp.full(2 * len(x), step), shared), 2)
            return guided(told, untold, settings.guidance)

        process = ReverseProcess(
            predict, noising, Steps(settings.sampler, self.prediction, self.variance, eta=settings.eta), shape,
            encode=lambda images: self._apply(variables, images, method="encode"),
            decode=lambda x: self._pixels(variables, x),
        )  # fmt: skip
        return process.redrawing(conditions, settings.strength, self._sees_mask)

    def shown(
        self, samples: Float[np.ndarray, "B H W 3"], conditions: Mapping[str, np.ndarray]
    ) -> list[UInt8[np.ndarray, "H W 3"]]:
        """Pictures."""
        del conditions
        return as_pictures(samples)

    def encoded(self, variables: Variables, rows: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """Tokens of texts."""
        return self._context(variables, rows)

    def sampling_costs(self, settings: LatentSampling) -> dict[str, int]:
        """See `Task`: passes of the U-Net, of which guidance takes twice as many rows."""
        return {"passes": settings.steps}

    def forward_flops(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> float:
        """See `Task`; those of the U-Net."""
        del batch
        return self.model.flops(self.image_size)

    def _denoiser(
        self,
        variables: Variables,
        given: Mapping[str, Array],
        keys: PRNGKeyArray | None = None,
        settings: LatentSampling | None = None,
    ) -> Denoiser:
        """The network, with all that it sees beside latents, time and text.

        It takes the latents of `given`, or with guidance twice as many, and in sampling what `_shared` made of their
        context.

        Args:
            given: a batch in training, else conditions.
            keys: in training two, for dropout and for stochastic depth.
            settings: of samples.
        """
        del settings
        params, beside = variables["params"]["unet"], self._beside(variables, given)

        def network(x: Array, times: Array, context: Any) -> Array:
            if beside is not None:
                x = jnp.concatenate([x, repeated(beside, len(x))], axis=-1)
            if keys is None:
                return self.model.unet.apply({"params": params}, x, times, context)
            return in_training(self.model.unet, params, {}, keys, x, times, context)[0]

        return network

    def _beside(self, variables: Variables, given: Mapping[str, Array]) -> Float[Array, "B h w c"] | None:
        """What the U-Net reads behind the latents, of a batch or of conditions; None for nothing."""
        del variables, given
        return None

    def _shared(self, variables: Variables, context: Float[Array, "B L D"]) -> Any:
        """What the steps of a sampler have in common of a context."""
        own = {"params": variables["params"]["unet"]}
        return self.model.unet.apply(own, context, method="context_keys_values")

    def _apply(self, variables: Variables, *args: Any, method: str) -> Array:
        """A method of the frozen networks, through which no gradient goes."""
        params = {name: variables["params"][name] for name in _FROZEN}
        collections = {"params": params, **variables["model_state"]}
        return jax.lax.stop_gradient(self.model.apply(collections, *args, method=method))

    def _context(self, variables: Variables, text: Shaped[Array, "B L ..."]) -> Float[Array, "B L D"]:
        """What the U-Net attends to, of token ids or of what was made of them before."""
        return self._apply(variables, text, method="context") if jnp.issubdtype(text.dtype, jnp.integer) else text

    def _drawn_latents(self, variables: Variables, batch: Batch, rng: PRNGKeyArray) -> Float[Array, "B h w C"]:
        """Latents as training sees them, drawn anew from their Gaussians."""
        moments = batch["moments"] if "moments" in batch else self._apply(variables, batch["image"], method="moments")
        mean, log_variance = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        return mean + jnp.exp(0.5 * log_variance) * jax.random.normal(rng, mean.shape)

    def _pixels(self, variables: Variables, latents: Float[Array, "B h w C"]) -> Float[Array, "B H W 3"]:
        """Images in 0..1 of latents."""
        return unit_range(self._apply(variables, latents, method="decode"))

    def _noising(self, settings: LatentSampling) -> Noising:
        """The steps that a sampler takes."""
        kept = spaced(self.checked_steps(settings.steps), self.steps, self.spacing, self.offset)
        to_image = self.to_image or settings.sampler == "ddpm"
        return Noising.of(self._betas, kept, stride=self.steps // settings.steps, to_image=to_image)

    def _size(self, settings: LatentSampling) -> Grid:
        """Of samples, in pixels."""
        return self.image_size if settings.size is None else (settings.size, settings.size)

    def _row(self, prompt: str, where: str) -> dict[str, Any]:
        return self.field.batched("text", self.field.read(prompt, where, None))

    @property
    def _empty(self) -> Int[np.ndarray, " L"]:
        """The empty text, as it stands for none."""
        return self._row("", "the empty text")["text"]


def repeated(x: Shaped[Array, "B ..."], count: int) -> Shaped[Array, "count ..."]:
    """The rows as often as there are so many: with guidance each is asked twice."""
    return x if len(x) == count else jnp.concatenate([x] * (count // len(x)))


def parts(model: Mapping[str, Any], data: DataInfo, extra: int = 0, images: int = 0) -> dict[str, Any]:
    """What such a task is made of.

    Args:
        model: the section of a `latent_diffusion`; how many tokens there are is said here.
        extra: channels that the U-Net reads behind the latents.
        images: of which it reads the latents too.

    Raises:
        UserError: for another model, networks that do not fit, data without size or without texts as the text model
            reads them.
    """
    if model.get("name") != "latent_diffusion":
        raise UserError(f"The model {model.get('name')!r} does not draw images of texts", "Name latent_diffusion")
    if data.image_size is None:
        raise UserError("The data says no size of images", "Set config.data.image_size")
    field = data.fields.get("text")
    if not isinstance(field, Tokens) or not field.bos or not field.eos:
        raise UserError(
            "Images of texts need a field 'text' of tokens with start and end", "Set config.data.fields.text"
        )
    module, spec = build_model(model, vocab_size=field.tokenizer.vocab_size, end_id=field.tokenizer.eos_id)
    longest = module.text_tower.text.max_length
    if field.length > longest:
        raise UserError(
            f"Texts of {field.length} tokens are longer than the {longest} that the text model reads",
            f"Set config.data.fields.text.length={longest}",
        )
    wanted = module.autoencoder.latent_width * (1 + images) + extra
    if module.unet.inputs != wanted:
        raise UserError(
            f"The U-Net reads {module.unet.inputs} channels, and this task gives it {wanted}",
            "Use the task that it was trained for: 4 channels are text_to_image's, 5 have a depth, 9 a mask and a "
            "masked image",
        )
    size = tuple(data.image_size)
    module.places(size)
    return {"model": module, "model_spec": spec, "image_size": size, "field": field}
