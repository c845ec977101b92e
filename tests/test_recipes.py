"""Recipes to the letter: the values that make them the authors', and headers that declare what differs."""

import json
import re

import jax
import numpy as np
import pytest

from tests.test_configs import described
from vit_jax import UserError
from vit_jax.checkpoints import transfer
from vit_jax.checkpoints.source import StoredModel
from vit_jax.data.preprocess import Preprocess
from vit_jax.naming import build_model
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.training.config import load_config, shipped_configs

FROM_CHECKPOINT = ("linear_probe", "mae_finetune", "vit_paper_finetune")
IMAGENET = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
TENSORFLOW = {"sampling": "inception", "antialias": False}
# What makes a recipe the authors', where a look-alike is near: (config, arguments, section, its values).
RECIPES = [
    *((name, "variant=B/16", "data.transform", {
        **TENSORFLOW, "area": [0.05, 1.0], "aspect": [0.75, 1.33], "interpolation": "bilinear",
        "randaugment": {"layers": 2, "magnitude": magnitude, "translate": 100.0, "cutout": 40.0},
    }) for name, magnitude in (("vit_i1k", 15), ("vit_i21k", 10))),
    ("vit_i21k", "recipe=paper", "optim", {"clip_norm": None, "weight_decay": 0.03}),
    ("vit_i21k", "", "optim", {"clip_norm": 1.0}),
    ("vit_paper_finetune", "", "data.transform", {**TENSORFLOW, "area": [0.05, 1.0], "interpolation": "bilinear"}),
    ("vit_paper_finetune", "", "data.preprocess", {"resize": "squash", "trim": [0, 0]}),
    ("mae_i1k", "", "data.transform", {"sampling": "torchvision", "area": [0.2, 1.0], "interpolation": "bicubic"}),
    ("mae_i1k", "", "data.preprocess", {"interpolation": "bicubic", **IMAGENET}),
    ("mae_i1k", "", "optim", {"weight_decay_multipliers":
        [[".*/kernel", 1.0], ["encoder/cls", 1.0], ["decoder/mask_token", 1.0]]}),
    ("mae_finetune", "", "data.transform", {
        "sampling": "torchvision", "area": [0.08, 1.0], "interpolation": "bicubic",
        "randaugment": {"policy": "timm", "layers": 2, "magnitude": 9, "magnitude_std": 0.5, "probability": 0.5,
                        "fill": [128, 128, 128]},
    }),
    ("linear_probe", "method=mae", "data.transform", {"sampling": "byol", "interpolation": "bicubic"}),
    ("linear_probe", "method=moco_v3", "data.transform", {"sampling": "torchvision", "interpolation": "bilinear"}),
    ("linear_probe", "method=simclr", "data.transform", {**TENSORFLOW, "interpolation": "bicubic"}),
    ("moco_v3_i1k", "", "data.transform", {"sampling": "torchvision", "interpolation": "bilinear"}),
    ("moco_v3_i1k", "", "data.preprocess", IMAGENET),
    ("moco_v3_i1k", "", "optim", {"weight_decay_multipliers": [[".*", 1.0]]}),
    ("simclr_i1k", "", "data.transform", {**TENSORFLOW, "interpolation": "bicubic", "blur_sigma_per": "batch"}),
    ("simclr_i1k", "", "data.preprocess", {"mean": [0.0] * 3, "std": [255.0] * 3}),
    ("simclr_i1k", "", "task", {"loss_per": "image", "temperature": 0.1}),
    ("simclr_i1k", "", "optim", {"learning_rate": 4.8, "weight_decay": 1e-6,
                                 "schedule": {"name": "cosine", "warmup_steps": {"epochs": 10}}}),
    *(("efficientvit_i1k", f"variant={variant}", section, expected)
      for variant, alpha, layers, magnitude, depth, skip, mesa in (
          ("B1", 0.1, 1, 3, 0.05, 0, None), ("B2", 0.1, 1, 3, 0.05, 0, None), ("B3", 0.3, 2, 6, 0.1, 0, None),
          ("L1", 0.2, 2, 5, 0.1, 2, 2.0), ("L2", 0.4, 2, 5, 0.1, 3, 2.75), ("L3", 0.6, 2, 6, 0.1, 3, 3.5))
      for section, expected in (
          ("data.mix", {"mixup": alpha, "cutmix": alpha, "erase": 0.2 if mesa else 0.0, "erase_fill": "mean"}),
          ("data.transform", {"sampling": "torchvision", "area": [0.08, 1.0], "interpolation": "bicubic", "randaugment": {
              "policy": "timm", "layers": layers, "magnitude": magnitude, "magnitude_std": 1.0, "probability": 0.5}}),
          ("data.preprocess", {"resize": "short_side", "resize_to": 236 if variant == "B1" else 224, **IMAGENET}),
          ("model", {"variant": variant, "drop_path_rate": depth, "drop_path_skip": skip}),
          ("task", {"label_smoothing": 0.1, "sizes": [128, 160, 192, 224],
                    "mesa": mesa and {"ratio": mesa, "after": {"epochs": 95.0}}}),
          ("optim", {"learning_rate": 8 * (1.5e-4 if mesa else 2.5e-4), "weight_decay": 0.1, "clip_value": 2.0,
                     "clip_norm": None, "schedule": {"name": "cosine", "warmup_steps": {"epochs": 20}}}),
          ("ema.decay", {"name": "ramp", "end": 0.9998, "timescale": 2000}))),
    ("deit_i1k", "variant=Ti/16", "optim", {
        "name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05, "clip_norm": None,
        "schedule": {"name": "cosine", "warmup_steps": {"epochs": 5}, "end": 1e-5}}),
    ("deit_i1k", "", "data.mix", {"mixup": 0.8, "cutmix": 1.0, "erase": 0.25}),
    *(("deit3_i1k", f"variant={variant}", section, expected)
      for variant, rate, depth, size in (("S/16", 4e-3, 0.05, 224), ("B/16", 3e-3, 0.2, 192), ("L/16", 3e-3, 0.45, 192))
      for section, expected in (
          ("optim", {"name": "lamb", "learning_rate": rate, "weight_decay": 0.05, "clip_norm": 1.0}),
          ("model", {"layer_scale_init": 1e-4, "drop_path_rate": depth, "class_token_posemb": False}),
          ("data", {"image_size": [size, size], "repeats": 3}))),
    ("swin_i1k", "variant=B", "optim", {
        "learning_rate": 1e-3, "weight_decay": 0.05, "b2": 0.999, "clip_norm": 5.0, "weight_decay_multipliers": None,
        "schedule": {"name": "cosine", "warmup_steps": {"epochs": 20}, "end": 1e-5}}),
    ("swin_i1k", "variant=S", "model", {"name": "swin", "variant": "S", "drop_path_rate": 0.3}),
    ("swin_i1k", "", "data.mix", {"mixup": 0.8, "cutmix": 1.0, "erase": 0.25}),
    ("swinv2_i1k", "window=16", "optim", {"weight_decay": 0.05, "weight_decay_multipliers": [[".*/positions/.*", 0.0]]}),
    ("swinv2_i1k", "window=16", "model", {"name": "swin_v2", "variant": "T", "window_size": 16}),
    ("swin_i22k", "", "optim", {
        "learning_rate": 1e-3, "weight_decay": 0.05,
        "schedule": {"name": "cosine", "warmup_steps": {"epochs": 5}, "end": 1e-5}}),
    ("transformer_wmt", "variant=big", "optim", {
        "b1": 0.9, "b2": 0.98, "eps": 1e-9, "learning_rate": 1024**-0.5 * 4000**-0.5, "weight_decay": 0.0,
        "schedule": {"name": "rsqrt", "warmup_steps": 4000, "timescale": 4000}}),
    ("simclr_i1k", "version=2,epochs=800", "optim", {
        "learning_rate": 6.4, "weight_decay": 1e-4, "schedule": {"name": "cosine", "warmup_steps": {"epochs": 40.0}}}),
]  # fmt: skip


