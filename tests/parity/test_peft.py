"""LoRA adapters of PEFT on models of transformers and timm: read as PEFT itself computes them."""

import copy
import json

import numpy as np
import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file

import vit_jax
from tests.parity.oracle import assert_close, images, randomise_vit, to_torch
from tests.parity.test_hf_vit import LABELS, vit_config
from vit_jax.commands.main import main

peft = pytest.importorskip("peft", reason="peft is not installed")

# By name: the arguments of LoraConfig.
CASES = {
    "queries and values": dict(target_modules=["q_proj", "v_proj"]),
    "a head of its own": dict(target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"]),
    "all layers, rank-stabilised, with biases": dict(target_modules="all-linear", use_rslora=True, bias="lora_only"),
    "the convolution, and ranks of several kinds": dict(
        target_modules=["projection", "o_proj", "fc2"],
        rank_pattern={"layers.0.mlp.fc2": 2},
        alpha_pattern={"o_proj": 3, "layers.1.mlp.fc2": 1},
    ),
}


def adapted(base, folder, **config):
    """A model with a random adapter, which is written to `folder`."""
    model = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(r=4, lora_alpha=12, **config))
    generator = torch.Generator().manual_seed(1)
    for parameter in (p for p in model.parameters() if p.requires_grad):
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    return model.eval()


def logits_of(model, x):
    with torch.no_grad():
        outputs = model(to_torch(x))
    return (outputs if isinstance(outputs, torch.Tensor) else outputs.logits).numpy()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A classifier of transformers, and its folder."""
    folder = tmp_path_factory.mktemp("base")
    randomise_vit(transformers.ViTForImageClassification(vit_config(**LABELS))).save_pretrained(folder)
    return transformers.ViTForImageClassification.from_pretrained(folder).eval(), folder


@pytest.mark.parametrize("name", CASES)
def test_logits_of_an_adapter(name, base, tmp_path):
    theirs, x = adapted(base[0], tmp_path / "adapter", **CASES[name]), images(32, 32)
    ours = vit_jax.load(tmp_path / "adapter")  # which names its base
    assert_close(np.asarray(ours.logits(x)), logits_of(theirs, x), name)
    assert not np.allclose(ours.logits(x), logits_of(base[0], x), atol=0.1)
    assert ours.labels == ("cat", "dog", "bird")


def test_names_of_older_files(base, tmp_path):
    """Before transformers 5 modules were called in memory what they are called in files."""
    theirs, x = adapted(base[0], tmp_path, target_modules=["q_proj", "o_proj", "fc1", "fc2"]), images(32, 32)
    renamed = {"layers.": "encoder.layer.", "q_proj": "attention.query", "attention.o_proj": "attention.output.dense",
               "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}  # fmt: skip
    tensors = {}
    for key, tensor in load_file(tmp_path / "adapter_model.safetensors").items():
        for new, old in renamed.items():
            key = key.replace(new, old)
        tensors[key] = tensor
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    assert_close(np.asarray(vit_jax.load(tmp_path).logits(x)), logits_of(theirs, x))


def test_a_swin(tmp_path):
    """Its modules have other names of old than a ViT's."""
    sizes = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "patch_size": 4}
    config = transformers.SwinConfig(image_size=32, **sizes, **LABELS)
    randomise_vit(transformers.SwinForImageClassification(config)).save_pretrained(tmp_path / "base")
    base = transformers.SwinForImageClassification.from_pretrained(tmp_path / "base").eval()
    targets = ["q_proj", "v_proj", "o_proj", "fc1", "fc2", "reduction"]
    theirs, x = adapted(base, tmp_path / "adapter", target_modules=targets), images(32, 32)
    assert_close(np.asarray(vit_jax.load(tmp_path / "adapter").logits(x)), logits_of(theirs, x))


def test_a_head_on_a_base_without_one(tmp_path):
    """The usual fine-tune: a pretrained trunk, whose pooler a classifier has no use for, and a head that is trained."""
    randomise_vit(transformers.ViTModel(vit_config())).save_pretrained(tmp_path / "base")
    base = transformers.ViTForImageClassification.from_pretrained(tmp_path / "base", num_labels=5)
    theirs = adapted(base, tmp_path / "adapter", **CASES["a head of its own"])
    pixels = transformers.ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3])
    pixels.save_pretrained(tmp_path / "adapter")
    (tmp_path / "base").rename(tmp_path / "moved")
    x = images(32, 32)
    ours = vit_jax.load(tmp_path / "adapter", base=str(tmp_path / "moved"))
    assert_close(np.asarray(ours.logits(x)), logits_of(theirs, x))
    np.testing.assert_allclose(ours.preprocess.mean, [25.5, 51.0, 76.5])
    # And what is written of it is the plain model, which transformers reads.
    arguments = [str(tmp_path / "adapter"), str(tmp_path / "whole"), "--base", str(tmp_path / "moved")]
    assert main(["convert", *arguments, "--to", "transformers"]) == 0
    whole = transformers.ViTForImageClassification.from_pretrained(tmp_path / "whole").eval()
    assert_close(logits_of(whole, x), logits_of(theirs, x))


def test_a_model_of_timm(tmp_path):
    """Queries, keys and values are one matrix there, with one adapter."""
    name = "vit_tiny_patch16_224"
    base = timm.create_model(name, img_size=32, num_classes=3).eval()
    (tmp_path / "base").mkdir()
    save_file(base.state_dict(), tmp_path / "base" / "model.safetensors")
    pretrained = {"input_size": [3, 32, 32]}
    config = {"architecture": name, "num_classes": 3, "pretrained_cfg": pretrained}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    theirs = adapted(base, tmp_path / "adapter", target_modules=["qkv", "proj"])
    ours, x = vit_jax.load(tmp_path / "adapter", base=str(tmp_path / "base")), images(32, 32)
    assert_close(np.asarray(ours.logits(x)), logits_of(theirs, x))
