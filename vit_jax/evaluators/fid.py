"""FID: the Frechet distance to real images on pool3 of the Inception network of 2015, and of nothing else.

Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium" (arXiv:1706.08500).
The number depends on how images are brought to 299x299 pixels (Parmar et al., "On aliased resizing and surprising
subtleties in GAN evaluation", arXiv:2104.11222), on how many there are, and on which real images are taken.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from vit_jax.checkpoints.load import load
from vit_jax.errors import UserError
from vit_jax.evaluators import EvaluationRun, PipelineFactory
from vit_jax.evaluators.frechet_distance import Gaussian, Moments, frechet_distance, read_gaussian
from vit_jax.evaluators.judge import Judge
from vit_jax.evaluators.pictures import Of, OfPictures, asked
from vit_jax.models.inception_fid import IMAGE_SIZE, InceptionFid
from vit_jax.nn.resize import cubic_weights, linear_weights
from vit_jax.ranges import Count, Natural

Resizing = Literal["pytorch", "tensorflow", "clean"]


def prepared(images: UInt8[Array, "b h w 3"], resizing: Resizing) -> Float[Array, "b 299 299 3"]:
    """What the network sees of images of any size.

    Args:
        resizing: "pytorch" is pytorch-fid's: bilinear, without antialiasing, to -1..1. "tensorflow" is that of the
            graph of 2015, which papers before it used: bilinear between pixels that lie at their upper left corners,
            and (x - 128) / 128. "clean" is clean-fid's: bicubic with antialiasing, as Pillow does it on floats, cut off
            at 0 and 255, and (x - 128) / 128.
    """
    x = images.astype(jnp.float32)
    if x.shape[1:3] != IMAGE_SIZE:
        rows, columns = (
            jnp.float32(_WEIGHTS[resizing](*sides)) for sides in zip(x.shape[1:3], IMAGE_SIZE, strict=True)
        )
        x = jnp.einsum("bhwc,xw->bhxc", x, columns, precision="highest")
        x = jnp.einsum("bhxc,yh->byxc", x, rows, precision="highest")
    if resizing == "clean":
        x = x.clip(0, 255)
    return x / 127.5 - 1 if resizing == "pytorch" else (x - 128) / 128


def _corner_weights(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Bilinear without half a pixel: the first pixel of both grids is in the same place."""
    position = np.minimum(np.arange(new) * (old / new), old - 1)
    return np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(old)))


_WEIGHTS: Mapping[str, Callable[[int, int], Float[np.ndarray, "new old"]]] = {
    "pytorch": lambda old, new: linear_weights(old, new, align_corners=False),
    "tensorflow": _corner_weights,
    "clean": lambda old, new: cubic_weights(old, new, antialias=True),
}


@functools.lru_cache(maxsize=1)
def inception(path: str, resizing: Resizing) -> Judge:
    """FID's network in a file of pytorch-fid's names.

    Raises:
        UserError: for another network.
    """
    loaded = load(path)
    if not isinstance(loaded.model, InceptionFid):
        raise UserError(
            f"{path} is not the Inception network of FID, and what is measured with it is not FID",
            "Give pytorch-fid's weights as safetensors, or use the evaluator 'frechet' with this judge",
        )
    return Judge(loaded, "inception", jax.jit(functools.partial(prepared, resizing=resizing)))


@dataclasses.dataclass(frozen=True)
class Fid(OfPictures):
    """`fid` of the images, and `images`, how many they are: papers take 50,000. Files: `statistics.npz` of the images
    and `real_statistics.npz`, with `mu` and `sigma`, which `statistics` reads. See `OfPictures` for the other
    arguments.

    Args:
        inception: path of the network's weights, see `vit_jax.checkpoints.families.pytorch_fid`.
        resizing: see `prepared`.
        statistics: path of an .npz with `mu` and `sigma` of real images, in the place of `real`.
    """

    inception: str
    resizing: Resizing
    statistics: str | None

    def check(self) -> None:
        inception(self.inception, self.resizing)
        if self.statistics is not None:
            read_gaussian(self.statistics)

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        by = inception(self.inception, self.resizing)
        images = self.pictures(run).made
        made = Moments.of(by.stream([images])).gaussian()
        real = read_gaussian(self.statistics) if self.statistics else by.gaussian(self.real)
        for name, of in (("statistics.npz", made), ("real_statistics.npz", real)):
            run.keep(name, functools.partial(Gaussian.to_npz, of))
        return {"fid": frechet_distance(made, real), "images": len(images)}


def build(
    pipeline: PipelineFactory,
    *,
    inception: str,
    resizing: Resizing = "pytorch",
    statistics: str | None = None,
    source: Mapping[str, Any] | None = None,
    of: Of = "samples",
    count: Count = 50_000,
    seed: Natural = 0,
    settings: Mapping[str, Any] | None = None,
) -> Fid:
    """Against the real images of `source`, or of the config's `data.eval`, or against `statistics`."""
    pictures = asked(pipeline, source, of, count, seed, settings)
    return Fid(**pictures, inception=inception, resizing=resizing, statistics=statistics)
