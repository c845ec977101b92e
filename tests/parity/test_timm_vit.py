"""ViTs of timm: read from what timm saves, and written so that timm loads it."""

import copy

import numpy as np
import pytest
import timm
import torch
from timm.layers import resample_patch_embed
from timm.models import save_for_hf

import vit_jax
from tests.parity.oracle import TOLERANCE, error, images, randomise_vit, read, read_folder, to_torch, write
from vit_jax.checkpoints.families import timm_vit
from vit_jax.nn.resize import resample_kernel

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2, "num_classes": 5}

CASES = {
    "ViT": ("vit_base_patch16_224", {}),
    "ViT, tanh": ("vit_base_patch16_224", {"act_layer": "gelu_tanh"}),
    "DeiT": ("deit_base_patch16_224", {}),
    "DeiT, distilled": ("deit_base_distilled_patch16_224", {}),
    "DeiT III": ("deit3_base_patch16_224", {}),
    "DINOv2": ("vit_base_patch14_dinov2", {}),
    "DINOv2 with registers": ("vit_base_patch14_reg4_dinov2", {}),
    "DINOv2-g": ("vit_giant_patch14_dinov2", {"mlp_ratio": 4}),
    "DINOv2-g with registers": ("vit_giant_patch14_reg4_dinov2", {"mlp_ratio": 4, "num_classes": 0}),
    "SigLIP": ("vit_base_patch16_siglip_224", {}),
    "SigLIP 2": ("vit_base_patch32_siglip_256", {"num_classes": 0}),
    "SigLIP, mean": ("vit_base_patch16_siglip_gap_224", {}),
    "MAE fine-tuned": ("vit_base_patch16_224", {"global_pool": "avg"}),
    "class token, mean": ("vit_base_patch16_224", {"global_pool": "avg", "fc_norm": False}),
    "no qkv bias": ("vit_medium_patch16_gap_256", {}),
    "registers, no class token": ("vit_medium_patch16_reg4_gap_256", {}),
    "not square": ("vit_base_patch16_224", {"img_size": (16, 32)}),
}


def save(model, folder):
    """As timm writes it."""
    save_for_hf(model, folder, safe_serialization=True)
    return read_folder(folder)


def make(name, **more):
    architecture, arguments = CASES[name]
    return randomise_vit(timm.create_model(architecture, **{**TINY, **arguments, **more}))


@pytest.mark.parametrize("name", CASES)
def test_tokens_and_logits(name, tmp_path):
    theirs = make(name)
    ours = read(timm_vit, *save(theirs, tmp_path))
    assert not ours.names.ignored
    other = copy.deepcopy(theirs)
    other.set_input_size((40, 24))
    for model, size in ((theirs, ours.image_size), (other, (40, 24))):
        x = images(*size)
        outputs = ours.outputs(x)
        with torch.no_grad():
            tokens = model.forward_features(to_torch(x))
            errors = [error(outputs["tokens"], tokens), error(outputs["features"], model.forward_head(tokens, pre_logits=True))]  # fmt: skip
            if ours.kwargs["num_classes"]:
                errors.append(error(outputs["logits"], model(to_torch(x))))
        print(f"\nPARITY timm | {name} | {size} | {max(errors):.1e}")
        assert max(errors) < TOLERANCE


@pytest.mark.parametrize("name", [name for name in CASES if name != "DINOv2-g with registers"])
def test_the_way_back(name, tmp_path):
    """A fine-tune of ours, with five labels, as timm.create_model loads a folder."""
    ours = read(timm_vit, *save(make(name), tmp_path / "theirs"))
    labels = [f"thing {i}" for i in range(ours.kwargs["num_classes"])]
    folder = tmp_path / "ours"
    write(ours, folder, ours.metadata(labels))
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    x = images(*ours.image_size)
    outputs, key = ours.outputs(x), "logits" if labels else "features"
    with torch.no_grad():
        assert error(outputs[key], model(to_torch(x))) < TOLERANCE
    again = read(timm_vit, *read_folder(folder))
    assert list(again.published.labels) == labels
    assert again.published.preprocess == ours.published.preprocess
    assert {k: again.kwargs[k] for k in ours.kwargs if k != "layer_scale_init"} == {
        k: v for k, v in ours.kwargs.items() if k != "layer_scale_init"
    }


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("ViT", {"gelu": "tanh"}),
        ("ViT, tanh", {"gelu": "exact"}),
        ("ViT", {"layer_norm_epsilon": 1e-5}),
        ("class token, mean", {"pooling": "token"}),
        ("ViT", {"posemb_resize": "bicubic"}),
        ("ViT", {"posemb_resize": "half_pixel"}),
    ],
)
def test_a_wrong_flag_shows(name, wrong, tmp_path):
    theirs = make(name)
    ours = read(timm_vit, *save(theirs, tmp_path), **wrong)
    size = (40, 24) if "posemb_resize" in wrong else (32, 32)
    if size != (32, 32):
        theirs.set_input_size(size)
    x = images(*size)
    with torch.no_grad():
        assert error(ours.outputs(x)["logits"], theirs(to_torch(x))) > 2 * TOLERANCE


@pytest.mark.parametrize(("method", "mode", "antialias"), [("half_pixel", "bilinear", False), ("bicubic_antialias", "bicubic", True)])  # fmt: skip
@pytest.mark.parametrize(("old", "new"), [((16, 16), (8, 8)), ((8, 8), (15, 15)), ((16, 16), (30, 12))])
def test_the_kernel_of_other_patches(old, new, method, mode, antialias):
    kernel = torch.randn(6, 3, *old, generator=torch.Generator().manual_seed(0))
    theirs = resample_patch_embed(kernel, list(new), interpolation=mode, antialias=antialias)
    ours = resample_kernel(kernel.permute(2, 3, 1, 0).numpy(), new, method)
    found = np.abs(ours - theirs.permute(2, 3, 1, 0).numpy()).max()
    print(f"\nPARITY timm | resample_patch_embed {method} | {old} {new} | {found:.1e}")
    assert found < 1e-5 * max(1, np.abs(ours).max())


def test_flexivit_at_another_patch_size(tmp_path):
    """Patches and images of other sizes at once, as timm's `set_input_size` makes them."""
    theirs = randomise_vit(timm.create_model("flexivit_small", img_size=32, patch_size=8, embed_dim=64, depth=1, num_heads=2, num_classes=5))  # fmt: skip
    save(theirs, tmp_path)
    for patch_size, side in ((8, 32), (4, 32), (12, 36)):
        ours = vit_jax.load(tmp_path, patch_size=patch_size, image_size=side)
        other = copy.deepcopy(theirs)
        other.set_input_size((side, side), patch_size)
        x = images(side, side)
        with torch.no_grad():
            found = error(np.asarray(ours.logits(x)), other(to_torch(x)))
        print(f"\nPARITY timm | FlexiViT, patches of {patch_size} | {side} | {found:.1e}")
        assert found < TOLERANCE
