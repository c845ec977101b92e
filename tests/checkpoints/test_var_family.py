"""VAR's files: a tokenizer, a transformer, and both in one file, from which images are drawn; parity is in
tests/parity."""

import jax
import numpy as np
import pytest
from etils import epath

import vit_jax
from vit_jax import UserError
from vit_jax.checkpoints.export import export
from vit_jax.checkpoints.safetensors import SafetensorsFile
from vit_jax.checkpoints.source import StoredModel, model_shapes, nested, open_source
from vit_jax.models import var, var_tokenizer
from vit_jax.tasks.var import ScaleSampling

TOKENIZER = {"scales": [1, 2, 4], "vocab_size": 12, "latent_width": 4, "channels": 32, "multipliers": [1, 1],
             "num_blocks": 1, "phis": 3}  # fmt: skip
MODEL = {"depth": 1, "width": 16, "num_heads": 2, "gate_init": 1e-3}
GIVEN = {"grids": [[1, 1], [2, 2], [4, 4]], "num_classes": 3, "vocab_size": 12, "latent_width": 4}
PIXELS = {"image_size": [8, 8], "resize": "short_side", "resize_to": 9, "interpolation": "lanczos",
          "mean": [127.5] * 3, "std": [127.5] * 3}  # fmt: skip


def stored(name, kwargs, task=None, beside=None):
    rng = np.random.default_rng(0)
    shapes = model_shapes(name, kwargs, PIXELS["image_size"])[0]
    for subtree, (other, arguments) in (beside or {}).items():
        more = model_shapes(other, arguments, PIXELS["image_size"])[0]
        shapes |= {f"{subtree}/{name}": shape for name, shape in more.items()}
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    metadata = {"model": {"name": name, "kwargs": kwargs}, "task": task, "preprocess": PIXELS, "labels": [*"abc"],
                "image_size": PIXELS["image_size"]}  # fmt: skip
    return StoredModel(epath.Path("memory"), metadata, lambda: (nested(params), {}))


def test_a_tokenizer_there_and_back(tmp_path):
    source = stored("var_tokenizer", TOKENIZER)
    export(source, tmp_path / "there", "var")
    back = open_source(tmp_path / "there")
    jax.tree.map(np.testing.assert_array_equal, back.read(), source.read())
    assert var_tokenizer.build(**back.metadata["model"]["kwargs"]) == var_tokenizer.build(**TOKENIZER)
    assert back.metadata["preprocess"].items() >= PIXELS.items() and back.metadata["task"]["name"] == "tokenizer"
    # As many convolutions as scales have the names of one each.
    assert "quantize.quant_resi.2.weight" in SafetensorsFile(tmp_path / "there" / "model.safetensors").shapes
    with pytest.raises(UserError, match="var has no place for this var_tokenizer"):
        export(stored("var_tokenizer", {**TOKENIZER, "phis": 0}), tmp_path / "none", "var")


@pytest.mark.parametrize("shared", [False, True])
def test_a_transformer_there_and_back(tmp_path, shared):
    kwargs = {**GIVEN, **MODEL, "shared_modulation": shared}
    source = stored("var", kwargs)
    export(source, tmp_path / "there", "var")
    back = open_source(tmp_path / "there")
    jax.tree.map(np.testing.assert_array_equal, back.read(), source.read())
    built, wanted = (var.build(**{**k, "gate_init": 1.0}) for k in (back.metadata["model"]["kwargs"], kwargs))
    assert built == wanted
    (tmp_path / "there" / "config.json").unlink()
    with pytest.raises(UserError, match="21 tokens, which are not those of 256"):
        open_source(tmp_path / "there")
    (tmp_path / "there" / "config.json").write_text('{"patch_nums": [1, 2, 3]}')
    with pytest.raises(UserError, match=r"patch_nums.*21 tokens in 3 maps"):
        open_source(tmp_path / "there")


@pytest.mark.long
def test_a_file_of_both_draws_images(tmp_path):
    """What a run of ours becomes, and what can be made of a checkpoint of the authors' training."""
    section = {"name": "var_tokenizer", **TOKENIZER}
    task = {"name": "var", "kwargs": {"tokenizer": section, "model": {"name": "var", **MODEL}}}
    source = stored("var", {**GIVEN, **MODEL}, task, {"tokenizer": ("var_tokenizer", TOKENIZER)})
    export(source, tmp_path / "there", "var")
    names = SafetensorsFile(tmp_path / "there" / "model.safetensors").shapes
    assert {name.split(".")[0] for name in names} == {"var_wo_ddp", "vae_local"}

    back = vit_jax.load(tmp_path / "there")
    jax.tree.map(np.testing.assert_array_equal, back.params, source.read()[0])
    drawn = back.sample(2, top_k=5)
    assert drawn.images.shape == (2, 8, 8, 3)
    assert drawn.conditions["label"].tolist() == [0, 1] and back.task.sampling is ScaleSampling
