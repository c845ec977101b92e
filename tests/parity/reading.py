"""What the parity tests of all families do: read a file's tensors, run both models, compare, and write back."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vit_jax import naming
from vit_jax.checkpoints.published import Published, Sidecar

TOLERANCE = 1e-4


@dataclasses.dataclass
class Read:
    """A model of ours from somebody's tensors."""

    published: Published
    kwargs: dict[str, Any]
    model: Any
    params: dict[str, np.ndarray]

    def outputs(self, images: np.ndarray, **overrides: Any) -> dict[str, np.ndarray]:
        """Our outputs; with `overrides` those of a model that computes otherwise on the same parameters."""
        model = build(self.published.model, self.kwargs | overrides) if overrides else self.model
        tree = nest(self.params)
        return jax.tree.map(np.asarray, jax.jit(model.apply)({"params": tree}, images))


def build(name: str, kwargs: Mapping[str, Any]) -> Any:
    json.dumps(kwargs)  # plain values
    return naming.build_named("model", {"name": name, **kwargs}, "config.model")


def flat(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def nest(params: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in params.items():
        *inner, last = name.split("/")
        node = tree
        for part in inner:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def shapes_of(model: Any, image_size: Any) -> dict[str, tuple[int, ...]]:
    images = jax.ShapeDtypeStruct((1, *image_size, 3), np.float32)
    return {n: x.shape for n, x in flat(jax.eval_shape(model.init, jax.random.key(0), images)["params"]).items()}


def read(family: Any, tensors: Mapping[str, np.ndarray], sidecar: Sidecar | None = None, **overrides: Any) -> Read:
    """As `vit_jax.load` does; every tensor of the file in exactly one entry, every parameter from exactly one."""
    published = family.describe({name: x.shape for name, x in tensors.items()}, sidecar or Sidecar())
    assert published is not None
    json.dumps([published.kwargs, published.layout, published.preprocess])
    kwargs = dict(published.kwargs) | overrides
    names = family.name_map(kwargs, published.layout)
    names.check(tensors, "file")
    model = build(published.model, kwargs)
    shapes = shapes_of(model, published.preprocess["image_size"])
    pairs = list(names.read(tensors.__getitem__, shapes, "file"))
    params = dict(pairs)
    assert len(pairs) == len(params) and params.keys() == shapes.keys()
    theirs = [name for entry in names.entries for name in entry.theirs]
    assert len(theirs) == len(set(theirs))
    written = names.write(params)
    for name in theirs:
        np.testing.assert_array_equal(written[name], tensors[name], err_msg=name)
        assert written[name].shape == tensors[name].shape
    return Read(published, kwargs, model, params)


def metadata(name: str, kwargs: Mapping[str, Any], image_size: Any, **preprocess: Any) -> dict[str, Any]:
    """What a checkpoint of ours says."""
    return {
        "model": {"name": name, "kwargs": dict(kwargs)},
        "preprocess": {"image_size": list(image_size), "resize": "squash", "mean": [127.5] * 3, "std": [100.0] * 3}
        | preprocess,
        "labels": [f"class {i}" for i in range(kwargs["num_classes"])],
        "image_size": list(image_size),
    }


def write(family: Any, directory: Path, read_model: Read, metadata: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Writes a directory as `vit_jax convert` does, and returns the tensors."""
    from safetensors.numpy import save_file

    tensors = family.name_map(read_model.kwargs, {}).write(read_model.params)
    tensors = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    files = family.sidecar(metadata)
    assert files is not None
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content))
    return tensors


def files_beside(directory: Path) -> Sidecar:
    def load(name: str) -> dict[str, Any]:
        return json.loads((directory / name).read_text()) if (directory / name).exists() else {}

    return Sidecar(load("config.json"), load("preprocessor_config.json"))


def error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, relative to 1 or the largest absolute value of the reference."""
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / max(1.0, np.abs(theirs).max()))


def assert_close(ours: np.ndarray, theirs: np.ndarray, what: str = "") -> None:
    largest = error(ours, theirs)
    print(f"{what}: relative error {largest:.1e}, reference up to {np.abs(theirs).max():.1f}")
    assert largest <= TOLERANCE, what


def images(*size: int, batch: int = 3, seed: int = 0) -> np.ndarray:
    """Dim and bright noise: normalisation in the dim ones feels every epsilon."""
    rng = np.random.default_rng(seed)
    brightness = np.geomspace(0.005, 1.0, batch).reshape(-1, 1, 1, 1)
    return (brightness * rng.normal(size=(batch, *size, 3))).astype(np.float32)


def randomize_resnet(shape_of: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """Values for a ResNet's tensors in PyTorch's layout [out, ...] with which nothing hides.

    Filters have deviations from 0.001 to 0.1, which differ within each group of channels, since a group norm takes back
    what all of its channels have in common. Norms give little, so that the variance in the next norm is small against
    its epsilon; the last norm and the head give much.
    """
    rng = np.random.default_rng(seed)

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        last = name.endswith(("norm.weight", "norm.bias")) and name.count(".") <= 2 and "stem" not in name
        if len(shape) > 1 and "head" not in name and "classifier" not in name:
            deviation = np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), (shape[0], *[1] * (len(shape) - 1))))
            return deviation * rng.normal(size=shape) + 0.5 * deviation
        if len(shape) > 1:
            return rng.normal(size=shape)
        if last:
            return rng.normal(0.0, 2.0 if name.endswith("weight") else 0.2, shape)
        return rng.normal(0.01, 0.01, shape)

    return {name: draw(name, shape).astype(np.float32) for name, shape in shape_of.items()}
