"""What the parity tests share: other libraries' models with random weights, our reading of their files, comparing."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from safetensors.numpy import load_file

from vit_jax.checkpoints.families import google_vit, hf_dinov2, hf_siglip, hf_vit, timm_vit
from vit_jax.checkpoints.published import Sidecar
from vit_jax.models import vit
from vit_jax.nn.posemb import interpolate_posemb

FAMILIES = (google_vit, hf_dinov2, hf_siglip, hf_vit, timm_vit)
TOLERANCE = 1e-4  # times the largest absolute output of the reference, at least 1


def randomise(model, seed=0):
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


def images(height, width, batch=3, seed=1):
    """A batch of mixed random images: noise, a flat one and a gradient."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(batch, height, width, 3)).astype(np.float32)
    x[1] = 0.7
    x[-1] = np.linspace(-2, 2, width, dtype=np.float32)[:, None] + 0.1 * x[-1]
    return x


def to_torch(x):
    """NHWC to the NCHW of PyTorch."""
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def read_folder(folder):
    """Tensors and sidecar of a folder with model.safetensors."""
    folder = Path(folder)
    read = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("config", "preprocessor_config") if (folder / f"{name}.json").exists()}  # fmt: skip
    return load_file(folder / "model.safetensors"), Sidecar(read.get("config", {}), read.get("preprocessor_config", {}))


class Ours:
    """A model of ours from tensors of theirs, as `vit_jax.load` reads it; exactly one family must claim them."""

    def __init__(self, tensors, sidecar=None, **overrides):
        self.tensors = tensors
        shapes = {name: array.shape for name, array in tensors.items()}
        answers = [(family, family.describe(shapes, sidecar or Sidecar())) for family in FAMILIES]
        [(self.family, self.published)] = [(family, answer) for family, answer in answers if answer is not None]
        self.kwargs = dict(self.published.kwargs) | overrides
        json.dumps([self.kwargs, dict(self.published.preprocess), dict(self.published.layout)])  # plain values
        self.model = vit.build(**self.kwargs)
        self.image_size = tuple(self.published.preprocess["image_size"])
        self.names = self.family.name_map(self.kwargs, self.published.layout)
        self.names.check(tensors, "FILE")
        shapes = flat(jax.eval_shape(self.model.init, jax.random.key(0), jnp.zeros((1, *self.image_size, 3)))["params"])
        self.params = dict(self.names.read(tensors.__getitem__, {n: v.shape for n, v in shapes.items()}, "FILE"))
        assert set(self.params) == set(shapes)

    def outputs(self, x):
        """Outputs for images of any size, with positions interpolated as the checkpoint says."""
        params = dict(self.params)
        patch = self.model.encoder.patch_size
        grid = (x.shape[1] // patch[0], x.shape[2] // patch[1])
        if "encoder/pos_embedding" in params:
            positions = params["encoder/pos_embedding"]
            params["encoder/pos_embedding"] = interpolate_posemb(positions, grid, self.model.encoder.posemb_resize)
        return jax.tree.map(np.asarray, jax.jit(self.model.apply)({"params": nested(params)}, x))

    def metadata(self, labels=()):
        """What our checkpoints say about such a model."""
        return {
            "model": {"name": "vit", "kwargs": self.kwargs},
            "preprocess": dict(self.published.preprocess),
            "labels": list(labels),
            "image_size": list(self.image_size),
        }

    def check_there_and_back(self):
        """Bit for bit, all but what is ignored."""
        written = self.names.write(self.params)
        read_by_us = {name for entry in self.names.entries for name in entry.theirs}
        assert set(written) == read_by_us
        for name, array in written.items():
            assert array.dtype == self.tensors[name].dtype
            assert array.tobytes() == self.tensors[name].tobytes(), name


def flat(tree):
    """Nested parameters by flat names."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def nested(params):
    """The inverse of `flat`."""
    tree = {}
    for name, array in params.items():
        *path, leaf = name.split("/")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[leaf] = array
    return tree


def error(ours, theirs):
    """The largest difference, relative to the largest absolute output of the reference and at least 1."""
    theirs = theirs.detach().numpy() if isinstance(theirs, torch.Tensor) else np.asarray(theirs)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float(np.abs(ours - theirs).max() / max(1.0, np.abs(theirs).max()))