@pytest.fixture
def checkpoint(monkeypatch):
    """What the configs that go on from a checkpoint read of it, which a test may change."""
    metadata = described("vit", {"variant": "B/16", "pooling": "token"}, 224)
    metadata["preprocess"] |= {"resize": "short_side", "resize_to": 256}
    monkeypatch.setattr(transfer, "open_source", lambda path: StoredModel(path, metadata, dict))
    return metadata


def section_of(values, dotted):
    for key in dotted.split("."):
        values = values[key]
    return values


@pytest.mark.parametrize(("name", "argument", "section", "expected"), RECIPES)
def test_recipes_have_the_authors_values(name, argument, section, expected, checkpoint):
    argument = ",".join(filter(None, [argument, "init=x" if name in FROM_CHECKPOINT else ""]))
    found = section_of(json.loads(json.dumps(load_config(f"{name}:{argument}"))), section)
    # What is off is left out.
    assert {key: found.get(key) for key in expected} == expected


def test_patches_that_do_not_divide_384_see_what_the_original_sees(checkpoint):
    checkpoint["model"]["kwargs"]["variant"] = "H/14"
    data = load_config("vit_paper_finetune:init=x")["data"]
    assert data["image_size"] == [378, 378]
    preprocess = Preprocess.from_json({"image_size": data["image_size"], **data["preprocess"]})
    image = np.random.default_rng(0).integers(0, 256, (300, 500, 3), dtype=np.uint8)
    whole = Preprocess((384, 384)).to_uint8(image)
    np.testing.assert_array_equal(preprocess.to_uint8(image), whole[:378, :378])
    checkpoint["model"]["kwargs"]["variant"] = "B/16"
    data = load_config("vit_paper_finetune:init=x")["data"]
    assert data["image_size"] == [384, 384] and data["preprocess"]["resize"] == "squash"


