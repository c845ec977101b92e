"""What the parity tests of all families do: read a file's tensors, run both models, compare, and write back."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from vit_jax import naming
from vit_jax.checkpoints.name_map import NameMap
from vit_jax.checkpoints.published import Published, Sidecar, described
from vit_jax.checkpoints.source import families_of, flat_shapes, nested
from vit_jax.nn.example_inputs import example_inputs
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.posemb import interpolate_posemb

TOLERANCE = 1e-4  # times the largest absolute output of the reference, at least 1


@dataclasses.dataclass
class Ours:
    """A model of ours from somebody's tensors, see `read`."""

    family: ModuleType
    published: Published
    kwargs: dict[str, Any]
    model: Any
    names: NameMap
    params: dict[str, np.ndarray]

    @property
    def image_size(self) -> tuple[int, int]:
        return tuple(self.published.preprocess["image_size"])

    def outputs(self, x: np.ndarray, **overrides: Any) -> dict[str, np.ndarray]:
        """Our outputs for images of any size, with positions interpolated as the checkpoint says.

        With `overrides` they are those of a model that computes otherwise on the same parameters.
        """
        model = build(self.published.model, self.kwargs | overrides) if overrides else self.model
        params, positions = dict(self.params), "encoder/pos_embedding"
        if positions in params and x.shape[1:3] != self.image_size:
            grid = shapes_of(model, x.shape[1:3])[positions][:2]
            method = (self.kwargs | overrides).get("posemb_resize", "align_corners")
            params[positions] = interpolate_posemb(params[positions], grid, method)
        state = nested({name: params.pop(name) for name in list(params) if name.startswith("batch_stats/")})
        return jax.tree.map(np.asarray, jax.jit(model.apply)({"params": nested(params), **state}, x))

    def metadata(self, labels: Any = None) -> dict[str, Any]:
        """What our checkpoints say about such a model."""
        return metadata(self.published.model, self.kwargs, labels=labels, **self.published.preprocess)


def read(
    family: ModuleType, tensors: Mapping[str, np.ndarray], sidecar: Sidecar | None = None, **overrides: Any
) -> Ours:
    """As `vit_jax.load` does.

    Exactly this family must claim the tensors; every tensor of the file is in one entry at most, every parameter comes
    from exactly one; and the way back gives what was read, bit for bit.
    """
    shapes = {name: x.shape for name, x in tensors.items()}
    answers = [(one, described(one, shapes, tensors.__getitem__, sidecar or Sidecar())) for one in families_of()]
    [(claims, published)] = [(one, answer) for one, answer in answers if answer is not None]
    assert claims is family
    json.dumps([published.kwargs, published.layout, published.preprocess])  # plain values
    kwargs = dict(published.kwargs) | overrides
    names = family.name_map(kwargs, published.layout)
    names.check(tensors, "FILE")
    model = build(published.model, kwargs)
    wanted = shapes_of(model, published.preprocess and published.preprocess["image_size"])
    pairs = list(names.read(tensors.__getitem__, wanted, "FILE"))
    params = dict(pairs)
    assert len(pairs) == len(params) and params.keys() == wanted.keys()
    theirs = [name for entry in names.entries for name in entry.theirs]
    written = names.write(params)
    assert len(theirs) == len(set(theirs)) and written.keys() == set(theirs)
    for name, x in written.items():
        assert (x.dtype, x.shape) == (tensors[name].dtype, tensors[name].shape), name
        assert x.tobytes() == tensors[name].tobytes(), name
    return Ours(family, published, kwargs, model, names, params)


def build(name: str, kwargs: Mapping[str, Any]) -> Any:
    json.dumps(kwargs)  # plain values
    return naming.build_named("model", {"name": name, **kwargs}, "config.model")


def shapes_of(model: Any, image_size: Any) -> dict[str, tuple[int, ...]]:
    variables = init_shapes(model.init, jax.random.key(0), *example_inputs(model, image_size))
    return flat_shapes(variables.pop("params")) | flat_shapes(variables)


def nested_params(ours: Ours) -> dict[str, Any]:
    """The parameters as `model.apply` takes them."""
    return nested(ours.params)


def metadata(
    name: str, kwargs: Mapping[str, Any], image_size: Any, labels: Any = None, **preprocess: Any
) -> dict[str, Any]:
    """What a checkpoint of ours says."""
    default = {"resize": "squash", "mean": [127.5] * 3, "std": [100.0] * 3}
    return {
        "model": {"name": name, "kwargs": dict(kwargs)},
        "preprocess": {"image_size": list(image_size), **default, **preprocess},
        "labels": [f"class {i}" for i in range(kwargs["num_classes"])] if labels is None else list(labels),
        "image_size": list(image_size),
    }


