"""U-Nets of diffusion in pixels against diffusers, every parameter drawn anew."""

import jax
import numpy as np
import pytest
import torch

import tests.torchvision_ops  # noqa: F401  before diffusers
from tests.parity.oracle import assert_close, images, nested_params, read, to_torch
from tests.parity.test_autoencoders import channels_last, config_of, read_again, redrawn, tensors_of
from vit_jax import UserError
from vit_jax.checkpoints.families import diffusers_unet
from vit_jax.checkpoints.name_map import NameMap
from vit_jax.checkpoints.published import Sidecar
from vit_jax.models.unet import build
from vit_jax.nn.init_shapes import init_shapes

diffusers = pytest.importorskip("diffusers")

DDPM = {
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "downsample_padding": 0,
    "norm_eps": 1e-6,
    "attention_head_dim": None,
}
# An epsilon that is seen beside these variances.
ADM = {
    "resnet_time_scale_shift": "scale_shift", "downsample_type": "resnet", "upsample_type": "resnet",
    "num_class_embeds": 5, "attention_head_dim": 3, "out_channels": 6, "norm_num_groups": 3,
    "block_out_channels": (6, 12, 12), "norm_eps": 1e-2,
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
}  # fmt: skip
# Three levels: one that does not widen, attention in the middle and at the end.
SIZES = {
    "block_out_channels": (8, 8, 16), "layers_per_block": 1, "norm_num_groups": 4, "sample_size": 16,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip
X = [images(*size, batch=2) for size in ((12, 8), (8, 8))]
TIMES, LABELS = np.array([3, 977]), np.array([4, 0])


def both(theirs, ours, x):
    labels = LABELS if ours.kwargs["num_classes"] else None
    with torch.no_grad():
        known = {} if labels is None else {"class_labels": torch.from_numpy(labels)}
        wanted = theirs(to_torch(x), torch.from_numpy(TIMES), **known).sample
    found = jax.jit(ours.model.apply)({"params": nested_params(ours)}, x, TIMES, labels)
    return np.asarray(found), channels_last(wanted)


@pytest.mark.parametrize("options", [DDPM, ADM, {}], ids=["ddpm", "adm", "plain"])
def test_unet(options, tmp_path):
    torch.manual_seed(0)
    theirs = redrawn(diffusers.UNet2DModel(**SIZES | options))
    ours = read(diffusers_unet, tensors_of(theirs), Sidecar(config=config_of(theirs)))
    for x in X[: 1 if options else 2]:
        found, wanted = both(theirs, ours, x)
        assert np.abs(wanted).max() > 0.5
        assert_close(found, wanted, "UNet2DModel")
    again = read_again(ours, tmp_path, diffusers.UNet2DModel)
    with torch.no_grad():
        known = {"class_labels": torch.from_numpy(LABELS)} if "num_class_embeds" in options else {}
        found, wanted = (model(to_torch(X[0]), torch.from_numpy(TIMES), **known).sample for model in (again, theirs))
    np.testing.assert_array_equal(found.numpy(), wanted.numpy())


def test_other_groups_of_the_attention_are_refused():
    """No tensor says them."""
    theirs = diffusers.UNet2DModel(**SIZES, attn_norm_num_groups=2)
    with pytest.raises(UserError, match="'attn_norm_num_groups' is 2"):
        read(diffusers_unet, tensors_of(theirs), Sidecar(config=config_of(theirs)))


def test_names_of_the_published_ones():
    """On shapes alone: each of our parameters from theirs, and each of theirs read."""
    six = {"multipliers": (1, 1, 2, 2, 4, 4), "attention_levels": (4,)}
    for kwargs, widths in (({}, (128, 256, 256, 256)), (six, (128, 128, 256, 256, 512, 512))):
        own = build(**kwargs)
        types = ["AttnDownBlock2D" if i in own.attention_levels else "DownBlock2D" for i in range(len(own.multipliers))]
        up = [name.replace("Down", "Up") for name in types[::-1]]
        with torch.device("meta"):
            theirs = diffusers.UNet2DModel(**DDPM, block_out_channels=widths, down_block_types=types, up_block_types=up)
        shapes = {name: tuple(x.shape) for name, x in theirs.state_dict().items()}
        said = diffusers_unet.describe(shapes, Sidecar(config=config_of(theirs)))
        assert build(**said.kwargs) == own
        names: NameMap = diffusers_unet.name_map(said.kwargs, said.layout)
        names.check(shapes, "FILE")
        assert {name for one in names.entries for name in one.theirs} == shapes.keys()
        params = init_shapes(own.init, jax.random.key(0), *own.example_inputs((32, 32)))["params"]
        paths = {"/".join(k.key for k in path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]}
        assert {name for one in names.entries for name in one.ours} == paths
