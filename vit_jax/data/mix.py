"""Mixup, cutmix and random erasing, on the device and on whole batches of normalised images.

Row i is mixed with row i - 1 of the *global* batch (the first with the last), or with another where `apart` says so,
and every random number is drawn for the global batch, so the result is the same on any number of devices and hosts.
big_vision pairs rows within each device's shard instead.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from vit_jax.data import geometry
from vit_jax.errors import UserError
from vit_jax.naming import nearest
from vit_jax.ranges import Count, check_value

_PER = ("batch", "example")
_FILLS = ("noise", "mean")
_ATTEMPTS = 10


@dataclasses.dataclass(frozen=True)
class Mix:
    """The `data.mix` section of a config. Erasing comes first, as in DeiT's recipe.

    With both mixup and cutmix, each weight is drawn for one of them with equal odds.

    Args:
        mixup: alpha of the Beta(alpha, alpha) that weights come from; 0 for none (Zhang et al., arXiv:1710.09412). As
            in big_vision the weight of the row itself is the larger one, max(a, 1 - a): since every row is mixed with
            its neighbour, the pairs are the same, but a row's own label stays its most likely one.
        cutmix: the same for boxes of area 1 - a (Yun et al., arXiv:1905.04899); the label's weight is that of the
            pixels that are left.
        per: one weight (and box) per "batch", as in big_vision, or per "example".
        apart: rows from a row to the one that it is mixed with: with `data.repeats` at least so many, or an image is
            mixed with itself.
        erase: share of the images in which a rectangle is erased (Zhong et al., arXiv:1708.04896).
        erase_area: bounds on the rectangle's share of the pixels, uniform; the defaults are those of DeiT.
        erase_aspect: bounds on its height / width, uniform in the logarithm.
        erase_fill: "noise", standard normal in each pixel, or "mean", 0 after normalising.

    Raises:
        UserError: for values out of their range.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    per: str = "batch"
    apart: Count = 1
    erase: float = 0.0
    erase_area: tuple[float, float] = (0.02, 1 / 3)
    erase_aspect: tuple[float, float] = (0.3, 1 / 0.3)
    erase_fill: str = "noise"

    def __post_init__(self):
        for name in ("mixup", "cutmix"):
            if not _is_number(getattr(self, name)) or getattr(self, name) < 0:
                raise UserError(
                    f"{name}={getattr(self, name)!r} is not the alpha of a Beta", "Give 0 for none, or more"
                )
        for name, known in (("per", _PER), ("erase_fill", _FILLS)):
            if getattr(self, name) not in known:
                raise UserError(f"There is no {name} {getattr(self, name)!r}", nearest(getattr(self, name), known))
        check_value(self.apart, Count, "apart")
        if not _is_number(self.erase) or not 0 <= self.erase <= 1:
            raise UserError(f"erase={self.erase!r} is not a share", "Give a number from 0 to 1")
        geometry.bounds("erase_area", self.erase_area, 1)
        geometry.bounds("erase_aspect", self.erase_aspect)

    @property
    def mixes_labels(self) -> bool:
        """Whether labels become shares."""
        return bool(self.mixup or self.cutmix)

    def check_apart(self, batch_size: int, repeats: int) -> None:
        """Refuses batches in which an image would be mixed with itself.

        Args:
            repeats: rows in a row that show the same image.

        Raises:
            UserError: `apart` is fewer rows, or so many that it leads around the batch to the same image.
        """
        if not self.mixes_labels or repeats <= self.apart <= batch_size - repeats:
            return
        what = f"In batches of {batch_size} an image is mixed with itself"
        what += f": {repeats} rows in a row show the same one" if repeats > 1 else ""
        if 2 * repeats > batch_size:
            raise UserError(what, f"Set config.batch_size to {2 * repeats} or more, or remove mixup and cutmix")
        raise UserError(what, f"Set config.data.mix.apart to {repeats}, or to at most {batch_size - repeats}")

    def __call__(self, batch: Mapping[str, Array], rng: PRNGKeyArray, num_classes: int) -> dict[str, Any]:
        """Mixes `image` float32 [B, H, W, C]; `label` int [B] or shares [B, K] becomes shares float32 [B, K].

        Without mixup and cutmix labels are left as they are. Other fields always are.
        """
        erasing_key, mixing_key = jax.random.split(rng)
        if "image" not in batch:
            return dict(batch)
        images = batch["image"]
        if images.ndim != 4 and (self.erase or self.mixes_labels):
            raise UserError(
                "Mixing and erasing take one view of each image, and the transform gives several",
                "Remove config.data.mix",
            )
        if self.erase:
            images = self._erase(images, erasing_key)
        if not self.mixes_labels:
            return {**batch, "image": images}
        weights = self._weights(images.shape, mixing_key)
        labels = batch["label"]
        labels = labels.astype(jnp.float32) if labels.ndim == 2 else jax.nn.one_hot(labels, num_classes)
        share = weights.mean(axis=(1, 2, 3))[:, None]
        return {**batch, "image": self._with_neighbour(images, weights), "label": self._with_neighbour(labels, share)}

    def _with_neighbour(self, rows: Float[Array, "b *rest"], share: Float[Array, "n *rest"]) -> Float[Array, "b *rest"]:
        """Each row with `share` of itself and the rest of the row `apart` before it."""
        return share * rows + (1 - share) * jnp.roll(rows, self.apart, axis=0)

    def _weights(self, shape: tuple[int, ...], rng: PRNGKeyArray) -> Float[Array, "n h w 1"]:
        """The row's own share in each pixel; n is 1 or B, and h = w = 1 where all pixels have the same."""
        mixup_key, cutmix_key, box_key, choice_key = jax.random.split(rng, 4)
        n = 1 if self.per == "batch" else shape[0]
        if self.mixup:
            a = jax.random.beta(mixup_key, self.mixup, self.mixup, (n,))
            mixup = jnp.maximum(a, 1 - a)[:, None, None, None]
        if self.cutmix:
            a = jax.random.beta(cutmix_key, self.cutmix, self.cutmix, (n,))
            sides = jnp.sqrt(1 - a)[:, None] * jnp.array(shape[1:3])
            # A box may reach over the edge; what it covers there is lost.
            centre = jax.random.uniform(box_key, (n, 2)) * jnp.array(shape[1:3])
            low, high = jnp.round(centre - sides / 2), jnp.round(centre + sides / 2)
            cutmix = 1 - _rectangle(low.astype(int), high.astype(int), shape).astype(jnp.float32)[..., None]
        if self.mixup and self.cutmix:
            return jnp.where(jax.random.bernoulli(choice_key, 0.5, (n, 1, 1, 1)), mixup, cutmix)
        return mixup if self.mixup else cutmix

    def _erase(self, images: Float[Array, "b h w c"], rng: PRNGKeyArray) -> Float[Array, "b h w c"]:
        choice_key, area_key, aspect_key, place_key, fill_key = jax.random.split(rng, 5)
        size, height, width = images.shape[:3]
        area = jax.random.uniform(area_key, (size, _ATTEMPTS), minval=self.erase_area[0], maxval=self.erase_area[1])
        low, high = jnp.log(jnp.array(self.erase_aspect))
        aspect = jnp.exp(jax.random.uniform(aspect_key, (size, _ATTEMPTS), minval=low, maxval=high))
        sides = jnp.round(jnp.sqrt(area * height * width * jnp.stack([aspect, 1 / aspect])))
        fits = (sides[0] < height) & (sides[1] < width)
        # The first of ten rectangles that fits; none, and the image stays whole.
        sides = sides[:, jnp.arange(size), fits.argmax(axis=1)].T
        free = jnp.array([height, width]) - sides + 1
        low = jnp.floor(jax.random.uniform(place_key, (size, 2)) * free).astype(int)
        erased = jax.random.bernoulli(choice_key, self.erase, (size,)) & fits.any(axis=1)
        mask = _rectangle(low, low + sides.astype(int), images.shape) & erased[:, None, None]
        fill = jax.random.normal(fill_key, images.shape) if self.erase_fill == "noise" else 0.0
        return jnp.where(mask[..., None], fill, images)


def _rectangle(low: Int[Array, "n 2"], high: Int[Array, "n 2"], shape: tuple[int, ...]) -> Bool[Array, "n h w"]:
    """True from `low` (row, column) to below `high`."""
    rows, columns = jnp.arange(shape[1])[:, None], jnp.arange(shape[2])[None]
    inside = [
        (x >= low[:, i, None, None]) & (x < high[:, i, None, None]) for i, x in enumerate((rows, columns))
    ]  # fmt: skip
    return inside[0] & inside[1]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
