"""How different reconstructions look to a network: LPIPS by VGG-16, or the same distance by a network of ours.

Zhang et al., "The unreasonable effectiveness of deep features as a perceptual metric" (arXiv:1801.03924).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float, UInt8

from vit_jax.checkpoints.load import load
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.errors import UserError
from vit_jax.evaluators import Apply, EvaluationRun, PipelineFactory
from vit_jax.evaluators.features import digest
from vit_jax.evaluators.pictures import pixels
from vit_jax.models.vgg import VARIANTS, VGG
from vit_jax.nn.lpips_weights import lpips_weights
from vit_jax.nn.perceptual import map_distance, seen_by
from vit_jax.nn.trunk import Trunk

Distance = Callable[[UInt8[np.ndarray, "B H W 3"], UInt8[np.ndarray, "B H W 3"]], Float[Array, " B"]]


@functools.lru_cache(maxsize=1)
def distance(path: str) -> tuple[str, Distance]:
    """What a network's distance of uint8 images is called, and the distance.

    Args:
        path: of VGG-16 in timm's names, for LPIPS; or of any image model that gives maps, whose channels all weigh the
            same then.

    Raises:
        UserError: for a model without maps.
    """
    loaded = load(path)
    encoder = getattr(loaded.model, "encoder", None)
    if not isinstance(encoder, Trunk) or loaded.preprocess is None:
        raise UserError(f"{path} gives no maps of images", "Name VGG-16's weights, or a classifier of images")
    variables = {"params": loaded.params["encoder"]}
    variables |= {kind: tree["encoder"] for kind, tree in loaded.model_state.items() if "encoder" in tree}
    by_vgg = isinstance(loaded.model, VGG) and encoder.depths == VARIANTS["16"] and encoder.width == 64
    weights = lpips_weights() if by_vgg else None

    @jax.jit
    def apart(variables: Any, first: Array, second: Array) -> Float[Array, " B"]:
        found = []
        for images in (first, second):
            x = seen_by(images / 127.5 - 1) if by_vgg else loaded.preprocess.normalize(images)
            found.append(encoder.apply(variables, x, method="encode")[1])
        return map_distance(*found, weights)

    name = "lpips" if by_vgg else f"perceptual({epath.Path(path).name}@{digest(loaded.variables)[:8]})"
    return name, lambda first, second: apart(variables, jnp.asarray(first), jnp.asarray(second))


@dataclasses.dataclass(frozen=True)
class Lpips:
    """`lpips`, the mean over images; or `perceptual(network@sha)`, where the network is not VGG-16. Both images are
    rounded to bytes first.

    Args:
        pipeline: the images.
        network: path of the network, see `distance`.
    """

    pipeline: EvalPipeline = dataclasses.field(hash=False)
    network: str

    def check(self) -> None:
        distance(self.network)

    def measure(self, apply: Apply, batch: Mapping[str, Array]) -> dict[str, Array]:
        found = apply(batch, ("original", "reconstruction"))
        return {"valid": batch["valid"], **{name: pixels(x) for name, x in found.items()}}

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        name, apart = distance(self.network)
        found: list[float] = []
        for part in run(self.pipeline):
            each = np.asarray(apart(part["reconstruction"], part["original"]), np.float64)
            found += each[part["valid"] > 0].tolist()
        return {name: math.fsum(found) / len(found), "images": len(found)}


def build(pipeline: PipelineFactory, *, network: str, source: Mapping[str, Any] | None = None) -> Lpips:
    """Of the images of `source`, or of the config's `data.eval`."""
    return Lpips(pipeline(source=source), network)
