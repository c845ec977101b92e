"""What layers give, beside timm's `forward_intermediates`: blocks of ViTs, stages of Swins; and the table of published
checkpoints beside timm's own list."""

import pytest
import timm
import torch
from timm.models import save_for_hf

from tests.parity.oracle import TOLERANCE, error, images, randomise_vit, to_torch
from vit_jax.checkpoints.load import load
from vit_jax.checkpoints.zoo import zoo


def saved(model, folder):
    save_for_hf(model, folder, safe_serialization=True)
    return load(folder)


@pytest.mark.parametrize("name", ["vit_base_patch16_224", "vit_base_patch14_reg4_dinov2"])
def test_blocks_of_a_vit(name, tmp_path):
    tiny = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 5}
    theirs = randomise_vit(timm.create_model(name, **tiny))
    ours, x = saved(theirs, tmp_path), images(32, 32)
    with torch.no_grad():
        found = theirs.forward_intermediates(
            to_torch(x), indices=[0, 1, 2], output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
        )
    for mine, (patches, before) in zip(ours.intermediate(x, [0, 1, 2]), found, strict=True):
        assert error(mine, torch.cat([before, patches], dim=1)) < TOLERANCE


def test_stages_of_a_swin(tmp_path):
    tiny = {"img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2), "num_classes": 5}
    drawn, theirs = (timm.create_model("swin_tiny_patch4_window7_224", **tiny) for _ in range(2))
    theirs.load_state_dict(randomise_vit(drawn).state_dict())  # into one whose masks nobody drew anew
    ours, x = saved(theirs.eval(), tmp_path), images(64, 64)
    with torch.no_grad():
        found = theirs.forward_intermediates(to_torch(x), indices=[0, 1], intermediates_only=True)
    first, last = (stage.permute(0, 2, 3, 1) for stage in found)
    mine, blocks = ours.maps(x), ours.intermediate(x, [1, 3])
    assert error(mine[4], first) < TOLERANCE
    for block, stage in zip(blocks, (first, last), strict=True):
        assert error(block.reshape(stage.shape), stage) < TOLERANCE


def test_rows_are_timm_s():
    """Addresses, sizes and counts of parameters of some of the rows, spread over the whole list."""
    rows = [row for row in zoo() if row.address.startswith("hf://timm/") and row.family.startswith("timm_")]
    known = {timm.get_pretrained_cfg(name).hf_hub_id for name in timm.list_models(pretrained=True)}
    assert {row.address.removeprefix("hf://") for row in rows} <= known
    for row in rows[::24]:
        with torch.device("meta"):
            model = timm.create_model(row.address.removeprefix("hf://timm/"))
        assert sum(p.numel() for p in model.parameters()) == row.parameters, row
        # What patches do not divide is left out: 384 pixels are 378 of patches of 14.
        height = model.pretrained_cfg["input_size"][1]
        assert height - 16 < row.image_size[0] <= height, row
