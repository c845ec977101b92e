"""Families that the other libraries test in tests/parity, by themselves: each reads again what it writes."""

import re

import jax
import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.checkpoints.families import dit_authors, google_hybrid, timm_hybrid, timm_vgg
from vit_jax.checkpoints.published import Sidecar
from vit_jax.naming import build_named
from vit_jax.nn.example_inputs import example_inputs
from vit_jax.nn.init_shapes import init_shapes

HYBRID = {"name": "hybrid", "variant": "R26+S/32", "stage_sizes": [1, 1], "width": 24, "depth": 1, "num_heads": 1,
          "mlp_dim": 8, "num_classes": 3}  # fmt: skip
DIT = {"name": "dit", "variant": "S/2", "width": 8, "depth": 1, "num_heads": 2, "mlp_dim": 12, "num_classes": 3,
       "grid_side": 4}  # fmt: skip
VGG = {"name": "vgg", "variant": "16", "depths": [1, 2], "width": 4, "hidden": 6, "num_classes": 3}
# With a name that the file must have, and what else tells the family.
CASES = {
    "dit_authors": (dit_authors, DIT, 8, "blocks.0.adaLN_modulation.1.weight", {"num_heads": 2}),
    "google_hybrid": (google_hybrid, HYBRID, 64, "block2/unit1/conv_proj/kernel", {}),
    "timm_hybrid": (timm_hybrid, HYBRID | timm_hybrid._STYLE, 64, "patch_embed.backbone.stages.1.blocks.0.conv3.weight",
                    {}),
    "timm_vgg": (timm_vgg, VGG, 32, "features.5.bias", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_is_read_again(name):
    family, section, side, named, said = CASES[name]
    kwargs = {key: value for key, value in section.items() if key != "name"}
    model = build_named("model", section, "config.model")
    shapes = init_shapes(model.init, jax.random.key(0), *example_inputs(model, (side, side)))["params"]
    rng = np.random.default_rng(0)
    params = {
        jax.tree_util.keystr(path, simple=True, separator="/"): rng.normal(size=leaf.shape).astype(np.float32)
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
    }
    tensors = family.name_map(kwargs, {}).write(params)
    assert named in tensors
    published = family.describe({key: x.shape for key, x in tensors.items()}, Sidecar(config=said))
    assert published.model == section["name"]
    names = family.name_map(published.kwargs, published.layout)
    names.check(tensors, "FILE")
    again = dict(names.read(tensors.__getitem__, {key: x.shape for key, x in params.items()}, "FILE"))
    assert again.keys() == params.keys()
    for key, array in params.items():
        np.testing.assert_array_equal(again[key], array, err_msg=key)
    del tensors[named]
    with pytest.raises(UserError, match=re.escape(named)):
        names.check(tensors, "FILE")