# What is known to differ from the papers and their authors' code. A header says neither more nor less.
DIFFERS = {
    "ade20k_seg": {"recipe", "loss", "statistics"},
    "bert_pretrain": {"precision", "optimizer", "pairs"},
    "cityscapes_seg": {"recipe", "loss", "statistics"},
    "clip": {"factor", "precision", "data"},
    "cocoop": {"weight decay", "rate", "splits", "words"},
    "coop": {"weight decay", "rate", "splits", "words"},
    "deit_i1k": {"teacher", "warmup", "initial values", "mixing", "precision"},
    "deit3_i1k": {"labels", "loss", "warmup", "initial values", "mixing", "colours", "precision"},
    "ddpm_256": {"initial values", "steps"},
    "ddpm_cifar10": {"initial values"},
    "controlnet_edges": {"data", "steps", "thresholds", "precision"},
    "sd_depth": {"data", "first convolution", "precision"},
    "sd_inpaint": {"data", "masks", "first convolution", "precision"},
    "sd_v1": {"data", "texts", "precision"},
    "dit_imagenet256": {"latents", "crops", "guidance", "precision"},
    "iddpm_imagenet64": {"heads", "time", "crops", "pixels"},
    "ldm_celebahq": {"initial values", "steps"},
    "ldm_imagenet": {"batch", "steps", "initial values", "crops"},
    "dalle": {"vocabulary", "learning rate", "precision"},
    "maskgit_imagenet": {"classes", "loss", "masks", "crops", "precision"},
    "vqgan_transformer": {"classes", "steps", "dropout", "precision"},
    "distil": {"mixup", "warmup", "student"},
    "dvae": {"rate", "data", "crops", "precision"},
    "efficientvit_i1k": {"sizes", "mixing", "stochastic depth", "evaluation", "precision"},
    "efficientvit_sam": {"distillation", "loss", "answers", "precision"},
    "efficientvit_sr": {"network", "rate"},
    "flexivit_i1k": {"pixels", "teacher's images", "layer scale", "start", "mixup", "precision"},
    "gpt2": {"precision"},
    "igpt_imagenet": {"learning rate", "crops", "validation", "precision"},
    "hart_c2i": {"recipe", "losses", "shares"},
    "hart_tokenizer": {"recipe", "images", "precision"},
    "hart_t2i": {"tower", "recipe", "losses", "shares"},
    "linear_probe": {"momentum", "head", "rate", "evaluation pixels"},
    "mae_finetune": {"positions", "head", "mixing", "precision"},
    "mae_i1k": {"precision"},
    "mar": {"masks", "crops", "tokenizer", "decay", "precision"},
    "moco_v3_i1k": {"heads", "colours", "blur", "precision"},
    "pixelcnn_cifar10": {"optimizer", "layers", "length"},
    "sam_sa1b": {"focal", "ranking", "masks", "precision"},
    "sparsevit_i1k": {"images", "augmentation", "schedule"},
    "swin_finetune384": {"warmup", "mixing", "head", "precision"},
    "swin_i1k": {"warmup", "initial values", "mixing", "precision"},
    "swinv2_i1k": {"warmup", "initial values", "mixing", "precision"},
    "swin_i22k": {"warmup", "initial values", "mixing", "precision", "validation"},
    "transformer_wmt": {"batches", "rate", "precision"},
    "simclr_i1k": {"memory", "colours", "brightness", "crops", "blur", "evaluation pixels"},
    "yolos_coco": {"images", "crops", "losses", "rate"},
    "kl_autoencoder": {"images", "error", "discriminator", "precision"},
    "maskgit_vqgan": {"discriminator", "eyes", "sizes", "average", "precision"},
    "var_tokenizer": {"recipe", "images", "precision"},
    "vqgan_imagenet": {"length", "crops", "discriminator", "precision"},
    "vqvae": {"width", "crops", "precision"},
    "vqvae2": {"rate", "restarts", "filters", "precision"},
    "vit_i1k": {"levels", "mixup", "precision", "few-shot"},
    "vit_i21k": {"levels", "mixup", "precision", "duplicates", "decay"},
    "vit_paper_finetune": {"evaluation pixels", "crops for H/14", "dropout", "flowers"},
    "var": {"interpolation", "precision", "product"},
    "vtab": {"batch and warmup"},
}


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_headers_declare_where_a_recipe_differs(name):
    header = shipped_configs()[name].read_text(encoding="utf-8").split('"""')[1]
    declared = re.search(r"^Where this differs(, without a known effect)?:\n((?:.+\n)+)", header, re.MULTILINE)
    if name not in DIFFERS:
        assert declared is None and "Where this differs" not in header
        assert "in small" in header or not re.search(r"^Expected: .*%", header, re.MULTILINE) or "MNIST" in header
        return
    unknown, text = declared.groups()
    assert set(re.findall(r"^- ([^:\n]+):", text, re.MULTILINE)) == DIFFERS[name]
    if not unknown:
        # Each says what it does to the figure, or that nobody knows.
        for item in re.split(r"^- ", text, flags=re.MULTILINE)[1:]:
            assert "Effect unknown" in " ".join(item.split()) or re.search(r"\d+(\.\d+)?%|point|says nothing", item), (
                item
            )


