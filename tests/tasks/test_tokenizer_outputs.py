"""What every tokenizer's task makes of its model's outputs."""

import jax
import numpy as np

from vit_jax.tasks import _tokenizer
from vit_jax.tasks._tokenizer import TokenizerTask


def test_images_come_out_in_0_to_1(monkeypatch):
    """Those of the codes alone too, of a tokenizer that has more than codes."""
    made = {name: np.float32([-1.5, -1, 0, 0.5, 1]).reshape(1, 5, 1, 1) for name in ("a", "b")}
    outputs = {"reconstruction": made["a"], "discrete_reconstruction": made["b"], "latents": np.ones((1, 1, 1, 2))}
    monkeypatch.setattr(_tokenizer, "model_outputs", lambda *_: outputs)
    names = frozenset({"reconstruction", "discrete_reconstruction", "original"})
    found = TokenizerTask(None, None).outputs({}, {"image": made["a"]}, names, None)
    assert set(found) == names
    for image in jax.device_get(found).values():
        np.testing.assert_array_equal(image.ravel(), np.float32([0, 0, 0.5, 0.75, 1]))
