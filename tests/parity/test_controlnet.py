"""ControlNets against diffusers, every parameter drawn anew, those that are zero at first too."""

import jax
import numpy as np
import pytest
import torch

import tests.torchvision_ops  # noqa: F401  before diffusers
from tests.parity.oracle import assert_close, nested_params, read, to_torch
from tests.parity.test_autoencoders import channels_last, config_of, redrawn, tensors_of
from tests.parity.test_conditional_unet import SIZES, TIMES, bijection, drawn, written
from vit_jax.checkpoints.families import diffusers_controlnet
from vit_jax.checkpoints.published import Sidecar
from vit_jax.models.controlnet import build

diffusers = pytest.importorskip("diffusers")

OWN = {name: value for name, value in SIZES.items() if name not in ("sample_size", "up_block_types")}
OWN |= {"conditioning_embedding_out_channels": (4, 5, 6, 7)}
V1 = {"attention_head_dim": 3}
V2 = {"attention_head_dim": (2, 3, 4), "use_linear_projection": True, "in_channels": 9, "conditioning_channels": 2}


def added(model, x, context, control, scale):
    with torch.no_grad():
        found = model(
            to_torch(x), torch.from_numpy(TIMES), torch.from_numpy(context), to_torch(control), conditioning_scale=scale
        )
    return [*found.down_block_res_samples, found.mid_block_res_sample]


@pytest.mark.parametrize(("options", "sizes"), [(V1, [(8, 4), (4, 12)]), (V2, [(4, 8)])], ids=["v1", "v2"])
def test_controlnet(options, sizes, tmp_path):
    theirs = redrawn(diffusers.ControlNetModel(**OWN | options))
    ours = read(diffusers_controlnet, tensors_of(theirs), Sidecar(config=config_of(theirs)))
    context, apply = 2 * drawn(2, 7, 10), jax.jit(ours.model.apply)
    for height, width in sizes:
        x = drawn(2, height, width, ours.kwargs["inputs"])
        control = RNG.uniform(size=(2, 8 * height, 8 * width, ours.kwargs["control_channels"])).astype(np.float32)
        wanted = added(theirs, x, context, control, 0.7)
        found = apply({"params": nested_params(ours)}, x, TIMES, context, control, scale=0.7)
        assert len(found.skips) == len(wanted) - 1 == 6
        for mine, other in zip((*found.skips, found.middle), wanted, strict=True):
            assert other.abs().max() > 0.1
            assert_close(np.asarray(mine), channels_last(other), "ControlNetModel")
    again = written(ours, tmp_path, diffusers.ControlNetModel)
    for one, other in zip(added(again, x, context, control, 0.7), wanted, strict=True):
        np.testing.assert_array_equal(one, other)


RNG = np.random.default_rng(1)


def test_names_of_the_published_one():
    with torch.device("meta"):
        theirs = diffusers.ControlNetModel(cross_attention_dim=768)
    assert build(**bijection(diffusers_controlnet, build(), theirs)) == build()