# AugReg as big_vision's configs have it: RandAugment's magnitude and mixup's alpha.
LIGHT1, LIGHT2, MEDIUM1, MEDIUM2, NONE = (0, 0.0), (10, 0.2), (15, 0.2), (15, 0.5), (None, 0.0)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("vit_i1k", {"Ti/16": LIGHT1, "S/32": MEDIUM1, "S/16": MEDIUM2, "B/32": MEDIUM2, "B/16": MEDIUM2,
                     "L/16": MEDIUM2}),
        ("vit_i21k", {"Ti/16": NONE, "S/32": NONE, "S/16": LIGHT1, "B/32": LIGHT2, "B/16": LIGHT2, "L/16": MEDIUM2}),
    ],
)  # fmt: skip
def test_augreg_presets_are_those_of_the_size_however_it_is_spelt(name, sizes):
    for size, expected in sizes.items():
        values = load_config(f"{name}:variant={size},recipe=augreg")
        lower = load_config(f"{name}:variant={size.lower()},recipe=augreg")
        assert values == lower and values["model"]["variant"] == size
        transform, mixup = values["data"]["transform"], values["data"]["mix"]["mixup"]
        assert (transform.get("randaugment", {}).get("magnitude"), mixup) == expected
    with pytest.raises(UserError, match="AugReg has no preset for H/14 .* aug="):
        load_config(f"{name}:variant=h/14")
    assert load_config(f"{name}:variant=h/14,aug=medium1")["data"]["mix"] == {"mixup": 0.2}
    if name == "vit_i21k":
        assert load_config(f"{name}:variant=h/14,recipe=paper")["data"]["mix"] == {"mixup": 0.0}


@pytest.mark.parametrize("aug", ["none", "light1", "light2", "medium1", "medium2", "strong1", "strong2"])
def test_a_preset_of_augreg_is_the_same_in_both_configs(aug):
    """Each config is a file that stands alone, so the table is in both."""
    small, large = (load_config(f"{name}:variant=B/16,recipe=augreg,aug={aug}") for name in ("vit_i1k", "vit_i21k"))
    assert small["data"]["transform"] == large["data"]["transform"] and small["data"]["mix"] == large["data"]["mix"]


@pytest.mark.parametrize(
    ("generator", "tokenizer"),
    [
        ("maskgit_imagenet", "maskgit_vqgan"),
        ("vqgan_transformer", "vqgan_imagenet"),
        ("vqgan_transformer:codes=16384", "vqgan_imagenet:codes=16384"),
        ("igpt_imagenet", "color_palette"),
        ("emoji_dalle", "emoji_dalle:stage=tokenizer"),
    ],
)
def test_a_generator_takes_the_tokenizer_of_the_recipe_before_it(generator, tokenizer):
    """Their parameters have the same names and shapes."""
    sections = load_config(generator)["task"]["tokenizer"], load_config(tokenizer)["model"]
    models = [build_model(section)[0] for section in sections]
    ours, theirs = (init_shapes(m.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32)) for m in models)
    assert ours["params"] == theirs["params"]
