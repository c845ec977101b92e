"""The architectures of timm and transformers at their full sizes, by names and shapes; nothing is allocated."""

import numpy as np
import pytest

from tests.parity import oracle
from vit_jax.checkpoints.families import hf_bit, timm_hybrid, timm_mixer, timm_resnetv2
from vit_jax.checkpoints.published import Sidecar

torch = pytest.importorskip("torch", reason="compares with torch")
timm = pytest.importorskip("timm", reason="compares with timm")
transformers = pytest.importorskip("transformers", reason="compares with transformers")

pytestmark = pytest.mark.oracle

TIMM = [
    ("resnetv2_50x1_bit", timm_resnetv2, "R50x1", 224),
    ("resnetv2_50x3_bit", timm_resnetv2, "R50x3", 224),
    ("resnetv2_101x1_bit", timm_resnetv2, "R101x1", 224),
    ("resnetv2_101x3_bit", timm_resnetv2, "R101x3", 224),
    ("resnetv2_152x2_bit", timm_resnetv2, "R152x2", 224),
    ("resnetv2_152x4_bit", timm_resnetv2, "R152x4", 224),
    ("mixer_s32_224", timm_mixer, "S/32", 224),
    ("mixer_b16_224", timm_mixer, "B/16", 224),
    ("mixer_l16_224", timm_mixer, "L/16", 224),
    ("vit_tiny_r_s16_p8_224", timm_hybrid, "R+Ti/16", 224),
    ("vit_tiny_r_s16_p8_384", timm_hybrid, "R+Ti/16", 384),
    ("vit_small_r26_s32_224", timm_hybrid, "R26+S/32", 224),
    ("vit_base_r26_s32_224", timm_hybrid, "R26+B/32", 224),
    ("vit_base_r50_s16_384", timm_hybrid, "R50+B/16", 384),
    ("vit_large_r50_s32_384", timm_hybrid, "R50+L/32", 384),
]


def assert_covers(family, model, sidecar, variant, size):
    """Our model of the same name has as many parameters, and the map names every tensor once."""
    shapes = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    published = family.describe(shapes, sidecar)
    assert published.kwargs["variant"] == variant
    assert published.preprocess["image_size"] == [size, size]
    names = family.name_map(published.kwargs, published.layout)
    names.check(shapes, "file")
    ours = oracle.shapes_of(oracle.build(published.model, published.kwargs), (size, size))
    mapped = [name for entry in names.entries for name in entry.ours]
    assert sorted(mapped) == sorted(ours)
    assert sum(map(np.prod, ours.values())) == sum(map(np.prod, shapes.values()))
    files = family.sidecar(oracle.metadata(published.model, published.kwargs, (size, size)))
    again = family.describe(shapes, Sidecar(files["config.json"], files.get("preprocessor_config.json", {})))
    assert again.kwargs == published.kwargs and again.preprocess["image_size"] == [size, size]


@pytest.mark.parametrize(("architecture", "family", "variant", "size"), TIMM, ids=[row[0] for row in TIMM])
def test_timm(architecture, family, variant, size):
    with torch.device("meta"):
        model = timm.create_model(architecture, num_classes=7)
    config = {"architecture": architecture, "pretrained_cfg": {"input_size": [3, size, size]}}
    assert_covers(family, model, Sidecar(config), variant, size)


def test_transformers():
    with torch.device("meta"):
        model = transformers.BitForImageClassification(transformers.BitConfig(num_labels=7))
    assert_covers(hf_bit, model, Sidecar(model.config.to_dict()), "R50x1", 224)
