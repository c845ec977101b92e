"""What layers inside a model give: by number, by name, however the model runs."""

import functools

import jax
import numpy as np
import pytest

from tests.loaded import loaded_model
from vit_jax import UserError
from vit_jax.data.preprocess import Preprocess
from vit_jax.models import resnet, swin, vit
from vit_jax.nn.init_shapes import init_shapes

SIZES = {"vit": (16, 8), "swin": (16, 16), "resnet": (32, 32)}


@functools.cache
def made(name, **kwargs):
    build = {
        "vit": lambda: vit.build("mu/4", num_classes=3, width=16, depth=4, mlp_dim=16, **kwargs),
        "swin": lambda: swin.build(num_classes=3, width=8, depths=(2, 2), num_heads=(1, 2), window_size=2, **kwargs),
        "resnet": lambda: resnet.build("18", num_classes=3, width=8, **kwargs),
    }
    model, image = build[name](), np.zeros((1, *SIZES[name], 3), np.float32)
    shapes = init_shapes(lambda: model.init(jax.random.key(0), image))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: rng.uniform(0.1, 1, x.shape).astype(np.float32), shapes)
    loaded = loaded_model(model, variables.pop("params"), ("a", "b", "c"), Preprocess(SIZES[name]))
    loaded.variables["model_state"].update(variables)
    return loaded


@pytest.fixture(scope="module")
def images():
    return {n: np.random.default_rng(1).standard_normal((2, *size, 3), np.float32) for n, size in SIZES.items()}


@pytest.mark.long
def test_of_a_vit(images):
    """The last block, normalised, is the model's tokens; loop, scan and rematerialisation agree."""
    loaded = made("vit")
    first, last, named = loaded.intermediate(images["vit"], [0, -1, "encoder/block_00"])
    assert first.shape == last.shape == (2, 9, 16)
    np.testing.assert_array_equal(first, named)
    norm = loaded.params["encoder"]["norm"]
    normalised = (last - last.mean(-1, keepdims=True)) / np.sqrt(last.var(-1, keepdims=True) + 1e-6)
    tokens = loaded.outputs(images["vit"], ("tokens",))["tokens"]
    np.testing.assert_allclose(normalised * norm["scale"] + norm["bias"], tokens, atol=1e-5)
    scanned = made("vit", scan=True, remat="full")
    for ours, theirs in zip(scanned.intermediate(images["vit"], [0, -1]), (first, last), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    [inside] = loaded.intermediate(images["vit"], "encoder/block_03/mlp")
    assert inside.shape == (2, 9, 16)


def test_bytes_are_prepared_as_for_outputs(images):
    loaded, pixels = made("vit"), np.random.default_rng(2).integers(0, 256, (2, 16, 8, 3), np.uint8)
    of_bytes = loaded.intermediate({"image": pixels}, [1])[0]
    of_floats = loaded.intermediate(np.stack([loaded.preprocess(image) for image in pixels]), [1])[0]
    np.testing.assert_allclose(of_bytes, of_floats, atol=1e-5)


@pytest.mark.long
def test_of_stages_and_maps(images):
    """Swin's blocks and a ResNet's units are counted over all stages; the maps are those of the trunk."""
    loaded = made("swin")
    maps = loaded.maps(images["swin"])
    assert {stride: x.shape for stride, x in maps.items()} == {4: (2, 4, 4, 8), 8: (2, 2, 2, 16)}
    assert list(maps) == [4, 8]
    second, third = loaded.intermediate(images["swin"], [1, 2])
    np.testing.assert_allclose(second.reshape(2, 4, 4, 8), maps[4], atol=1e-5)
    assert third.shape == (2, 4, 16)
    loaded = made("resnet")
    last, unit = loaded.intermediate(images["resnet"], [-1, "encoder/stage4_unit02"])
    np.testing.assert_array_equal(last, unit)
    np.testing.assert_allclose(last, loaded.maps(images["resnet"])[32], rtol=1e-5)


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        (4, "There is no layer 4. This model has 4: 0 to 3, and from the end -1 to -4."),
        (-5, "There is no layer -5"),
        ("encoder/blok_03", "There is no layer named 'encoder/blok_03'. Did you mean 'encoder/block_03'?"),
        ("--3", "There is no layer named '--3'"),
        ("²", "There is no layer named '²'"),
        ("head/kernel", "There is no layer named 'head/kernel'"),
    ],
)
def test_layers_that_are_not_there(layer, sentence, images):
    with pytest.raises(UserError) as error:
        made("vit").intermediate(images["vit"], [layer])
    assert sentence in str(error.value)