def write(ours: Ours, folder: Path, metadata: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Writes a folder as `vit_jax convert` does, and returns the tensors."""
    tensors = ours.family.name_map(ours.kwargs, {"image_size": list(ours.image_size)}).write(ours.params)
    tensors = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    files = ours.family.sidecar(metadata)
    assert files is not None
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return tensors


def read_folder(folder: Path) -> tuple[dict[str, np.ndarray], Sidecar]:
    """Tensors and JSON files of a folder with model.safetensors."""
    return load_file(folder / "model.safetensors"), files_beside(folder)


def files_beside(folder: Path) -> Sidecar:
    def load(name: str) -> dict[str, Any]:
        return json.loads((folder / name).read_text()) if (folder / name).exists() else {}

    return Sidecar.of(load)


def through_npz(tensors: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """Writes an npz file, and returns what is in it."""
    np.savez(path, **tensors)
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def to_torch(x: np.ndarray) -> torch.Tensor:
    """NHWC to the NCHW of PyTorch."""
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def timm_outputs(model: torch.nn.Module, x: np.ndarray) -> dict[str, np.ndarray]:
    """Tokens and logits of a model of timm."""
    with torch.no_grad():
        tokens = model.forward_features(to_torch(x))
        return {"tokens": tokens.numpy(), "logits": model.forward_head(tokens).numpy()}


def error(ours: np.ndarray, theirs: Any) -> float:
    """The largest difference, relative to the largest absolute output of the reference and at least 1."""
    theirs = theirs.detach().numpy() if isinstance(theirs, torch.Tensor) else np.asarray(theirs)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float(np.abs(ours - theirs).max() / max(1.0, np.abs(theirs).max()))


def assert_close(ours: np.ndarray, theirs: np.ndarray, what: str = "") -> None:
    largest = error(ours, theirs)
    print(f"\nPARITY {what} | {largest:.1e}, reference up to {np.abs(theirs).max():.1f}")
    assert largest < TOLERANCE, what


def assert_same(outputs: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], what: str) -> None:
    for name, x in theirs.items():
        assert_close(outputs[name], x, f"{what} {name}")


def images(height: int, width: int, batch: int = 3, seed: int = 1) -> np.ndarray:
    """A batch of mixed random images: noise, a flat one and a gradient."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(batch, height, width, 3)).astype(np.float32)
    x[1] = 0.7
    x[-1] = np.linspace(-2, 2, width, dtype=np.float32)[:, None] + 0.1 * x[-1]
    return x


def dim_and_bright(*size: int, batch: int = 3, seed: int = 0) -> np.ndarray:
    """Dim and bright noise: normalisation of convolutions feels every epsilon in the dim ones."""
    rng = np.random.default_rng(seed)
    brightness = np.geomspace(0.005, 1.0, batch).reshape(-1, 1, 1, 1)
    return (brightness * rng.normal(size=(batch, *size, 3))).astype(np.float32)


def randomise_vit(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Draws every parameter and buffer anew, so that nothing hides behind an initial zero or one.

    The residual stream is small (a wrong epsilon shows), the MLPs' hidden units sit where the two GELUs differ most,
    and each bias is as large as what it is added to.
    """
    rng = np.random.default_rng(seed)

    def draw(name, shape):
        fan_in = max(int(np.prod(shape[1:])), 1)
        normal = rng.normal(size=shape)
        if re.search(r"norm|ln_|layer_scale|ls[12]\.gamma", name):
            return 0.3 * normal + (0.0 if name.endswith("bias") else 1.0)
        if re.search(r"fc1|intermediate|weights_in|w12|gate_proj|up_proj", name):
            return 0.5 * normal - 2.0 if name.endswith("bias") else normal / fan_in**0.5
        if re.search(r"fc2|down_proj|weights_out", name):
            return (0.02 if name.endswith("bias") else 0.4 / fan_in**0.5) * normal
        if re.search(r"o_proj|out_proj|attn\.proj", name):
            return (0.02 if name.endswith("bias") else 0.1 / fan_in**0.5) * normal
        if re.search(r"pos|token|patch", name):
            return (0.02 / fan_in**0.5 if name.endswith("weight") and len(shape) == 4 else 0.02) * normal
        return normal if len(shape) == 1 else 1.5 * normal / fan_in**0.5

    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.from_numpy(np.asarray(draw(name, tuple(tensor.shape)), np.float32)))
    return model.eval()


def randomise_resnet(shape_of: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
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
