"""Frozen features of a whole set: computed once for all evaluators that ask for them, and kept on disk if wanted."""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float, Float32, Int, PyTree

from vit_jax.data.fields import Fields
from vit_jax.data.fields.classes import Classes
from vit_jax.data.files import write_whole
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.errors import UserError
from vit_jax.evaluators import Apply

PIXELS = "pixels"  # instead of a task's output: the preprocessed image itself, as the baseline

Labelled = tuple[Float32[np.ndarray, "N D"], Int[np.ndarray, " N"]]


def labelled(data: EvalPipeline) -> EvalPipeline:
    """The same examples with their classes, where the source has some and a checkpoint's fields do not: a model of
    pictures and texts was trained without, and is probed like any other.

    Raises:
        UserError: for a source without classes.
    """
    if "label" in data.fields:
        return data
    if not data.source.label_names:
        raise UserError(
            "Probes and neighbours need the class of every example, and this source has none",
            "Name one that has, or for a manifest its label_key",
        )
    return data.over(data.source, Fields({**data.fields, "label": Classes()}), data.description)


def measure(output: str, apply: Apply, batch: Mapping[str, Array]) -> dict[str, Array]:
    """What is kept of a batch: one row an example, flattened, float32.

    Raises:
        UserError: the output is several arrays, such as a pyramid of maps.
    """
    rows = batch["image"] if output == PIXELS else apply(batch, (output,))[output]
    if not isinstance(rows, jax.Array):
        raise UserError(f"The output {output!r} is not one array", "Choose another one, such as 'features'")
    features = rows.reshape(rows.shape[0], -1).astype(jnp.float32)
    return {"features": features, "label": batch["label"], "valid": batch["valid"]}


def collect(parts: Any) -> Labelled:
    """The examples of all batches, without the fillers of the last one."""
    kept = [(part["features"][part["valid"] > 0], part["label"][part["valid"] > 0]) for part in parts]
    return np.concatenate([f for f, _ in kept]), np.concatenate([y for _, y in kept])


def digest(variables: PyTree, description: Any = None) -> str:
    """A name for a model: its parameters, bit by bit, and the plain values that describe how they are used."""
    hashed = hashlib.sha256(json.dumps(description, sort_keys=True, default=str).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        leaf = np.asarray(leaf)
        hashed.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        hashed.update(np.ascontiguousarray(leaf).tobytes())
    return hashed.hexdigest()


class FeatureCache:
    """A directory of features, one .npz file (without pickle) for each model, output and set of images.

    Images are known by the config that names them and by their number: files that are exchanged in place are not
    noticed, and need another directory.

    Args:
        directory: made when something is first kept.
        model: what `digest` said of the model.
    """

    def __init__(self, directory: epath.PathLike, model: str):
        self._directory = epath.Path(directory)
        if self._directory.exists() and not self._directory.is_dir():
            raise UserError(f"The cache {self._directory} is a file", "Give a directory")
        self._model = model

    def path(self, output: str, images: str) -> epath.Path:
        """The file of one output for the images that a description names."""
        name = hashlib.sha256(json.dumps([self._model, output, images]).encode()).hexdigest()[:32]
        return self._directory / f"{name}.npz"

    def read(self, output: str, images: str) -> Labelled | None:
        """None for what is not there, or damaged."""
        path = self.path(output, images)
        if not path.exists():
            return None
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                return file["features"], file["labels"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def write(self, output: str, images: str, value: Labelled) -> None:
        """Writes the whole file or none."""
        path = self.path(output, images)
        packed = io.BytesIO()
        np.savez(packed, features=value[0], labels=value[1])
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            write_whole(path, packed.getvalue())
        except OSError as error:
            raise UserError(
                f"The cache {self._directory} cannot be written: {error.strerror or error}", "Use another directory"
            ) from None


def standardize(train: Float[np.ndarray, "N D"], *others: Float[np.ndarray, "M D"]) -> list[Float[np.ndarray, "M D"]]:
    """All of them shifted and scaled by the mean and deviation of the first, feature by feature, in float32."""
    mean, deviation = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64) + 1e-5
    return [((x - mean) / deviation).astype(np.float32) for x in (train, *others)]
