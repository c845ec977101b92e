"""A checkpoint by whose features and answers the images of others are judged."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float32, UInt8

from vit_jax.checkpoints.load import Loaded, load
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.errors import UserError
from vit_jax.evaluators.features import digest
from vit_jax.evaluators.frechet_distance import Gaussian, Moments

Images = UInt8[np.ndarray, "N H W 3"]
Rows = Float32[np.ndarray, "N D"]

_PIXELS = 2**20  # of a batch
_KEPT = 8  # sets whose features are kept, those last asked for, since several evaluators ask for the same ones


class Judge:
    """Features [N, D] and logits [N, K] of uint8 images of any size.

    Args:
        loaded: a checkpoint that gives `features`.
        prepare: from uint8 images [B, H, W, 3] on the device to what the model takes; None for the checkpoint's own
            preprocessing.

    Attributes:
        name: the last part of its path and the beginning of the digest of its parameters, 'judge@1a2b3c4d': what is
            measured with another judge is another quantity, and printed so.
    """

    def __init__(self, loaded: Loaded, name: str, prepare: Callable[[Array], Array] | None = None):
        described = [
            type(loaded.task).__name__,
            loaded.metadata["model"],
            prepare is None and loaded.metadata["preprocess"],
        ]
        self.name = f"{name}@{digest(loaded.variables, described)[:8]}"
        self.labels = loaded.labels
        self.model = loaded.model
        self._loaded, self._prepare = loaded, prepare
        self._known: dict[Any, Rows] = {}
        self._gaussians: dict[str, Gaussian] = {}

    @property
    def width(self) -> int:
        """D."""
        size = self._loaded.preprocess.image_size
        images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
        names = frozenset({"features"})
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
        outputs = functools.partial(self._loaded.task.outputs, names=names)
        return jax.eval_shape(lambda v, x, k: outputs(v, {"image": x}, rng=k), self._loaded.variables, images, keys)[
            "features"
        ].shape[-1]

    def images(self, images: Images, output: str = "features") -> Rows:
        """An output of images in memory."""
        key = (hashlib.sha256(np.ascontiguousarray(images)).hexdigest(), images.shape, output)
        return self._remembered(key, lambda: self.stream([images], output))

    def pipeline(self, data: EvalPipeline, output: str = "features") -> Rows:
        """An output of all images of a pipeline."""
        key = None if data.description is None else (data.description, output)
        return self._remembered(key, lambda: self.stream(read(data), output))

    def gaussian(self, data: EvalPipeline) -> Gaussian:
        """That of the features of all images of a pipeline, which may be more than are kept: no image is seen twice,
        however often it is asked for."""
        found = self._gaussians.get(data.description)
        if found is None:
            found = Moments.of(self.stream(read(data))).gaussian()
            if data.description is not None:
                self._gaussians = {data.description: found}
        return found

    def stream(self, parts: Iterable[Images], output: str = "features") -> Iterator[Rows]:
        """The same for images that come bit by bit and are not kept.

        The device is one batch ahead of who takes them, and a smaller part is filled up to those before it.
        """
        pending, rows = None, 0
        for part in parts:
            most = int(np.clip(_PIXELS // (part.shape[1] * part.shape[2]), 1, 256))
            rows = min(most, max(rows, len(part)))
            for start in range(0, len(part), most):
                some = part[start : start + most]
                running = self._outputs(some, rows, output), len(some)
                if pending is not None:
                    yield np.asarray(pending[0], np.float32)[: pending[1]]
                pending = running
        if pending is not None:
            yield np.asarray(pending[0], np.float32)[: pending[1]]

    def _outputs(self, images: Images, rows: int, output: str) -> Array:
        """Of at most `rows` images, filled up to so many, so that there is one program."""
        preprocess = self._loaded.preprocess
        if self._prepare is None and images.shape[1:3] != tuple(preprocess.image_size):
            images = np.stack([preprocess.to_uint8(image) for image in images])
        images = np.concatenate([images, np.zeros((rows - len(images), *images.shape[1:]), np.uint8)])
        batch = images if self._prepare is None else self._prepare(images)
        return self._loaded.outputs({"image": batch}, (output,))[output]

    def _remembered(self, key: Any, make: Callable[[], Iterator[Rows]]) -> Rows:
        if key is not None and key in self._known:
            self._known[key] = self._known.pop(key)  # the last to be forgotten
            return self._known[key]
        parts = list(make())
        if not parts:
            raise UserError("There are no images to judge", "Evaluate on some")
        rows = np.concatenate(parts)
        if key is not None:
            self._known[key] = rows
            while len(self._known) > _KEPT:
                del self._known[next(iter(self._known))]
        return rows


@functools.lru_cache(maxsize=2)
def judge(path: str) -> Judge:
    """The judge in a checkpoint of ours, or in published weights.

    Raises:
        UserError: for a model of no images.
    """
    loaded = load(path)
    if loaded.preprocess is None:
        raise UserError(f"{path} takes no images and judges none", "Name a classifier of images")
    return Judge(loaded, epath.Path(path).name)


def read(data: EvalPipeline) -> Iterator[Images]:
    """The images of a pipeline as they are prepared, without the fillers, a batch at a time."""
    with data.iterate() as batches:
        for batch in batches:
            yield batch["image"][batch["valid"] > 0]
