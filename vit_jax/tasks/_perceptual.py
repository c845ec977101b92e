"""How different a reconstruction looks from its image, to a network that stays as it is."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray

from vit_jax.models.vgg import VGG
from vit_jax.naming import build_model
from vit_jax.nn.lpips_weights import lpips_weights
from vit_jax.nn.perceptual import LPIPS_MEAN, LPIPS_STD, map_distance, seen_by
from vit_jax.nn.trunk import Maps

PERCEPTUAL = "perceptual"  # the subtree


@dataclasses.dataclass(frozen=True)
class Perceptual:
    """A classifier below `params["perceptual"]`, frozen and loaded: VGG-16 for LPIPS (arXiv:1801.03924), or any other,
    whose maps, or features where it has none, are compared without weights.

    Args:
        model: the classifier.
        name: of the distance, in the log.
        mean: of its images, where an image is in -1..1.
        std: likewise.
        weights: of the channels of its maps, by stride; None for 1 each.
    """

    model: nn.Module
    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: Mapping[int, Any] | None = dataclasses.field(hash=False, compare=False)

    def init(self, rng: PRNGKeyArray, images: Float[Array, "B H W 3"]) -> Mapping[str, Any]:
        """Fresh collections, for others to be loaded into."""
        return self.model.init({"params": rng}, images)

    def __call__(
        self, collections: Mapping[str, Any], first: Float[Array, "B H W 3"], second: Float[Array, "B H W 3"]
    ) -> Float[Array, " B"]:
        """The distance of each image of `first` from that of `second`."""
        collections = jax.lax.stop_gradient(collections)
        maps = (self._maps(collections, seen_by(images, self.mean, self.std)) for images in (first, second))
        return map_distance(*maps, self.weights)

    def _maps(self, collections: Mapping[str, Any], images: Float[Array, "B H W 3"]) -> Maps:
        asked = {"maps": True} if "maps" in inspect.signature(type(self.model).__call__).parameters else {}
        found = self.model.apply(collections, images, **asked)
        return found.get("maps") or {0: found["features"][:, None, None]}


def perceptual_of(section: Mapping[str, Any]) -> Perceptual:
    """The network of a section: a model's name and arguments, and where it was trained with other pixels than those in
    -1..1 their `mean` and `std`, in values 0..255 as in `config.data.preprocess`.

    Of `vgg` with VGG-16's channels the distance is LPIPS, with LPIPS's pixels; of others it is called after the model.
    """
    own = dict(section)
    statistics = [own.pop(key, (127.5,) * 3) for key in ("mean", "std")]
    model, _ = build_model(own)
    weights = lpips_weights()
    if isinstance(model, VGG) and model.encoder.width == 64 and len(model.encoder.depths) == len(weights):
        return Perceptual(model, "lpips", LPIPS_MEAN, LPIPS_STD, weights)
    mean, std = (tuple(float(x) / 127.5 for x in values) for values in statistics)
    return Perceptual(model, f"perceptual({section['name']})", tuple(x - 1 for x in mean), std, None)
