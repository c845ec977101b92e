"""EfficientViT-SAM against its authors' package: a whole L0 from pixels and prompts to masks, and every neck."""

import importlib.util

import jax
import numpy as np
import pytest
import torch

from tests.parity import oracle
from tests.parity.test_efficientvit import redrawn
from vit_jax.checkpoints.families import efficientvit_sam_authors
from vit_jax.nn.prompts import box_corners, completed

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("efficientsam") is None,
    reason="compares with the authors' package: pip install --no-deps efficientsam==1.0.0",
)

NAMES = ("l0", "l1", "l2", "xl0", "xl1")
# Widths of the stages in small; depths are those of each name.
SMALL = {
    "l0": [1, 1, 1, 4, 4], "l1": [1, 1, 1, 6, 6], "l2": [1, 2, 2, 8, 8], "xl0": [0, 1, 1, 2, 3, 3],
    "xl1": [1, 2, 2, 4, 6, 6],
}  # fmt: skip


def authors(name, width=None):
    """The authors' model with every parameter and statistic redrawn; with a width its encoder is of a few channels."""
    from efficientsam.models.efficientvit import backbone, sam
    from efficientsam.models.nn.norm import set_norm_eps

    built = getattr(sam, f"efficientvit_sam_{name}")
    if width is None:
        theirs = built()
    else:
        with torch.device("meta"):  # its sizes alone
            published = built().image_encoder.neck
        large = name.startswith("xl")
        widths = [width] * len(SMALL[name])
        arguments = {"qkv_dim": width}
        if large:
            arguments |= {
                "block_list": ["res", "fmb", "fmb", "fmb", "att@3", "att@3"], "expand_list": [1, 4, 4, 4, 4, 6],
                "fewer_norm_list": [False, False, False, False, True, True],
            }  # fmt: skip
        trunk = backbone.EfficientViTLargeBackbone(widths, SMALL[name], **arguments)
        middle = published.middle.op_list
        spatial = middle[0].main.spatial_conv.conv
        neck = sam.SamNeck(
            published.input_keys, [width] * 3, width, len(middle), spatial.out_channels / spatial.in_channels, "fmb"
        )
        encoder = sam.EfficientViTSamImageEncoder(trunk, neck)
        theirs = sam.build_efficientvit_sam(encoder, 1024 if large else 512)
    set_norm_eps(theirs, 1e-6)  # as `create_efficientvit_sam_model` does, the decoder's norms among them
    with torch.no_grad():
        return redrawn(theirs)


def ours_of(theirs):
    tensors = {key: x.numpy() for key, x in theirs.state_dict().items()}
    ours = oracle.read(efficientvit_sam_authors, tensors)
    collections = ("constants", "batch_stats")
    variables = {
        "params": oracle.nested({k: v for k, v in ours.params.items() if k.partition("/")[0] not in collections})
    }
    return ours, variables | oracle.nested({k: v for k, v in ours.params.items() if k.partition("/")[0] in collections})


@pytest.mark.parametrize("name", NAMES)
def test_every_neck(name):
    """On a trunk of a few channels, at an image of which the map has fewer places than the neck gives."""
    theirs = authors(name, width=8)
    ours, variables = ours_of(theirs)
    assert ours.kwargs["variant"] == name.upper() and "neck_depth" not in ours.kwargs
    assert "neck_expand_ratio" not in ours.kwargs
    images = oracle.images(128, 192)
    found = jax.jit(lambda v, x: ours.model.apply(v, x, method="embed"))(variables, images)
    with torch.no_grad():
        expected = theirs.image_encoder(oracle.to_torch(images)).permute(0, 2, 3, 1).numpy()
    assert found.shape[1:] == (64, 64, 256)
    oracle.assert_close(np.asarray(found), expected, f"EfficientViT-SAM {name}'s neck")


@pytest.mark.slow
def test_a_whole_l0():
    """From pixels to masks: points, a box, both, and logits of an earlier mask."""
    theirs = authors("l0")
    ours, variables = ours_of(theirs)
    assert set(ours.kwargs) <= {"variant"} and ours.published.preprocess["image_size"] == [512, 512]
    rng = np.random.default_rng(0)
    images = rng.normal(size=(1, 512, 512, 3)).astype(np.float32)
    embedding = jax.jit(lambda v, x: ours.model.apply(v, x, method="embed"))(variables, images)
    with torch.no_grad():
        expected = theirs.image_encoder(oracle.to_torch(images))
    oracle.assert_close(np.asarray(embedding), expected.permute(0, 2, 3, 1).numpy(), "EfficientViT-SAM L0's encoder")

    points, labels = np.array([[[300.0, 500.0], [900.0, 80.0]]], np.float32), np.array([[1, 0]])
    box, earlier = np.array([[100.0, 50.0, 700.0, 900.0]], np.float32), rng.normal(size=(1, 256, 256))
    predict = jax.jit(lambda *prompts: ours.model.apply(variables, *prompts, method="predict"))
    for what, of_points, of_box, of_mask in (
        ("points", True, False, False), ("box", False, True, False), ("all", True, True, True),
    ):  # fmt: skip
        given = []
        if of_points:
            given.append((points, labels))
        if of_box:
            given.append(box_corners(box))
        slots = [np.concatenate([np.asarray(part[k]) for part in given], axis=1) for k in (0, 1)]
        slots = completed(*slots)
        mask = earlier.astype(np.float32) if of_mask else np.zeros((1, 256, 256), np.float32)
        masks, iou = predict(embedding, *slots, mask, np.array([of_mask]))
        with torch.no_grad():
            sparse, dense = theirs.prompt_encoder(
                points=(torch.from_numpy(points), torch.from_numpy(labels)) if of_points else None,
                boxes=torch.from_numpy(box) if of_box else None,
                masks=torch.from_numpy(mask)[:, None] if of_mask else None,
            )
            positions = theirs.prompt_encoder.get_dense_pe()
            several, of_several = theirs.mask_decoder(expected, positions, sparse, dense, multimask_output=True)
            single, of_single = theirs.mask_decoder(expected, positions, sparse, dense, multimask_output=False)
        oracle.assert_close(np.asarray(masks), torch.cat([single, several], 1).numpy(), f"EfficientViT-SAM L0 {what}")
        oracle.assert_close(np.asarray(iou), torch.cat([of_single, of_several], 1).numpy(), f"its IoU, {what}")
