"""`vit_jax.create_model` and what the package shows: a model by its name, in a few lines."""

import ast
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from vit_jax import UserError

TOP = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def created():
    return vit_jax.create_model("mu/16", num_classes=10, image_size=32, seed=3, dropout_rate=0.1)


@pytest.mark.long
def test_a_model_in_five_lines(created):
    images = np.random.default_rng(0).standard_normal((2, 32, 32, 3), np.float32)
    applied = created.model.apply({"params": created.params}, images)
    np.testing.assert_allclose(created.logits(images), applied["logits"], atol=1e-6)
    assert created.features(images).shape == (2, 32)
    assert created.labels == tuple(map(str, range(10)))
    assert created.preprocess(np.zeros((40, 50, 3), np.uint8)).shape == (32, 32, 3)
    assert {x.dtype for x in jax.tree.leaves(created.params)} == {np.dtype("float32")}


def test_parameters_are_those_that_flax_draws(created):
    init = jax.jit(lambda key: created.model.init(key, np.zeros((1, 32, 32, 3), np.float32))["params"])
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), created.params, init(jax.random.key(3)))
    assert isinstance(created.model, vit_jax.ViT)


def test_defaults_statistics_and_no_head():
    # Shapes only: what is asked of the module, not what is drawn.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flax.linen.Module.lazy_init", lambda self, *args, **kwargs: {"params": {}, "batch_stats": {}})
        plain, headless = vit_jax.create_model("Ti/16"), vit_jax.create_model("resnet:18", num_classes=0)
        half = vit_jax.create_model("swin:T", dtype="bfloat16", drop_path_rate=0.2)
    assert (plain.model.num_classes, plain.metadata["image_size"]) == (1000, [224, 224])
    assert type(headless.task).__name__ == "Features" and headless.model_state == {"batch_stats": {}}
    assert half.model.encoder.execution.dtype == jnp.bfloat16 and half.model.encoder.drop_path_rate == 0.2


@pytest.mark.parametrize(
    ("name", "given", "sentence"),
    [
        ("B17", {}, "There is no model named 'B17'"),
        ("vit:B17", {}, "There is no ViT 'B17'. Did you mean 'B/16'?"),
        (
            "vit_base_patch16_224",
            {},
            "is a name of weights. Its weights: vit_jax.load('hf://timm/vit_base_patch16_224.",
        ),
        (
            "google/vit-base-patch16-224",
            {},
            "Its weights: vit_jax.load('hf://google/vit-base-patch16-224'). New parameters: create_model('vit:B/16')",
        ),
        ("sd-vae-ft-mse", {}, "Its weights: vit_jax.load('hf://stabilityai/sd-vae-ft-mse')."),
        ("B/16", {"patchsize": 8}, "Unknown key 'create_model.patchsize'"),
        ("B/16", {"pretrained": True}, "create_model draws new parameters"),
        ("B/16", {"image_size": 0}, "0"),
        ("B/16", {"dtype": "float8"}, "float8"),
        ("B/16", {"seed": "x"}, "create_model.seed is 'x'. It must be a whole number"),
        ("B/16", {"num_classes": "x"}, "create_model.num_classes is 'x'"),
    ],
)
def test_what_cannot_be_made(name, given, sentence):
    with pytest.raises(UserError) as error:
        vit_jax.create_model(name, **given)
    assert sentence in str(error.value)


def test_the_package_shows_all_that_it_has():
    assert set(vit_jax.__all__) <= set(dir(vit_jax))
    for name in vit_jax.__all__:
        assert getattr(vit_jax, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = vit_jax.lod


def test_it_is_typed():
    """The marker of PEP 561 is there, is installed, and type checkers see every name of the package."""
    assert (TOP / "vit_jax" / "py.typed").is_file()
    assert '"vit_jax": ["py.typed"]' in (TOP / "setup.py").read_text(encoding="utf-8")
    tree = ast.parse((TOP / "vit_jax" / "__init__.py").read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(vit_jax.__all__) <= imported
