"""Models as TensorFlow's SavedModel: outputs within 1e-4 of ours, for any batch size and any size of image."""

import numpy as np
import pytest

from tests.parity.test_onnx import program_of
from vit_jax.checkpoints.serving.exported import load_exported
from vit_jax.checkpoints.serving.writing import export_program, pictures

pytest.importorskip("tensorflow")


@pytest.mark.parametrize("preprocessing", ["normalize", "resize"])
def test_outputs_are_the_model_s(preprocessing, tmp_path):
    program = program_of("vit", None, preprocessing)
    about = export_program(program, tmp_path / "served", "savedmodel", ("cpu",))
    assert max(about["checked"]["differences"].values()) < 1e-5 and about["checked"].get("pixels", 0) < 0.01
    exported = load_exported(tmp_path / "served")
    image = pictures(np.random.default_rng(2), 1, (45, 77) if preprocessing == "resize" else (32, 32))
    ours = program.loaded.logits(np.stack([program.loaded.preprocess(image[0])]))
    found = exported(exported.prepare(list(image)))["logits"]
    # Where the program resizes, some pixels are a level off.
    np.testing.assert_allclose(found, ours, atol=(0.02 if preprocessing == "resize" else 1e-5) * np.abs(ours).max())
