"""Models as ONNX files by jax2onnx, in onnxruntime: outputs within 1e-4 of ours, or a sentence and no file."""

import dataclasses
import importlib.util

import jax
import numpy as np
import pytest

import vit_jax
from tests.drawn import drawn
from tests.loaded import loaded_model
from tests.models import test_bit, test_efficientvit, test_swin
from tests.tiny import untrained
from tests.tiny_pairs import pairs_config
from vit_jax.checkpoints.parts.hf_clip import tower_arguments
from vit_jax.checkpoints.serving.exported import load_exported
from vit_jax.checkpoints.serving.program import Program
from vit_jax.checkpoints.serving.text_program import TextProgram
from vit_jax.checkpoints.serving.writing import export_program, pictures
from vit_jax.data.preprocess import Preprocess
from vit_jax.errors import UserError
from vit_jax.models import bit, efficientvit, mae, resnet, swin, vit

needed = pytest.mark.skipif(importlib.util.find_spec("jax2onnx") is None, reason="needs jax2onnx")
SMALL = {"variant": "mu/4", "width": 16, "depth": 2, "mlp_dim": 16}
CLIP = tower_arguments(SMALL, {"activation": "quick_gelu", "norm_epsilon": 1e-5})
# Whether the batch size may be open, and the model for images of 32 pixels.
MODELS = {
    "vit": (True, lambda: vit.build(num_classes=3, **SMALL)),
    "clip's image tower": (True, lambda: vit.build(**CLIP)),
    "mae's encoder": (True, lambda: mae.build({"name": "vit", **SMALL}, decoder_width=16, decoder_depth=1, decoder_heads=2)),
    "resnet": (True, lambda: resnet.build("50", num_classes=3, depths=[1, 1], width=8)),
    "bit": (True, lambda: bit.build(num_classes=3, **test_bit.TINY)),
    "swin": (False, lambda: swin.build(num_classes=3, **test_swin.TINY)),
    "efficientvit": (True, lambda: efficientvit.build(num_classes=3, **test_efficientvit.TINY)),
}  # fmt: skip


def program_of(name, batch_size, preprocessing="normalize"):
    _, build = MODELS[name]
    model = build()
    variables = drawn(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    params, state = variables["params"], {key: x for key, x in variables.items() if key != "params"}
    labels = ("a", "b", "c") if getattr(model, "num_classes", 0) else ()
    preprocess = Preprocess((32, 32), "short_side", 36, "bicubic")
    loaded = loaded_model(model, params, labels, preprocess, {"model": {"name": name, "kwargs": {}}, "task": None})
    loaded = dataclasses.replace(loaded, variables={"params": params, "model_state": state})
    return Program(loaded, preprocessing=preprocessing, batch_size=batch_size)


@needed
@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_the_model_s(name, tmp_path):
    open_batch, _ = MODELS[name]
    program = program_of(name, None if open_batch else 2)
    about = export_program(program, tmp_path / "served", "onnx")
    assert max(about["checked"]["differences"].values()) < 1e-5
    exported, images = load_exported(tmp_path / "served"), pictures(np.random.default_rng(2), 2, (32, 32))
    for output, ours in program.loaded.outputs({"image": images}, program.names).items():
        theirs = exported(images)[output]
        np.testing.assert_allclose(theirs, ours, atol=1e-5 * float(np.abs(ours).max()))


@needed
def test_what_is_not_converted(tmp_path):
    program = program_of("swin", None)
    with pytest.raises(UserError, match="jax2onnx cannot convert this model: .* Give a batch size, or use stablehlo"):
        export_program(program, tmp_path / "served", "onnx")
    with pytest.raises(UserError, match="An ONNX file resizes no images"):
        export_program(dataclasses.replace(program, preprocessing="resize"), tmp_path / "served", "onnx")
    assert list(tmp_path.iterdir()) == []


@needed
def test_a_tower_of_texts_is_the_model_s(tmp_path):
    """CLIP's, which takes tokens alone, for any number of texts."""
    loaded = vit_jax.load(untrained(tmp_path / "run", pairs_config(tmp_path), signed=True), part="text")
    program = TextProgram(loaded, ("features",))
    about = export_program(program, tmp_path / "served", "onnx")
    assert about["checked"]["differences"]["features"] < 1e-5
    exported = load_exported(tmp_path / "served")
    rows = exported.prepare(["red", "a blue", "0"])
    ours = loaded.outputs(loaded.tokenize(["red", "a blue", "0"]), ("features",))["features"]
    np.testing.assert_allclose(exported(rows)["features"], ours, atol=1e-5)
