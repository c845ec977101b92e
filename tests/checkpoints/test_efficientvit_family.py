"""EfficientViT in timm's names and in its authors': there and back with statistics and pixels; parity is in
tests/parity."""

import jax
import numpy as np
import pytest
from etils import epath

from vit_jax import UserError
from vit_jax.checkpoints.export import export
from vit_jax.checkpoints.families import efficientvit_authors
from vit_jax.checkpoints.safetensors import SafetensorsFile, write_safetensors
from vit_jax.checkpoints.source import StoredModel, flat_shapes, model_shapes, nested, open_source
from vit_jax.checkpoints.transfer import init_from
from vit_jax.models import efficientvit_sam
from vit_jax.models.efficientvit import build

SIZES = {"head_width": 4, "head_widths": [8, 12], "num_classes": 3}
B = {"variant": "B2", "widths": [4, 4, 8, 8, 16], "depths": [1, 2, 1, 1, 2], **SIZES}
L = {"variant": "L2", "widths": [4, 4, 8, 8, 16], "depths": [1, 1, 1, 2, 1], **SIZES}
SAM = {
    "variant": "L0", "widths": [4, 4, 8, 8, 16], "depths": [1, 1, 1, 2, 1], "head_width": 4, "neck_width": 8,
    "neck_depth": 2, "neck_expand_ratio": 2.0, "width": 16, "decoder_mlp_dim": 24, "iou_hidden": 8,
}  # fmt: skip
XL = {"variant": "XL0", "widths": [4, 4, 8, 8, 16, 16], "depths": [0, 1, 1, 1, 2, 1], "head_width": 4, "num_classes": 0}
PIXELS = {
    "image_size": [64, 64], "resize": "short_side", "resize_to": 72, "interpolation": "bicubic",
    "mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375],
}  # fmt: skip


def stored(kwargs, name="efficientvit"):
    rng = np.random.default_rng(0)
    params, state = (
        {name: rng.uniform(0.5, 1.5, shape).astype(np.float32) for name, shape in shapes.items()}
        for shapes in model_shapes(name, kwargs, (64, 64))
    )
    model = {"name": name, "kwargs": kwargs}
    labels = [f"class {i}" for i in range(kwargs.get("num_classes", 0))]
    metadata = {"model": model, "preprocess": PIXELS, "labels": labels, "image_size": [64, 64]}
    return StoredModel(epath.Path("memory"), metadata, lambda: (nested(params), nested(state)))


@pytest.mark.parametrize(
    ("kwargs", "to"),
    [({**B, "attention_epsilon": 1e-5}, "timm"), ({**L, "attention_epsilon": 1e-5}, "timm"),
     (B, "efficientvit"), (L, "efficientvit"), (XL, "efficientvit")],
    ids=lambda value: value["variant"] if isinstance(value, dict) else value,
)  # fmt: skip
def test_there_and_back(kwargs, to, tmp_path, capsys):
    source = stored(kwargs)
    export(source, tmp_path / "there", to)
    back = open_source(tmp_path / "there")
    jax.tree.map(np.testing.assert_array_equal, back.read(), source.read())
    assert build(**back.metadata["model"]["kwargs"]) == build(**kwargs)
    assert back.metadata["preprocess"].items() >= PIXELS.items()
    assert back.metadata["labels"] == source.metadata["labels"]


