"""The second stage of a cascade: a diffusion of large images that sees a small one.

Ho et al., "Cascaded diffusion models for high fidelity image generation" (arXiv:2106.15282, CDM), sections 3 and 4: the
small image has noise, of which the network is told, so that it does not rely on what a first stage does wrong.

The first stage, of small images, is a run of the task `ddpm`; its parameters may lie beside those of the second, and
samples then need nothing but a class.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.naming import construct
from vit_jax.nn.diffusion import BetaSchedule, Prediction, Variance, add_noise, check_betas
from vit_jax.nn.image_tokenizer import Grid
from vit_jax.nn.resize import resize_maps
from vit_jax.nn.reverse_process import ReverseProcess
from vit_jax.ranges import Count, Decay, NonNegative, Positive, Range
from vit_jax.tasks import Batch, DataInfo, Picture, Variables, chosen, ddpm
from vit_jax.tasks._image_tokens import TOKENIZER, unit_range
from vit_jax.tasks.ddpm import CLASSIFIER, Diffusion, DiffusionSampling

_BASE = "base"
_MAP = "small"  # what the network reads beside x_t, among the conditions
_BESIDE = 4  # its channels: the small image, and its noise
_SHARE = Annotated[float, Range(0, 1)]
_AUGMENTING, _FIRST = 2**31 - 1, 2**31 - 2  # keys of a sample beside those of its steps


@dataclasses.dataclass(frozen=True)
class UpscaleSampling(DiffusionSampling):
    """How large images are drawn; what is said of steps and guidance holds for the first stage too, where it is here.

    Args:
        augmentation: noise on the small image, as a share of the steps, none at 0; at most what training shows. More of
            it hides what a first stage does wrong (CDM, section 4).
    """

    augmentation: _SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class UpscaleDiffusion(Diffusion):
    """`Diffusion` in pixels by a network that reads, beside x_t, the image at a `factor`-th of its sides, with noise
    and made large again, and how much noise that is, a map of one value.

    A batch has large images; what is small is their mean over squares. Samples go by `image`, small, or by what the
    first stage draws.

    Args:
        factor: by which sides grow.
        augmentation: the most noise on the small image in training, as a share of the steps; each example has its own.
        base: the first stage, whose parameters are frozen below "base"; None for none.
    """

    factor: int = 2
    augmentation: float = 0.5
    base: Diffusion | None = None
    locked_when_loaded: ClassVar[tuple[str, ...]] = (TOKENIZER, CLASSIFIER, _BASE)
    sampling: ClassVar[type] = UpscaleSampling
    invertible: ClassVar[bool] = False  # it is of a small image too, which a first stage would draw of a key

    def init(self, rng: Any, batch: Batch) -> Variables:
        variables = super().init(rng, batch)
        if self.base is not None:
            variables["params"][_BASE] = self.base.init(jax.random.fold_in(rng, 1), {})["params"]
        return variables

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        """`original` and, both of the batch's own images made small, `samples` and `reconstruction`."""

        def samples() -> Array:
            conditions = {"label": self._asked_labels(batch, len(rng)), "image": self._small(batch["image"])}
            return self.sample(variables, conditions, rng, self.sampling())

        original = functools.partial(unit_range, batch["image"])
        return chosen(names, {"original": original, "samples": samples, "reconstruction": samples})

    def pictures(self, settings: UpscaleSampling) -> dict[str, Picture]:
        """The small image, which is needed where there is no first stage."""
        del settings
        return {"image": Picture("image", self._small_size, needed=self.base is None)}

    def sample(
        self, variables: Variables, conditions: Mapping[str, Array], keys: PRNGKeyArray, settings: UpscaleSampling
    ) -> Float[Array, "B H W 3"]:
        """
        Args:
            conditions: `label` [B], and `image` [B, h, w, 3] in -1..1, small; without it the first stage draws one of
                the same class.

        Raises:
            UserError: see `Diffusion`; and for no small image and no first stage, or more noise on it than training
                showed.
        """
        if settings.augmentation > self.augmentation:
            raise UserError(
                f"augmentation={settings.augmentation:g} is more noise than the {self.augmentation:g} of training",
                f"Use at most {self.augmentation:g}",
            )
        fold = jax.vmap(jax.random.fold_in, (0, None))
        small = self._given(variables, conditions, fold(keys, _FIRST), settings)
        noise = jax.vmap(lambda key: jax.random.normal(key, small.shape[1:]))(fold(keys, _AUGMENTING))
        level = jnp.full(len(small), round(settings.augmentation * self.steps))
        conditions = {**conditions, _MAP: self._map(small, noise, level)}
        return super().sample(variables, conditions, keys, settings)

    def reverse_process(
        self, variables: Variables, conditions: Mapping[str, Array], settings: UpscaleSampling
    ) -> ReverseProcess:
        """That of the second stage. Apart from `sample`, which has keys, the small image has no noise; where none is
        given, it is the first stage's of one seed."""
        if _MAP not in conditions:
            keys = jax.random.split(jax.random.key(0), len(conditions["label"]))
            small = self._given(variables, conditions, keys, settings)
            seen = self._map(small, jnp.zeros_like(small), jnp.zeros(len(small), jnp.int32))
            conditions = {**conditions, _MAP: seen}
        if settings.strength is not None:
            raise UserError(
                "A strength is of an image that is drawn anew, and here one is made large",
                "Leave it out, or change the augmentation",
            )
        # The small image is not what is drawn anew.
        rest = {name: x for name, x in conditions.items() if name != "image"}
        if self.base is not None and self.base._has_null and not self._has_null:
            settings = dataclasses.replace(settings, guidance=1.0)  # it is the first stage that is guided
        return super().reverse_process(variables, rest, settings)

    def _given(
        self, variables: Variables, conditions: Mapping[str, Array], keys: PRNGKeyArray, settings: UpscaleSampling
    ) -> Float[Array, "B h w 3"]:
        """The small image, which the first stage draws where none is given."""
        if "image" in conditions:
            return conditions["image"]
        if self.base is None:
            raise UserError("There is no first stage that would draw small images", "Give an image")
        below = {"params": variables["params"][_BASE], "model_state": {}}
        return 2 * self.base.sample(below, {"label": conditions["label"]}, keys, self._of_the_first(settings)) - 1

    def _of_the_first(self, settings: UpscaleSampling) -> DiffusionSampling:
        """Settings of the first stage: no more steps than it has, and guidance where it knows how."""
        own = {field.name: getattr(settings, field.name) for field in dataclasses.fields(DiffusionSampling)}
        own["steps"] = None if settings.steps is None else min(settings.steps, self.base.steps)
        own["guidance"] = settings.guidance if self.base._has_null else 1.0
        return DiffusionSampling(**own | {"strength": None, "classifier_scale": None})

    def _own(self, variables: Variables) -> dict[str, Any]:
        own = super()._own(variables)
        return own | {"params": {name: tree for name, tree in own["params"].items() if name != _BASE}}

    def _map_in_training(self, batch: Batch, rng: PRNGKeyArray) -> Float[Array, "B H W 4"]:
        small, (leveling, noising) = self._small(batch["image"]), jax.random.split(rng)
        most = round(self.augmentation * self.steps)
        level = jax.random.randint(leveling, (len(small),), 0, most + 1)
        return self._map(small, jax.random.normal(noising, small.shape), level)

    def _map_beside(self, conditions: Mapping[str, Array]) -> Float[Array, "B H W 4"]:
        return conditions[_MAP]

    def _map(self, small: Array, noise: Array, level: Array) -> Float[Array, "B H W 4"]:
        """The small image with so many steps' noise, made large, and the share of the steps."""
        noisy = add_noise(self.chain(), small, noise, jnp.maximum(level - 1, 0))
        small = jnp.where(level[:, None, None, None] > 0, noisy, small)
        large = resize_maps(small, self.image_size, "half_pixel")
        share = jnp.broadcast_to((level / self.steps)[:, None, None, None], (*large.shape[:-1], 1))
        return jnp.concatenate([large, share], axis=-1)

    def _small(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B h w 3"]:
        return resize_maps(images, self._small_size, "area")

    @property
    def _small_size(self) -> Grid:
        return self.image_size[0] // self.factor, self.image_size[1] // self.factor


def build(
    *,
    model: Mapping[str, Any],
    data: DataInfo,
    factor: Count = 2,
    augmentation: _SHARE = 0.5,
    base: Mapping[str, Any] | None = None,
    conditional: bool = False,
    label_drop: Decay = 0.0,
    prediction: Prediction = "epsilon",
    variance: Variance = "large",
    schedule: BetaSchedule = "linear",
    steps: Count = 1000,
    first: Positive = 1e-4,
    last: Positive = 0.02,
    bound_weight: NonNegative = 0.001,
) -> UpscaleDiffusion:
    """The task.

    Args:
        model: the section of a denoiser, such as `unet`; channels and the number of classes are said here.
        factor: see `UpscaleDiffusion`, like `augmentation`.
        base: the task's section of the first stage with its model's as `model`, whose parameters come by
            `init_from={"base": "PATH::"}`.
        conditional: see `vit_jax.tasks.ddpm.build`, like `label_drop`.
        prediction: see `vit_jax.tasks.ddpm.Diffusion`, like all others.

    Raises:
        UserError: see `vit_jax.tasks.ddpm.build`; and for sides that the factor does not divide.
    """
    parts = ddpm.parts_of(model, data, conditional, label_drop, variance, beside=_BESIDE)
    size = parts["image_size"]
    if any(side % factor for side in size):
        raise UserError(
            f"Images of {size[1]}x{size[0]} are no {factor} times as large as others", "Change image_size or the factor"
        )
    check_betas(first, last)
    below = None
    if base is not None:
        small = dataclasses.replace(data, image_size=(size[0] // factor, size[1] // factor))
        below = construct(ddpm.build, base, "config.task.base", data=small)
        if below.classes and not parts["classes"]:
            parts["classes"] = below.classes
    return UpscaleDiffusion(
        **parts, prediction=prediction, variance=variance, schedule=schedule, steps=steps, first=first, last=last,
        bound_weight=bound_weight, factor=factor, augmentation=augmentation, base=below,
    )  # fmt: skip
