"""U-Nets and ControlNets in the names of CompVis, against what diffusers makes of such files."""

import numpy as np
import pytest
import torch

import tests.torchvision_ops  # noqa: F401  before diffusers
from tests.parity.oracle import read
from tests.parity.test_autoencoders import config_of, tensors_of
from tests.parity.test_conditional_unet import SIZES, V1, V2
from tests.parity.test_controlnet import OWN
from vit_jax import UserError
from vit_jax.checkpoints.families import (
    compvis_controlnet,
    compvis_unet,
    diffusers_controlnet,
    diffusers_unet_condition,
)
from vit_jax.checkpoints.published import Sidecar

diffusers = pytest.importorskip("diffusers")
single_file = pytest.importorskip("diffusers.loaders.single_file_utils")

KINDS = {
    "unet": (
        diffusers.UNet2DConditionModel, SIZES, diffusers_unet_condition, compvis_unet,
        single_file.convert_ldm_unet_checkpoint, "model.diffusion_model.",
    ),
    "controlnet": (
        diffusers.ControlNetModel, OWN, diffusers_controlnet, compvis_controlnet,
        single_file.convert_controlnet_checkpoint, "control_model.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("options", [V1, {**V2, "layers_per_block": 2}], ids=["v1", "v2"])
@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_reads_our_names_as_its_own(kind, options):
    cls, sizes, known, family, convert, prefix = KINDS[kind]
    torch.manual_seed(0)
    theirs = cls(**sizes | {**options, "norm_num_groups": 2})
    tensors = {name: x + np.float32(i) for i, (name, x) in enumerate(tensors_of(theirs).items())}
    ours = read(known, tensors, Sidecar(config=config_of(theirs)))
    written = family.name_map(ours.kwargs, {}).write(ours.params)
    assert all(name.startswith(prefix) for name in written)
    config = {**config_of(theirs), "class_embed_type": None, "num_class_embeds": None}
    converted = convert({name: torch.from_numpy(np.array(x)) for name, x in written.items()}, config)
    assert converted.keys() == tensors.keys()
    for name, x in tensors.items():
        np.testing.assert_array_equal(converted[name], x, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_such_a_file_is_read(kind):
    """With what else may be in it, and with no prefix; nothing says the heads."""
    cls, sizes, known, family, _, prefix = KINDS[kind]
    wide = {"block_out_channels": (8, 8, 16), "norm_num_groups": 2, "attention_head_dim": 8}
    theirs = cls(**sizes | wide)
    ours = read(known, tensors_of(theirs), Sidecar(config=config_of(theirs)))
    written = family.name_map(ours.kwargs, {}).write(ours.params)
    more = {"betas": np.zeros(3, np.float32), "model_ema.decay": np.zeros((), np.float32)}
    for file in ({**written, **more}, {name.removeprefix(prefix): x for name, x in written.items()}):
        file = {name: np.ascontiguousarray(x) for name, x in file.items()}
        again = read(family, file, norm_groups=2)
        said = {name: x for name, x in ours.kwargs.items() if name not in ("dropout_rate", "epsilon")}
        assert again.kwargs == {**said, "norm_groups": 2}
        for name, x in ours.params.items():
            np.testing.assert_array_equal(again.params[name], x)
        assert "8 are taken" in again.published.remarks[0]


def test_what_larger_models_have_is_refused():
    inner = "middle_block.1.transformer_blocks.{}.attn2.to_k.weight"
    tensors = {inner.format(0): (8, 8), inner.format(1): (8, 8), "out.2.weight": (4, 8, 3, 3)}
    with pytest.raises(UserError, match="two Transformer blocks"):
        compvis_unet.describe(tensors, Sidecar())
