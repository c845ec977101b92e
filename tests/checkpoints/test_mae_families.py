"""MAE with its decoder without any other library: what is written is read again, and its tables are looked at."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from vit_jax import UserError
from vit_jax.checkpoints.export import export, notes
from vit_jax.checkpoints.safetensors import SafetensorsFile, write_safetensors
from vit_jax.checkpoints.source import StoredModel, open_source
from vit_jax.naming import build_named
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.posemb import interpolate_posemb

TRUNK = {"name": "vit", "variant": "B/8", "width": 16, "depth": 1, "mlp_dim": 24, "num_heads": 2, "pooling": "token",
         "posemb": "sincos2d_mae", "gelu": "exact"}  # fmt: skip
TABLE = "decoder.decoder_pos_embed"


def run_of_ours(**trunk):
    """An untrained autoencoder as `open_source` gives a run, and its parameters."""
    kwargs = {"trunk": {**TRUNK, **trunk}, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2,
              "mask_ratio": 0.5}  # fmt: skip
    model = build_named("model", {"name": "mae", **kwargs}, "config.model")
    shapes = init_shapes(model.init, jax.random.key(0), jnp.zeros((1, 24, 24, 3)))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    preprocess = {"image_size": [24, 24], "resize": "squash", "interpolation": "bicubic"}
    metadata = {"model": {"name": "mae", "kwargs": kwargs}, "preprocess": preprocess, "labels": [],
                "image_size": [24, 24]}  # fmt: skip
    return StoredModel("run", metadata, lambda: (params, {})), params


@pytest.mark.parametrize("posemb", ["sincos2d_mae", "learn"])
def test_there_and_back(posemb, tmp_path):
    source, params = run_of_ours(posemb=posemb)
    export(source, tmp_path, "transformers")
    loaded = vit_jax.load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
    assert (
        loaded.model.encoder.positions.posemb == posemb
        and loaded.model.normalize_pixels
        and loaded.model.mask_ratio == 0.5
    )
    assert loaded.preprocess.image_size == (24, 24)


@pytest.mark.parametrize("value", [1e-3, np.nan])
def test_a_decoder_with_positions_of_its_own(value, tmp_path):
    export(run_of_ours()[0], tmp_path, "transformers")
    file = SafetensorsFile(tmp_path / "model.safetensors")
    tensors = {name: file[name].copy() for name in file.shapes}
    tensors[TABLE][0, 4, 3] += value
    write_safetensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(UserError, match=f"'{TABLE}' does not hold the positions.*3x3 patches.*encoder alone"):
        vit_jax.load(tmp_path)


def test_learned_positions_are_interpolated_as_the_trunk_says(tmp_path):
    source, params = run_of_ours(posemb="learn", posemb_resize="half_pixel")
    assert "with bicubic, this model with half_pixel" in notes(source, "transformers")[0]
    assert not notes(run_of_ours()[0], "transformers")
    export(source, tmp_path, "transformers")
    loaded = vit_jax.load(tmp_path, image_size=40)
    table = params["encoder"]["pos_embedding"]
    np.testing.assert_allclose(
        loaded.params["encoder"]["pos_embedding"], interpolate_posemb(table, (5, 5), "bicubic"), atol=1e-6
    )


def test_a_fixed_table_where_a_vit_has_learned_positions(tmp_path):
    """A vit's positions can be taken for fixed ones, but only where they are."""
    export(run_of_ours()[0], tmp_path, "transformers")
    file = SafetensorsFile(tmp_path / "model.safetensors")
    tensors = {name: file[name].copy() for name in file.shapes if not name.startswith("decoder.")}
    (tmp_path / "model.safetensors").unlink()
    write_safetensors(tmp_path / "model.safetensors", tensors)
    assert open_source(tmp_path).metadata["model"]["name"] == "vit"
    assert "pos_embedding" in vit_jax.load(tmp_path).params["encoder"]
    fixed = vit_jax.load(tmp_path, overrides={"posemb": "sincos2d_mae"})
    assert "pos_embedding" not in fixed.params["encoder"]
    with pytest.raises(UserError, match=r"position_embeddings' does not hold the positions.*\(sincos2d_moco\)"):
        vit_jax.load(tmp_path, overrides={"posemb": "sincos2d_moco"})
