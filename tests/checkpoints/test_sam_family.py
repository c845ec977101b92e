"""SAM and ViTDet in other libraries' names: there and back, what starts SAM's encoder, what is refused; parity is in
tests/parity."""

import jax
import numpy as np
import pytest
from etils import epath

from vit_jax import UserError
from vit_jax.checkpoints.export import export
from vit_jax.checkpoints.families import hf_sam, hf_vitdet, sam_authors
from vit_jax.checkpoints.published import Sidecar, described
from vit_jax.checkpoints.safetensors import SafetensorsFile
from vit_jax.checkpoints.source import StoredModel, model_shapes, nested, open_source
from vit_jax.checkpoints.transfer import init_from
from vit_jax.models import sam
from vit_jax.naming import named_module
from vit_jax.nn.posemb import SINCOS2D, interpolate_posemb, sincos2d

TRUNK = {"variant": "B/8", "width": 16, "depth": 3, "num_heads": 2, "mlp_dim": 32, "window_size": 3,
         "global_blocks": [1]}  # fmt: skip
SAM = {"trunk": {"name": "vitdet", **TRUNK}, "width": 16, "decoder_mlp_dim": 24, "mask_channels": 4, "iou_hidden": 8}
HF = {**SAM, "decoder_heads": 2, "decoder_norm_epsilon": 1e-6}
VITDET = {**TRUNK, "num_classes": 0}
PIXELS = {"image_size": [40, 40], "resize": "pad", "anchor": "corner", "interpolation": "bilinear",
          "mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}  # fmt: skip


def stored(name, kwargs, pixels=PIXELS):
    rng = np.random.default_rng(0)
    params, state = (
        {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        for shapes in model_shapes(name, kwargs, pixels["image_size"])
    )
    metadata = {"model": {"name": name, "kwargs": kwargs}, "preprocess": pixels, "labels": [],
                "image_size": pixels["image_size"]}  # fmt: skip
    return StoredModel(epath.Path("memory"), metadata, lambda: (nested(params), nested(state)))


@pytest.fixture(scope="module")
def models():
    """One of each, so that shapes are found out once."""
    return {"transformers": stored("sam", HF), "segment_anything": stored("sam", SAM)}


@pytest.mark.long
@pytest.mark.parametrize("to", ["transformers", "segment_anything"])
def test_there_and_back(to, models, tmp_path, capsys):
    """All parameters, and the constant, bit for bit."""
    source = models[to]
    export(source, tmp_path / "there", to)
    back = open_source(tmp_path / "there")
    jax.tree.map(np.testing.assert_array_equal, back.read(), source.read())
    assert list(back.read()[1]) == ["constants"]
    kwargs = source.metadata["model"]["kwargs"]
    assert sam.build(**back.metadata["model"]["kwargs"]) == sam.build(**kwargs)
    assert back.metadata["preprocess"].items() >= PIXELS.items()
    names = SafetensorsFile(tmp_path / "there" / "model.safetensors").shapes
    wanted = {
        "transformers": {
            "shared_image_embedding.positional_embedding": (2, 8),
            "vision_encoder.layers.0.attn.rel_pos_h": (5, 8),
            "mask_decoder.transformer.layers.1.cross_attn_token_to_image.out_proj.weight": (16, 8),
            "mask_decoder.upscale_conv2.weight": (4, 2, 2, 2),
        },
        "segment_anything": {
            "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": (2, 8),
            "image_encoder.neck.2.weight": (16, 16, 3, 3),
            "prompt_encoder.mask_downscaling.6.bias": (16,),
            "mask_decoder.output_hypernetworks_mlps.3.layers.2.weight": (2, 16),
        },
    }
    assert names.items() >= wanted[to].items()


@pytest.mark.long
def test_a_checkpoint_of_ours_holds_the_constant(models, tmp_path):
    source = models["segment_anything"]
    export(source, tmp_path / "file", "segment_anything")
    export(open_source(tmp_path / "file"), tmp_path / "run", "orbax")
    params, state = open_source(tmp_path / "run").read()
    np.testing.assert_array_equal(
        state["constants"]["prompts"]["fourier"], source.read()[1]["constants"]["prompts"]["fourier"]
    )
    assert "fourier" not in params["prompts"]


def test_vitdet_there_and_back(tmp_path):
    source = stored("vitdet", VITDET, {**PIXELS, "resize": "squash"} | {"anchor": "centre"})
    export(source, tmp_path / "there", "transformers")
    back = open_source(tmp_path / "there")
    jax.tree.map(np.testing.assert_array_equal, back.read()[0], source.read()[0])
    build = named_module("model", "vitdet").build
    assert build(**back.metadata["model"]["kwargs"]) == build(**VITDET)


@pytest.mark.long
def test_an_mae_and_any_vit_fill_the_encoder(tmp_path, models):
    """Positions bicubic, those that are computed too; relative ones stay zero, and so does what is behind the trunk."""
    vit = {"variant": "B/8", "width": 16, "depth": 3, "num_heads": 2, "mlp_dim": 32, "gelu": "exact"}
    mae = {"trunk": {"name": "vit", **vit, "posemb": "sincos2d_mae", "posemb_resize": "bicubic"},
           "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2, "num_classes": 0}  # fmt: skip
    pixels = {**PIXELS, "image_size": [24, 24], "resize": "squash"} | {"anchor": "centre"}
    fresh, state = (nested(shapes) for shapes in model_shapes("sam", SAM, (40, 40)))
    fresh = jax.tree.map(np.zeros, {"params": fresh, **state}, is_leaf=lambda x: isinstance(x, tuple))
    for name, kwargs in (("mae", mae), ("vit", {**vit, "num_classes": 0})):
        source = stored(name, kwargs, pixels)
        export(source, tmp_path / name, "transformers")
        encoder = source.read()[0]["encoder"]
        found, [report] = init_from(fresh, {"encoder": str(tmp_path / name)})
        held = sincos2d((3, 3), 16, **SINCOS2D["sincos2d_mae"]) if name == "mae" else encoder["pos_embedding"]
        resized = interpolate_posemb(held, (5, 5), "bicubic")
        np.testing.assert_allclose(found["params/encoder/pos_embedding"], resized, atol=1e-6)
        np.testing.assert_array_equal(
            found["params/encoder/block_02/mlp/fc1/kernel"], encoder["block_02"]["mlp"]["fc1"]["kernel"]
        )
        tables = {f"encoder/block_0{i}/attention/rel_pos_{axis}" for i in range(3) for axis in ("rows", "columns")}
        assert set(report.missing) == tables


def described_of(family, tensors, sidecar=None):
    return described(family, {name: x.shape for name, x in tensors.items()}, tensors.__getitem__, sidecar or Sidecar())


def test_what_does_not_fit_together_is_refused(models):
    params, state = models["transformers"].read()
    flat = {name: np.asarray(leaf) for name, leaf in _flat(params | state)}
    names = hf_sam.name_map(HF, {})
    tensors, files = names.write(flat), hf_sam.sidecar(models["transformers"].metadata)
    config = files["config.json"]

    def wrong(message, part, **values):
        changed = {**config, part: {**config[part], **values}} if part else {**config, **values}
        with pytest.raises(UserError, match=message):
            described_of(hf_sam, tensors, Sidecar(config=changed, preprocessor=files["preprocessor_config.json"]))

    wrong("says windows of 4 places, the tables of relative positions say 3", "vision_config", window_size=4)
    wrong(r"\[0, 1\] as global blocks, the tables of relative positions \[1\]", "vision_config",
          global_attn_indexes=[0, 1])  # fmt: skip
    wrong("says 4 heads", "vision_config", num_attention_heads=4)
    wrong("num_multimask_outputs", "mask_decoder_config", num_multimask_outputs=2)
    wrong("window_siz", "vision_config", window_siz=3)
    wrong("SAM 2 or 3", None, model_type="sam2")
    with pytest.raises(UserError, match="SAM 2 or 3"):
        described_of(hf_sam, {"memory_attention.layers.0.norm1.weight": np.zeros(3)})
    twice = {**tensors, "prompt_encoder.shared_embedding.positional_embedding": np.zeros((2, 8), np.float32)}
    with pytest.raises(UserError, match="positional_embedding' differ"):
        dict(names.read(twice.__getitem__, {name: x.shape for name, x in flat.items()}, "FILE"))
    smaller = dict(tensors)
    smaller["vision_encoder.layers.0.attn.rel_pos_h"] = np.zeros((7, 8), np.float32)
    with pytest.raises(UserError, match="relative positions are for maps of"):
        described_of(hf_sam, smaller)
    with pytest.raises(UserError, match="size"):
        described_of(hf_sam, tensors, Sidecar(config=config, preprocessor={"size": {"longest_edge": 30}}))
    with pytest.raises(UserError, match="does not say which blocks have windows"):
        described_of(hf_vitdet, {"embeddings.projection.weight": np.zeros((4, 3, 8, 8)),
                                 "encoder.layer.0.attention.qkv.weight": np.zeros((12, 4))})  # fmt: skip


def test_what_other_libraries_have_no_place_for():
    with_text = {"model": {"name": "sam", "kwargs": {**SAM, "text_width": 8}}, "preprocess": PIXELS}
    vit = {"name": "vit", "variant": "mu/8", "pooling": "mean"}
    on_a_vit = {"model": {"name": "sam", "kwargs": {**SAM, "trunk": vit}}, "preprocess": PIXELS}
    for metadata in (with_text, on_a_vit):
        assert sam_authors.sidecar(metadata) is None and hf_sam.sidecar(metadata) is None
    oblong = {"model": {"name": "sam", "kwargs": SAM}, "preprocess": {**PIXELS, "image_size": [40, 48]}}
    assert hf_sam.sidecar(oblong) is None


def _flat(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]