@pytest.mark.long
def test_efficientvit_sam_there_and_back(tmp_path):
    """With the statistics of encoder and neck, and the constant of the prompts; its parity is in tests/parity."""
    source = stored(SAM, "efficientvit_sam")
    export(source, tmp_path / "there", "efficientvit")
    shapes = SafetensorsFile(tmp_path / "there" / "model.safetensors").shapes
    assert shapes["image_encoder.backbone.stages.0.op_list.0.conv.weight"] == (4, 3, 3, 3)
    assert shapes["image_encoder.neck.middle.op_list.1.main.spatial_conv.norm.running_mean"] == (16,)
    assert shapes["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"] == (2, 8)
    back = open_source(tmp_path / "there")
    jax.tree.map(np.testing.assert_array_equal, back.read(), source.read())
    model = efficientvit_sam.build(**back.metadata["model"]["kwargs"])
    assert model == efficientvit_sam.build(**SAM)
    # The authors set every epsilon.
    assert model.decoder.style.norm_epsilon == model.encoder.style.norm_epsilon == model.neck.style.norm_epsilon == 1e-6
    assert back.metadata["preprocess"].items() >= {"resize": "pad", "image_size": [512, 512]}.items()
    small = stored({**SAM, "embedding_size": 8}, "efficientvit_sam")
    with pytest.raises(UserError, match="efficientvit"):
        export(small, tmp_path / "small", "efficientvit")


def test_names_are_the_authors(tmp_path):
    export(stored(B), tmp_path / "b", "efficientvit")
    export(stored(L), tmp_path / "l", "efficientvit")
    b, large = (SafetensorsFile(tmp_path / name / "model.safetensors").shapes for name in "bl")
    attention = "backbone.stages.3.op_list.1.context_module.main"
    assert (
        b.items()
        >= {
            "backbone.input_stem.op_list.0.conv.weight": (4, 3, 3, 3),
            "backbone.input_stem.op_list.1.main.depth_conv.conv.weight": (4, 1, 3, 3),
            f"{attention}.qkv.conv.weight": (48, 16, 1, 1),
            f"{attention}.aggreg.0.0.weight": (48, 1, 5, 5),
            f"{attention}.aggreg.0.1.weight": (48, 4, 1, 1),
            f"{attention}.proj.norm.running_var": (16,),
            "backbone.stages.3.op_list.2.local_module.main.inverted_conv.conv.bias": (64,),
            "head.op_list.0.norm.running_mean": (8,),
            "head.op_list.2.linear.weight": (12, 8),
            "head.op_list.3.linear.bias": (3,),
        }.items()
    )
    assert (
        large.items()
        >= {
            "backbone.stages.0.op_list.1.main.conv2.conv.weight": (4, 4, 3, 3),
            "backbone.stages.2.op_list.1.main.spatial_conv.conv.weight": (32, 8, 3, 3),
        }.items()
    )


def test_each_library_has_its_own_epsilon(tmp_path):
    for kwargs, to in ((B, "timm"), ({**B, "attention_epsilon": 1e-5}, "efficientvit")):
        with pytest.raises(UserError, match=f"{to} (has no place for this|cannot keep attention_epsilon=1e-05)"):
            export(stored(kwargs), tmp_path / "no", to)


def test_a_trunk_alone_is_taken_for_one_of_sam_s(tmp_path):
    """The tensors of a trunk do not say for what it was trained, and those for SAM have another epsilon."""
    kwargs = {**L, "num_classes": 0, "head_widths": [], "norm_epsilon": 1e-6}
    names = efficientvit_authors.name_map(kwargs, {})
    params, state = stored(kwargs).read()
    flat = {name: np.ones(shape, np.float32) for name, shape in (flat_shapes(params) | flat_shapes(state)).items()}
    write_safetensors(tmp_path / "model.safetensors", names.write(flat))
    found = open_source(tmp_path / "model.safetensors").metadata
    assert build(**found["model"]["kwargs"]).encoder == build(**kwargs).encoder
    assert any("an epsilon of 1e-06 in its norms is assumed" in remark for remark in found["source"]["remarks"])


def test_fine_tuning_keeps_all_but_the_linear_head(tmp_path):
    source = stored(B)
    export(source, tmp_path / "there", "efficientvit")
    fresh = jax.eval_shape(
        build(**{**B, "num_classes": 7}).init, jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32)
    )
    found, _ = init_from(fresh, str(tmp_path / "there"))
    params, state = (flat_shapes(tree) for tree in source.read())
    assert set(found) == {f"params/{n}" for n in params if not n.startswith("head/")} | set(state)
