"""Segmenters: UPerNet on Swin of transformers, EfficientViT-Seg of its authors' blocks, every leaf drawn anew."""

import importlib.util

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import save_file
from torch.nn import functional

import vit_jax
from tests.parity import oracle
from tests.parity.test_efficientvit import TRUNKS, redrawn
from tests.parity.test_swin import LABELS
from vit_jax.checkpoints.export import export
from vit_jax.checkpoints.families import efficientvit_seg_authors, hf_upernet
from vit_jax.checkpoints.source import open_source
from vit_jax.models import segmenter
from vit_jax.nn.init_shapes import init_shapes

SIZES = ((64, 64), (96, 160))


def logits(ours, images):
    """Of the model by itself, at the stride of its head."""
    state = {k: v for k, v in ours.params.items() if k.startswith("batch_stats/")}
    params = {k: v for k, v in ours.params.items() if k not in state}
    variables = {"params": oracle.nested(params), **oracle.nested(state)}
    return jax.jit(lambda v, x: ours.model.apply(v, x)["mask_logits"])(variables, images)


def upernet(folder=None):
    swin = transformers.SwinConfig(
        embed_dim=16, depths=[2, 1, 2, 1], num_heads=[1, 2, 2, 4], window_size=2, image_size=64,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.UperNetConfig(backbone_config=swin, hidden_size=24, auxiliary_channels=12, **LABELS)
    if folder is not None:
        return transformers.UperNetForSemanticSegmentation.from_pretrained(folder).eval()
    model = transformers.UperNetForSemanticSegmentation(config)
    rng = np.random.default_rng(0)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if name.endswith("running_var"):
            drawn = rng.uniform(0.5, 1.5, tensor.shape)
        elif "norm" in name and name.endswith("weight"):
            drawn = rng.uniform(0.5, 1.2, tensor.shape)
        else:
            drawn = rng.normal(0, 1.4 * max(tensor[0].numel(), 4) ** -0.5, tensor.shape)
        tensor.copy_(torch.from_numpy(np.asarray(drawn, np.float32)))
    return model.eval()


def test_upernet_there_and_back(tmp_path):
    """Logits where maps have six rows and where they have fewer; transformers reads what is written of it."""
    upernet().save_pretrained(tmp_path / "theirs")
    theirs = upernet(tmp_path / "theirs")
    tensors, sidecar = oracle.read_folder(tmp_path / "theirs")
    tensors = {k: v for k, v in tensors.items() if not k.startswith("backbone.swin.layernorm")}
    tensors = {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
    ours = oracle.read(hf_upernet, tensors, sidecar)
    assert ours.published.labels == ("cat", "dog", "bird")
    for size in SIZES:
        images = oracle.images(*size)
        with torch.no_grad():
            expected = theirs(oracle.to_torch(images)).logits
        at_stride = torch.from_numpy(np.array(logits(ours, images))).permute(0, 3, 1, 2)
        assert at_stride.shape[2:] == (size[0] // 4, size[1] // 4)
        found = functional.interpolate(at_stride, size=size, mode="bilinear", align_corners=False)
        oracle.assert_close(found.numpy(), expected.numpy(), f"UPerNet {size}")
    export(open_source(tmp_path / "theirs"), tmp_path / "ours", "transformers")
    with torch.no_grad():
        again = upernet(tmp_path / "ours")(oracle.to_torch(images)).logits
    np.testing.assert_allclose(again, expected, atol=1e-5)
    loaded = vit_jax.load(tmp_path / "ours", image_size=64)
    assert type(loaded.task).__name__ == "Segment" and loaded.fields["segmentation"].count == 3
    small = loaded.outputs(oracle.images(64, 64), ("class_map",))["class_map"]
    assert small.shape == (3, 64, 64)


def test_upernet_on_swin_t_has_transformers_s_count():
    """59,943,398, of which the last norm of a whole Swin, which the backbone does not use, is 2 x 768."""
    model = segmenter.build({"name": "swin", "variant": "T"}, {"name": "upernet", "map_norms": True}, num_classes=150)
    shapes = init_shapes(lambda: model.init(jax.random.key(0), np.zeros((1, 224, 224, 3), np.float32)))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 59_943_398 - 2 * 768


authors = pytest.mark.skipif(
    importlib.util.find_spec("efficientsam") is None,
    reason="compares with the authors' package: pip install --no-deps efficientsam==1.0.0",
)
HEADS = {
    "b": {"width": 8, "depth": 2, "block": "mb", "expand": 4, "final": 4, "act": "hswish"},
    "l": {"width": 12, "depth": 2, "block": "fmb", "expand": 2, "final": None, "act": "gelu"},
}


class Theirs(torch.nn.Module):
    """The authors' blocks, put together as `SegHead` of their seg.py is; their package does not hold that file."""

    def __init__(self, kind, classes=5):
        super().__init__()
        from efficientsam.models.efficientvit import backbone
        from efficientsam.models.nn import ops
        from efficientsam.models.nn.norm import set_norm_eps

        name, arguments, _ = TRUNKS[kind]
        self.backbone, head = getattr(backbone, name)(**arguments), HEADS[kind]
        width, act, wide = head["width"], head["act"], head["width"] * (head["final"] or 1)
        inputs = {}
        for level, stride in zip(("stage4", "stage3", "stage2"), (32, 16, 8), strict=True):
            channels = arguments["width_list"][{"stage4": 4, "stage3": 3, "stage2": 2}[level]]
            narrow = ops.ConvLayer(channels, width, 1, norm="bn2d", act_func=None)
            grown = [] if stride == 8 else [narrow, ops.UpSampleLayer(factor=stride // 8)]
            inputs[level] = ops.OpSequential(grown) if grown else narrow
        made = {"expand_ratio": head["expand"], "norm": "bn2d"}
        blocks = [
            ops.MBConv(width, width, act_func=(act, act, None), **made)
            if head["block"] == "mb"
            else ops.FusedMBConv(width, width, act_func=(act, None), **made)
            for _ in range(head["depth"])
        ]
        middle = ops.OpSequential([ops.ResidualBlock(block, ops.IdentityLayer()) for block in blocks])
        expand = None if head["final"] is None else ops.ConvLayer(width, wide, 1, norm="bn2d", act_func=act)
        last = ops.ConvLayer(wide, classes, 1, use_bias=True, norm=None, act_func=None)
        self.head = ops.DAGBlock(inputs, "add", None, middle, {"segout": ops.OpSequential([expand, last])})
        set_norm_eps(self, 1e-5 if kind == "b" else 1e-7)

    def forward(self, x):
        return self.head(self.backbone(x))["segout"]


@authors
@pytest.mark.parametrize("kind", HEADS)
def test_the_authors_segmentation(kind, tmp_path):
    theirs = redrawn(Theirs(kind))
    tensors = {key: x.numpy() for key, x in theirs.state_dict().items() if not key.endswith("num_batches_tracked")}
    ours = oracle.read(efficientvit_seg_authors, tensors)
    for size in SIZES:
        images = oracle.images(*size)
        with torch.no_grad():
            expected = theirs(oracle.to_torch(images)).permute(0, 2, 3, 1).numpy()
        oracle.assert_close(logits(ours, images), expected, f"EfficientViT-Seg {kind} {size}")
    # A file of these names is a task that answers, and is written again as it was.
    (tmp_path / "theirs").mkdir()
    save_file(tensors, tmp_path / "theirs" / "model.safetensors")
    loaded = vit_jax.load(tmp_path / "theirs", image_size=64)
    assert loaded.outputs(oracle.images(64, 64), ("class_map",))["class_map"].shape == (3, 64, 64)
    export(open_source(tmp_path / "theirs"), tmp_path / "ours", "efficientvit")
    again, _ = oracle.read_folder(tmp_path / "ours")
    assert again.keys() == tensors.keys()
    jax.tree.map(np.testing.assert_array_equal, dict(again), tensors)
