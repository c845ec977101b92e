"""Visual prompt tuning, against a ViT whose registers are the prompts, and against its blocks one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.loaded import loaded_model
from vit_jax import UserError
from vit_jax.data.preprocess import Preprocess
from vit_jax.inspection.extract import attention_weights
from vit_jax.models import vit, vpt
from vit_jax.naming import build_named
from vit_jax.nn.block import Block
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.norm import NORMS

TRUNK = {"variant": "mu/4", "width": 16, "depth": 3, "mlp_dim": 24, "num_heads": 2, "pooling": "token_mean"}
IMAGES = np.random.default_rng(7).standard_normal((2, 8, 8, 3)).astype(np.float32)
COUNT = 3


def build(deep=False, **trunk):
    return vpt.build(TRUNK | trunk, num_classes=4, num_prompts=COUNT, deep=deep)


def random_params(model):
    shapes = init_shapes(lambda: model.init(jax.random.key(0), IMAGES))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: (0.4 * rng.standard_normal(x.shape)).astype(np.float32), shapes)


def applied(model, params):
    return jax.jit(model.apply)({"params": params}, IMAGES)


@pytest.mark.long
def test_shallow_prompts_are_registers_in_another_place():
    model, plain = build(), vit.build(**TRUNK, num_classes=4, num_registers=COUNT)
    params = random_params(model)
    assert set(params) == {"encoder", "head", "prompts"} and params["prompts"].shape == (1, COUNT, 16)
    same = {k: v for k, v in params.items() if k != "prompts"}
    same["encoder"] = {**same["encoder"], "registers": params["prompts"]}
    ours, theirs = applied(model, params), applied(plain, same)
    for name in ("features", "logits"):
        np.testing.assert_allclose(ours[name], theirs[name], atol=2e-5)
    assert ours["tokens"].shape == (2, 5, 16)
    np.testing.assert_allclose(ours["tokens"][:, 1:], theirs["tokens"][:, 1 + COUNT :], atol=2e-5)
    # What looks inside finds them where it finds registers.
    looked = (loaded_model(m, p, "abcd", Preprocess((8, 8))) for m, p in ((model, params), (plain, same)))
    np.testing.assert_allclose(*(attention_weights(each, IMAGES) for each in looked), atol=2e-5)


def test_each_block_finds_deep_prompts_of_its_own():
    model = build(deep=True)
    params = random_params(model)
    assert params["prompts"].shape == (3, COUNT, 16)
    found, trunk = applied(model, params), model.encoder.clone(depth=0)

    @jax.jit
    def one_by_one(encoder, prompts):
        x = trunk.apply({"params": encoder}, IMAGES, final_norm=False)
        for i in range(3):
            x = jnp.concatenate([x[:, :5], jnp.broadcast_to(prompts[i], (2, COUNT, 16))], axis=1)
            x, _ = Block(trunk.style).apply({"params": encoder[f"block_{i:02d}"]}, x)
        norm = NORMS[trunk.style.norm_kind](trunk.style.norm_epsilon)
        return norm.apply({"params": encoder["norm"]}, x[:, :5])

    expected = one_by_one(params["encoder"], params["prompts"])
    np.testing.assert_allclose(found["tokens"], expected, atol=2e-5)
    scanned = applied(build(deep=True, scan=True, remat="full"), params)
    np.testing.assert_allclose(scanned["logits"], found["logits"], atol=2e-5)


def test_prompts_start_as_the_authors_draw_them():
    prompts = build()._start(jax.random.key(0), (3, 100, 16))
    bound = (6 / (3 * 4 * 4 + 16)) ** 0.5
    assert 0.95 * bound < abs(prompts).max() <= bound
    assert build().layers()[0][-1] == "prompts"
    assert build().flops((8, 8)) > vit.build(**TRUNK, num_classes=4).flops((8, 8))


def test_only_a_vit_takes_prompts():
    with pytest.raises(UserError, match="Prompts are tokens of a ViT, and 'swin' is none"):
        build_named("model", {"name": "vpt", "trunk": {"name": "swin", "variant": "T"}}, "config.model", num_classes=2)
    with pytest.raises(UserError, match=r"config\.model\.num_prompts is 0"):
        build_named("model", {"name": "vpt", "trunk": TRUNK, "num_prompts": 0}, "config.model", num_classes=2)
