"""U-Nets that read a text against diffusers, every parameter drawn anew."""

import json

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import tests.torchvision_ops  # noqa: F401  before diffusers
from tests.parity.oracle import assert_close, metadata, nested_params, read, to_torch
from tests.parity.test_autoencoders import channels_last, config_of, redrawn, tensors_of
from vit_jax.checkpoints.families import diffusers_unet_condition
from vit_jax.checkpoints.name_map import NameMap
from vit_jax.checkpoints.parts.unet import transformer_entries
from vit_jax.checkpoints.published import Sidecar
from vit_jax.checkpoints.source import flat_shapes, nested
from vit_jax.models.conditional_unet import build
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.spatial_transformer import SpatialTransformer
from vit_jax.nn.unet_blocks import MapStyle

diffusers = pytest.importorskip("diffusers")

RNG = np.random.default_rng(0)
SIZES = {
    "block_out_channels": (12, 12, 24), "layers_per_block": 1, "norm_num_groups": 3, "sample_size": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), "cross_attention_dim": 10,
}  # fmt: skip
V1 = {"attention_head_dim": 3}
V2 = {"attention_head_dim": (2, 3, 4), "use_linear_projection": True, "in_channels": 5, "upcast_attention": True}
V2 |= {"norm_eps": 1e-2}  # which is seen, and is not that of the norms of attention
TIMES = np.array([3, 977])


def drawn(*size):
    return RNG.normal(size=size).astype(np.float32)


def predicted(model, x, context):
    with torch.no_grad():
        return model(to_torch(x), torch.from_numpy(TIMES), torch.from_numpy(context)).sample


@pytest.mark.parametrize(("options", "sizes"), [(V1, [(8, 4), (4, 12)]), (V2, [(4, 8)])], ids=["v1", "v2"])
def test_unet(options, sizes, tmp_path):
    theirs = redrawn(diffusers.UNet2DConditionModel(**SIZES | options))
    ours = read(diffusers_unet_condition, tensors_of(theirs), Sidecar(config=config_of(theirs)))
    context, apply = 2 * drawn(2, 7, 10), jax.jit(ours.model.apply)
    for size in sizes:
        x = drawn(2, *size, ours.kwargs["inputs"])
        wanted = channels_last(predicted(theirs, x, context))
        assert np.abs(wanted).max() > 0.5
        assert_close(np.asarray(apply({"params": nested_params(ours)}, x, TIMES, context)), wanted, "UNet2DCondition")
    again = written(ours, tmp_path, diffusers.UNet2DConditionModel)
    np.testing.assert_array_equal(predicted(again, x, context), predicted(theirs, x, context))


def test_the_epsilons_of_attention_are_their_own():
    """Of variances that they are seen beside, in a transformer by itself."""
    theirs = redrawn(diffusers.Transformer2DModel(3, 4, 12, norm_num_groups=3, cross_attention_dim=10))
    with torch.no_grad():
        for x in (*theirs.proj_in.parameters(), theirs.norm.bias):
            x.mul_(3e-3)
    tensors = {f"one.{name}": x for name, x in tensors_of(theirs).items()}
    entries = transformer_entries("one", "one", width=12, heads=3, context_width=10, linear_ends=False)
    module = SpatialTransformer(3, MapStyle(groups=3, epsilon=1e-2))
    x, context = 1e-3 * drawn(2, 4, 3, 12), drawn(2, 7, 10)
    shapes = flat_shapes({"one": init_shapes(module.init, jax.random.key(0), x, context)["params"]})
    params = nested(dict(NameMap(entries).read(tensors.__getitem__, shapes, "FILE")))["one"]
    with torch.no_grad():
        wanted = channels_last(theirs(to_torch(x), torch.from_numpy(context)).sample)
    assert_close(np.asarray(jax.jit(module.apply)({"params": params}, x, context)), wanted, "Transformer2DModel")


def written(ours, folder, cls):
    """A folder as we write it, opened by the other library."""
    tensors = {name: np.ascontiguousarray(x) for name, x in ours.names.write(ours.params).items()}
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    said = ours.family.sidecar(metadata(ours.published.model, ours.kwargs, (8, 8), labels=()))
    (folder / "config.json").write_text(json.dumps(said["config.json"]))
    return cls.from_pretrained(folder, low_cpu_mem_usage=False).eval()


def bijection(family, own, theirs):
    """On shapes alone: each of our parameters from theirs, each of theirs read, and as many numbers."""
    shapes = {name: tuple(x.shape) for name, x in theirs.state_dict().items()}
    said = family.describe(shapes, Sidecar(config=config_of(theirs)))
    names = family.name_map(said.kwargs, said.layout)
    names.check(shapes, "FILE")
    assert {name for one in names.entries for name in one.theirs} == shapes.keys()
    params = init_shapes(own.init, jax.random.key(0), *own.example_inputs(None))["params"]
    wanted = {"/".join(k.key for k in path): x.shape for path, x in jax.tree_util.tree_flatten_with_path(params)[0]}
    assert {name for one in names.entries for name in one.ours} == wanted.keys()
    names.check_sizes(shapes, wanted, "FILE")
    return said.kwargs


def test_names_of_the_published_ones():
    second = {"attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True, "cross_attention_dim": 1024}
    for kwargs, theirs in (
        ({}, {"cross_attention_dim": 768}),
        ({"inputs": 5, "heads": [5, 10, 20, 20], "linear": True, "context_width": 1024}, {**second, "in_channels": 5}),
    ):
        with torch.device("meta"):
            model = diffusers.UNet2DConditionModel(**theirs)
        assert build(**bijection(diffusers_unet_condition, build(**kwargs), model)) == build(**kwargs)
