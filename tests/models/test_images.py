"""What every model says to images that nobody has normalised."""

import jax
import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.naming import build_named

MODELS = {
    "vit": {"variant": "mu/4", "depth": 1},
    "mixer": {"variant": "B/4", "width": 8, "depth": 1, "tokens_mlp_dim": 8, "channels_mlp_dim": 8},
    "resnet": {"variant": 18, "width": 8, "stem": "cifar"},
    "efficientvit": {"variant": "B0"},
    "bit": {"variant": "R50x1", "width": 32, "stage_sizes": [1]},
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("images", "message"),
    [(np.zeros((1, 8, 8, 3), np.uint8), "normalised images of floats, these are uint8"),
     (np.zeros((8, 8, 3), np.float32), r"\[B, H, W, C\], these are \[8, 8, 3\]. Give one image as images\[None\]")],
)  # fmt: skip
def test_bytes_and_single_images_are_refused(name, images, message):
    model = build_named("model", {"name": name, **MODELS[name]}, "model", num_classes=2)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(lambda: model.init(jax.random.key(0), images))
