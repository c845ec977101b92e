"""ViT, DeiT, the encoder of MAE, DINOv2 and SigLIP of transformers: read from what it saves, and written so that it loads them."""

import numpy as np
import pytest
import torch
import transformers

from tests.parity.oracle import TOLERANCE, error, images, randomise_vit, read, read_folder, to_torch, write
from vit_jax.checkpoints.families import hf_dinov2, hf_siglip, hf_vit

SIZE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
MLP = {"intermediate_size": 96}
LABELS = {"id2label": {0: "cat", 1: "dog", 2: "bird"}, "label2id": {"cat": 0, "dog": 1, "bird": 2}}
TEXT = {**SIZE, **MLP, "num_hidden_layers": 1, "vocab_size": 50}


def vision(**more):
    return {**{k: v for k, v in SIZE.items()}, **MLP, **more}


def vit_config(**more):
    return transformers.ViTConfig(**SIZE, **MLP, **more)


def dinov2_config(registers=False, **more):
    kind = transformers.Dinov2WithRegistersConfig if registers else transformers.Dinov2Config
    return kind(**SIZE, mlp_ratio=2, **more)


def siglip_config(**more):
    return transformers.SiglipConfig(vision_config=vision(), text_config={k: v for k, v in TEXT.items() if k not in ("image_size", "patch_size")}, **more)  # fmt: skip


# By name: the class, its config, and the family that must read it.
CASES = {
    "ViT": lambda: (transformers.ViTForImageClassification(vit_config(**LABELS)), hf_vit),
    "ViT, tanh": lambda: (
        transformers.ViTForImageClassification(vit_config(hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6)),
        hf_vit,
    ),
    "ViT, no qkv bias": lambda: (transformers.ViTForImageClassification(vit_config(qkv_bias=False)), hf_vit),
    "ViT, pooler": lambda: (transformers.ViTModel(vit_config(pooler_output_size=48)), hf_vit),
    "DeiT, two heads": lambda: (
        transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(**SIZE, **MLP, **LABELS)),
        hf_vit,
    ),
    "DeiT, one head": lambda: (
        transformers.DeiTForImageClassification(transformers.DeiTConfig(**SIZE, **MLP, **LABELS)),
        hf_vit,
    ),
    "MAE": lambda: (transformers.ViTMAEModel(transformers.ViTMAEConfig(**SIZE, **MLP, mask_ratio=0.0)), hf_vit),
    "SimMIM": lambda: (transformers.ViTForMaskedImageModeling(vit_config(encoder_stride=8)), hf_vit),
    "DINOv2": lambda: (transformers.Dinov2ForImageClassification(dinov2_config(**LABELS)), hf_dinov2),
    "DINOv2, trunk": lambda: (transformers.Dinov2Model(dinov2_config()), hf_dinov2),
    "DINOv2-g": lambda: (transformers.Dinov2ForImageClassification(dinov2_config(use_swiglu_ffn=True)), hf_dinov2),
    "DINOv2 with registers": lambda: (
        transformers.Dinov2WithRegistersForImageClassification(dinov2_config(registers=True, **LABELS)),
        hf_dinov2,
    ),
    "DINOv2-g with registers": lambda: (
        transformers.Dinov2WithRegistersModel(dinov2_config(registers=True, use_swiglu_ffn=True)),
        hf_dinov2,
    ),
    "SigLIP vision": lambda: (transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**vision())), hf_siglip),
    "SigLIP, classifier": lambda: (transformers.SiglipForImageClassification(siglip_config(**LABELS)), hf_siglip),
}


