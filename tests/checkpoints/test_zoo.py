"""The table of published checkpoints: what it says fits the code, the page in the manual and the command."""

import math
import re
from pathlib import Path

import pytest

from vit_jax.checkpoints.source import families_of, model_shapes
from vit_jax.checkpoints.zoo import as_markdown, find, zoo
from vit_jax.commands.main import main
from vit_jax.models.names import list_models

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
# Families without a row, and why; one that is not here either waits for somebody who looks its addresses up.
WITHOUT = {
    "compvis_controlnet": "its address could not be looked up",
    "compvis_kl": "pickles inside archives",
    "compvis_unet": "its address could not be looked up",
    "compvis_vqgan": "pickles inside archives",
    "dall_e": "a pickle, whose address could not be looked up",
    "diffusers_dit_pipeline": "whether it is there as safetensors could not be looked up",
    "diffusers_dit": "whether it is there as safetensors could not be looked up",
    "diffusers_vq": "pickles",
    "hart_authors": "its address could not be looked up",
    "hf_chameleon_vqvae": "a part of a model of another kind",
    "hf_clip_vision": "what transformers saves of a CLIP's image tower",
    "hf_dual_encoder": "what transformers saves of two towers",
    "hf_siglip": "what transformers saves of a SigLIP's image tower",
    "hf_vitdet": "what transformers saves of a backbone",
    "taesd": "its address could not be looked up",
}


def test_families_are_those_that_there_are():
    families = {module.__name__.rpartition(".")[2] for module in families_of()}
    named = {row.family for row in zoo()}
    assert named <= families, named - families
    assert set(WITHOUT) <= families - named
    assert len(named) > 45


def test_rows_are_whole():
    addresses = [row.address for row in zoo()]
    assert len(addresses) == len(set(addresses)) > 300
    for row in zoo():
        assert row.address.startswith(("hf://", "https://")) and " " not in row.address, row
        assert bool(row.figure) == bool(row.source), row
        assert row.url.startswith("https://"), row
    figures = [float(row.figure.split()[0]) for row in zoo() if "top-1" in row.figure]
    assert len(figures) > 100 and all(60 < figure < 95 for figure in figures)


def test_models_are_named_as_create_model_names_them():
    names = set(list_models())
    modules = {name.partition(":")[0] for name in names}
    for row in zoo():
        if row.model.partition(":")[0] in modules:
            assert row.model in names, row.model


@pytest.mark.parametrize(
    ("address", "kwargs"),
    [
        ("hf://timm/vit_base_patch16_224.augreg2_in21k_ft_in1k", {"num_classes": 1000}),
        ("hf://timm/mixer_b16_224.goog_in21k_ft_in1k", {"num_classes": 1000}),
        ("hf://timm/swin_tiny_patch4_window7_224.ms_in1k", {"num_classes": 1000}),
        ("hf://timm/resnet18.tv_in1k", {"num_classes": 1000}),
    ],
)
def test_parameters_are_those_of_the_model(address, kwargs):
    [row] = find(address)
    module, _, variant = row.model.partition(":")
    shapes, _ = model_shapes(module, {"variant": variant, **kwargs}, row.image_size)
    assert sum(map(math.prod, shapes.values())) == row.parameters


def test_the_page_is_made_of_the_table():
    assert as_markdown() in PAGE.read_text(encoding="utf-8"), "run: vit_jax models --markdown"
    said = re.search(r"([\d,]+) checkpoints of (\d+) families", PAGE.read_text(encoding="utf-8"))
    assert (said[1], said[2]) == (f"{len(zoo()):,}", str(len({row.family for row in zoo()})))


def test_the_command_finds_by_model_address_or_family(capsys):
    assert main(["models", "swin:T"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["model", "parameters", "pixels", "figure", "address"]
    assert "hf://timm/swin_tiny_patch4_window7_224.ms_in1k" in lines[-1] or len(lines) > 3
    assert all("swin:T" in line for line in lines[2:])
    for pattern, address in (
        ("*dinov2-base", "hf://facebook/dinov2-base"),
        ("SAM_AUTHORS", "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth"),
    ):
        assert main(["models", pattern]) == 0
        assert address in capsys.readouterr().out
    assert main(["models", "--markdown"]) == 0
    assert capsys.readouterr().out == as_markdown()
    assert main(["models", "swim:T"]) == 2
    assert "No published checkpoint is like 'swim:T'. Did you mean 'swin:T'?" in capsys.readouterr().err
