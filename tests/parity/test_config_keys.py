"""The tables of keys against the libraries' own classes: a key that a newer version adds is noticed here."""

import dataclasses
import inspect
import json

import pytest
import timm
import transformers
from timm.models._pretrained import PretrainedCfg
from timm.models.mlp_mixer import MlpMixer
from timm.models.resnetv2 import ResNetV2
from timm.models.vision_transformer import VisionTransformer

from tests.parity.oracle import images, randomise_vit, read, to_torch
from vit_jax.checkpoints import config_keys
from vit_jax.checkpoints.families import hf_bit, hf_siglip
from vit_jax.checkpoints.json_file import JsonObject
from vit_jax.checkpoints.published import Sidecar
from vit_jax.errors import UserError

CONFIGS = {
    "ViTConfig": config_keys.HF_VIT,
    "DeiTConfig": config_keys.HF_VIT,
    "ViTMAEConfig": config_keys.HF_VIT,
    "Dinov2Config": config_keys.HF_DINOV2,
    "Dinov2WithRegistersConfig": config_keys.HF_DINOV2,
    "SiglipVisionConfig": config_keys.HF_SIGLIP,
    "SiglipConfig": config_keys.HF_SIGLIP_WHOLE,
    "BitConfig": config_keys.HF_BIT,
    "SamConfig": config_keys.HF_SAM,
    "SamVisionConfig": config_keys.HF_SAM_VISION,
    "SamPromptEncoderConfig": config_keys.HF_SAM_PROMPTS,
    "SamMaskDecoderConfig": config_keys.HF_SAM_DECODER,
    "VitDetConfig": config_keys.HF_VITDET,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_transformers(name):
    # As a file has it: lists, not tuples.
    config, keys = json.loads(getattr(transformers, name)().to_json_string(use_diff=False)), CONFIGS[name]
    keys.check(JsonObject(config))
    # What is fixed is there under this name, or in files of older versions.
    assert set(keys.fixed) <= set(config) | {"pruned_heads"}


# Values that a config.json cannot hold, but in the form of a name: classes of modules, which timm lets nobody name but
# for activations and norms.
CLASSES = {"embed_layer", "embed_norm_layer", "norm_layer", "block_fn", "mlp_layer", "attn_layer", "block_layer"}
CLASSES |= {"conv_layer"}


@pytest.mark.parametrize(
    ("module", "keys"),
    [
        (VisionTransformer, config_keys.TIMM_VIT),
        (MlpMixer, config_keys.TIMM_MIXER),
        (ResNetV2, config_keys.TIMM_RESNETV2),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_timm_arguments(module, keys):
    defaults = {p.name: p.default for p in inspect.signature(module).parameters.values()}
    known = keys.read | keys.harmless | set(keys.fixed)
    assert set(defaults) - known == CLASSES & set(defaults)
    for name in CLASSES:
        with pytest.raises(UserError, match=name):
            keys.check(JsonObject({name: "layernorm"}))
    # BiT's own are not those of the class.
    own = {"stem_type", "act_layer"}
    assert all(defaults[key] == value for key, value in keys.fixed.items() if key not in own)


def test_timm_pretrained_cfg():
    keys = config_keys.TIMM_PRETRAINED
    assert {field.name for field in dataclasses.fields(PretrainedCfg)} <= keys.read | keys.harmless
    for name in ("vit_base_patch16_224.augreg_in21k", "resnetv2_50x1_bit.goog_in21k", "mixer_b16_224.goog_in21k"):
        config = timm.get_pretrained_cfg(name)
        if config is not None:
            keys.check(JsonObject(config.to_dict()))


def tiny_bit(**config):
    config = transformers.BitConfig(embedding_size=32, hidden_sizes=[128, 256], depths=[1, 1], num_groups=8, **config)
    model = transformers.BitModel(config)
    return {name: x.numpy() for name, x in model.state_dict().items()}, config.to_dict()


def test_a_bit_of_another_stride_is_refused():
    tensors, config = tiny_bit(output_stride=16)
    with pytest.raises(UserError, match="output_stride"):
        read(hf_bit, tensors, Sidecar(config))


def test_a_siglip_config_that_leaves_out_what_is_the_class_s_default():
    """12 heads for a width of 48, where heads of 64 would be one."""
    config = transformers.SiglipVisionConfig(
        hidden_size=48, intermediate_size=96, num_hidden_layers=1, image_size=32, patch_size=16
    )
    model = randomise_vit(transformers.SiglipVisionModel(config))
    defaults = transformers.SiglipVisionConfig().to_dict()
    said = {key: value for key, value in config.to_dict().items() if key == "model_type" or value != defaults[key]}
    assert "num_attention_heads" not in said and "hidden_act" not in said
    tensors = {name: x.numpy() for name, x in model.state_dict().items()}
    for beside in (said, {"model_type": "siglip", "vision_config": said}):
        ours = read(hf_siglip, tensors, Sidecar(beside))
        assert ours.model.encoder.style.num_heads == 12
    x = images(32, 32)
    expected = model(to_torch(x)).last_hidden_state.detach().numpy()
    assert abs(ours.outputs(x)["tokens"] - expected).max() < 1e-4 * max(1.0, abs(expected).max())