def run(model, x):
    """Tokens, pooled features and logits of a model of transformers; None for what it has not."""
    pixels, more = to_torch(x), {}
    trunk = model
    for name in ("vit", "deit", "dinov2", "dinov2_with_registers", "vision_model"):
        trunk = getattr(model, name, trunk)
    kind = type(trunk).__name__
    if not kind.startswith("Dinov2"):
        more["interpolate_pos_encoding"] = True
    if kind.startswith("ViTMAE"):  # it shuffles the patches by noise, even where it masks none of them
        patches = (x.shape[1] // 8) * (x.shape[2] // 8)
        more["noise"] = torch.arange(patches).expand(len(x), -1) / patches
    with torch.no_grad():
        outputs = trunk(pixels, **more)
        logits = model(pixels, **more).logits if hasattr(model, "num_labels") and "Classification" in type(model).__name__ else None  # fmt: skip
    return outputs.last_hidden_state, getattr(outputs, "pooler_output", None), logits


@pytest.mark.parametrize("name", CASES)
def test_tokens_and_logits(name, tmp_path):
    theirs, family = CASES[name]()
    randomise_vit(theirs).save_pretrained(tmp_path)
    ours = read(family, *read_folder(tmp_path))
    for size in ((32, 32), (40, 24)):
        x = images(*size)
        outputs, (tokens, pooled, logits) = ours.outputs(x), run(theirs, x)
        errors = [error(outputs["tokens"], tokens)]
        if pooled is not None and not ours.kwargs["num_classes"]:
            errors.append(error(outputs["features"], pooled))
        assert (logits is not None) == bool(ours.kwargs["num_classes"])
        if logits is not None:
            errors.append(error(outputs["logits"], logits))
        print(f"\nPARITY transformers | {name} | {size} | {max(errors):.1e}")
        assert max(errors) < TOLERANCE
    if "id2label" in theirs.config.to_dict() and ours.kwargs["num_classes"]:
        known = theirs.config.id2label[0] == "cat"
        assert ours.published.labels == (("cat", "dog", "bird") if known else ())


WAYS_BACK = ["ViT", "ViT, tanh", "ViT, pooler", "DeiT, two heads", "DeiT, one head", "MAE", "DINOv2", "DINOv2-g",
             "DINOv2 with registers", "SigLIP vision", "SigLIP, classifier"]  # fmt: skip


@pytest.mark.parametrize("name", WAYS_BACK)
def test_the_way_back(name, tmp_path):
    """A fine-tune of ours as from_pretrained loads a folder, with nothing missing and nothing left over."""
    theirs, family = CASES[name]()
    randomise_vit(theirs).save_pretrained(tmp_path / "theirs")
    ours = read(family, *read_folder(tmp_path / "theirs"))
    labels = [f"thing {i}" for i in range(ours.kwargs["num_classes"])]
    folder = tmp_path / "ours"
    write(ours, folder, ours.metadata(labels))
    assert {path.name for path in folder.iterdir()} == {"config.json", "preprocessor_config.json", "model.safetensors"}
    _, beside = read_folder(folder)
    kind = getattr(transformers, beside.config["architectures"][0])
    model, report = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    x = images(32, 32)
    outputs, (tokens, pooled, logits) = ours.outputs(x), run(model.eval(), x)
    assert error(outputs["tokens"], tokens) < TOLERANCE
    if labels:
        assert error(outputs["logits"], logits) < TOLERANCE
        assert list(model.config.id2label.values()) == labels
    elif pooled is not None:
        assert error(outputs["features"], pooled) < TOLERANCE
    again = read(family, *read_folder(folder))
    assert again.published.preprocess == ours.published.preprocess
    assert again.kwargs == ours.kwargs and list(again.published.labels) == labels
    np.testing.assert_array_equal(again.outputs(x)["tokens"], outputs["tokens"])


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("ViT", {"gelu": "tanh"}),
        ("ViT", {"layer_norm_epsilon": 1e-6}),
        ("ViT", {"posemb_resize": "bicubic_antialias"}),
        ("DINOv2 with registers", {"posemb_resize": "bicubic"}),
        ("SigLIP, classifier", {"gelu": "exact"}),
        ("SigLIP vision", {"layer_norm_epsilon": 1e-5}),
    ],
)
def test_a_wrong_flag_shows(name, wrong, tmp_path):
    theirs, family = CASES[name]()
    randomise_vit(theirs).save_pretrained(tmp_path)
    ours = read(family, *read_folder(tmp_path), **wrong)
    x = images(40, 24)
    outputs, (tokens, _, logits) = ours.outputs(x), run(theirs, x)
    errors = [error(outputs["tokens"], tokens)] + ([] if logits is None else [error(outputs["logits"], logits)])
    assert max(errors) > 2 * TOLERANCE
