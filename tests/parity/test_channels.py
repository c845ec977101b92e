"""Images of other channels than three: the first kernel as timm fits it, in every family."""

import json

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import adapt_input_conv

import vit_jax
from tests.parity.oracle import TOLERANCE, error, randomise_vit, to_torch
from vit_jax import UserError
from vit_jax.checkpoints.transfer import init_from

TINY_VIT = {"img_size": 32, "embed_dim": 64, "depth": 1, "num_heads": 2}
MODELS = {
    "vit_base_patch16_224": TINY_VIT,
    "vit_small_r26_s32_224": TINY_VIT,
    "resnetv2_50x1_bit": {"stem_chs": 32, "channels": [128, 256, 512, 1024]},
}


# A Mixer's first kernel has the name of the ViT's.
@pytest.mark.parametrize(("name", "wanted"), list(zip(MODELS, [(1, 2, 7), (4,), (1,)], strict=True)))
def test_logits_are_timm_s(name, wanted, tmp_path):
    arguments = MODELS[name] | {"num_classes": 3}
    three = randomise_vit(timm.create_model(name, **arguments))
    state = three.state_dict()
    save_file(state, tmp_path / "model.safetensors")
    config = {"architecture": name, "model_args": MODELS[name], "pretrained_cfg": {"input_size": [3, 32, 32]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    first = next(key for key, x in state.items() if x.ndim == 4 and x.shape[1] == 3)
    for channels in wanted:
        theirs = timm.create_model(name, in_chans=channels, **arguments).eval()
        theirs.load_state_dict(state | {first: adapt_input_conv(channels, state[first])})
        ours = vit_jax.load(tmp_path, in_channels=channels)
        x = np.random.default_rng(channels).normal(size=(2, 32, 32, channels)).astype(np.float32)
        with torch.no_grad():
            assert error(np.asarray(ours.logits(x)), theirs(to_torch(x))) < TOLERANCE
        with pytest.raises(UserError, match=f"{channels} channels, not 3"):
            ours.logits(np.zeros((1, 32, 32, 3), np.float32))


def test_a_run_starts_from_timm_s_kernel(tmp_path):
    """init_from, which says so."""
    theirs = randomise_vit(timm.create_model("vit_base_patch16_224", **TINY_VIT, num_classes=3))
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    config = {
        "architecture": "vit_base_patch16_224",
        "model_args": TINY_VIT,
        "pretrained_cfg": {"input_size": [3, 32, 32]},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours = vit_jax.load(tmp_path)
    kernel = theirs.state_dict()["patch_embed.proj.weight"]
    for channels in (1, 4, 12):
        shape = (16, 16, channels, 64)
        params = {"encoder": {**ours.params["encoder"], "embedding": {"kernel": np.zeros(shape, np.float32)}}}
        found, (report,) = init_from({"params": params}, str(tmp_path))
        expected = adapt_input_conv(channels, kernel).numpy().transpose(2, 3, 1, 0)
        assert error(found["params/encoder/embedding/kernel"], expected) < 1e-6
        assert report.resized == (f"encoder/embedding/kernel (16, 16, 3) -> (16, 16, {channels})",)
