"""The ViT: published sizes, an independent forward pass, options, precision, and errors."""

import functools
import itertools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from vit_jax import naming
from vit_jax.errors import UserError
from vit_jax.models.vit import Positions, Tokens, ViT, build
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.style import BlockStyle, Execution

# This generator compiles several times faster than the default one.
KEY = jax.random.key(0, impl="rbg")


def random_params(model, images, seed=0):
    """Parameters of which every leaf is random, so that none hides behind its initial zero or one."""
    rng = np.random.default_rng(seed)
    shapes = init_shapes(model.init, KEY, images)["params"]

    def draw(path, leaf):
        mean = 1.0 if path[-1].key == "scale" else 0.0  # large enough activations for the two GELUs to differ
        return rng.normal(mean, 0.2, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def random_images(*shape):
    return np.random.default_rng(9).normal(size=shape).astype(np.float32)


def tiny_encoder(patch_size=(4, 4), **kwargs):
    values = {"width": 16, "depth": 2, "mlp_dim": 24, "num_heads": 2, "class_token": True, **kwargs}
    encoder = build("B/4", num_classes=0, pooling="mean", **values).encoder
    return encoder.clone(patch_size=patch_size)


def reference(model, params, images):
    """A second ViT, in float64 NumPy with loops over blocks and heads."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    encoder, style = model.encoder, model.encoder.style
    heads, tokens, positions = style.num_heads, encoder.tokens, encoder.positions

    def norm(x, p):
        centred = x - x.mean(-1, keepdims=True)
        variance = (centred**2).mean(-1, keepdims=True)
        return centred / np.sqrt(variance + style.norm_epsilon) * p["scale"] + p["bias"]

    def attend(x_q, x_kv, p):
        out = np.zeros_like(x_q) + p["out"]["bias"]
        for h in range(heads):
            q, k, v = (
                x @ p[name]["kernel"][:, h] + (p[name]["bias"][h] if "bias" in p[name] else 0)
                for name, x in (("query", x_q), ("key", x_kv), ("value", x_kv))
            )
            logits = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            out += weights / weights.sum(-1, keepdims=True) @ v @ p["out"]["kernel"][h]
        return out

    def mlp(x, p):
        if "gate" in p:
            gate = x @ p["gate"]["kernel"] + p["gate"]["bias"]
            x = gate / (1 + np.exp(-gate)) * (x @ p["fc1"]["kernel"] + p["fc1"]["bias"])
            return x @ p["fc2"]["kernel"] + p["fc2"]["bias"]
        x = x @ p["fc1"]["kernel"] + p["fc1"]["bias"]
        if style.activation == "gelu_exact":
            x = 0.5 * x * (1 + scipy.special.erf(x / np.sqrt(2)))
        else:
            x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        return x @ p["fc2"]["kernel"] + p["fc2"]["bias"]

    e = params["encoder"]
    patch_h, patch_w = encoder.patch_size
    batch, rows, columns = images.shape[0], images.shape[1] // patch_h, images.shape[2] // patch_w
    patches = images.astype(np.float64).reshape(batch, rows, patch_h, columns, patch_w, 3).swapaxes(2, 3)
    flat_kernel = e["embedding"]["kernel"].reshape(-1, encoder.width)
    x = patches.reshape(batch, rows * columns, -1) @ flat_kernel + (e["embedding"]["bias"] if encoder.patch_bias else 0)
    if positions.posemb == "learn":
        x = x + e["pos_embedding"].reshape(-1, encoder.width)
    else:
        omega = 1e4 ** (-np.arange(encoder.width // 4) / (encoder.width // 4 - 1))
        row, column = np.repeat(np.arange(rows), columns)[:, None], np.tile(np.arange(columns), rows)[:, None]
        waves = (np.sin(column * omega), np.cos(column * omega), np.sin(row * omega), np.cos(row * omega))
        x = x + np.concatenate(waves, axis=1)
    prefix = []
    if tokens.class_token:
        prefix.append(e["cls"] + (e["cls_pos_embedding"] if positions.class_token_posemb else 0))
    if tokens.distillation_token:
        prefix.append(e["distillation"] + e["distillation_pos_embedding"])
    if tokens.num_registers:
        prefix.append(e["registers"])
    x = np.concatenate([*(np.repeat(token, batch, axis=0) for token in prefix), x], axis=1)
    if encoder.embedding_norm:
        x = norm(x, e["norm_embedding"])
    for i in range(encoder.depth):
        p = e[f"block_{i:02d}"]
        y = norm(x, p["norm1"])
        x = x + attend(y, y, p["attention"]) * p.get("layer_scale1", 1)
        x = x + mlp(norm(x, p["norm2"]), p["mlp"]) * p.get("layer_scale2", 1)
    count, tokens = int(tokens.class_token), norm(x, e["norm"]) if not model.fc_norm else x
    if model.pooling == "distilled":
        heads_of = [
            tokens[:, i] @ params[name]["kernel"] + params[name]["bias"]
            for i, name in enumerate(("head", "distillation_head"))
        ]
        each = np.stack(heads_of, axis=1)
        return {"tokens": tokens, "features": tokens[:, :2].mean(1), "logits": each.mean(1), "head_logits": each}
    if model.pooling == "token":
        x = tokens[:, 0]
    elif model.pooling == "mean":
        x = tokens[:, -rows * columns :].mean(1)
    elif model.pooling == "token_mean":
        x = np.concatenate([tokens[:, 0], tokens[:, -rows * columns :].mean(1)], axis=1)
    else:
        tokens_seen = np.concatenate([tokens[:, :count], tokens[:, -rows * columns :]], axis=1)
        x = attend(np.repeat(params["pool"]["probe"], batch, axis=0), tokens_seen, params["pool"]["attention"])
        x = (x + mlp(norm(x, params["pool"]["norm"]), params["pool"]["mlp"]))[:, 0]
    if model.fc_norm:
        x = norm(x, params["fc_norm"])
    if model.representation_size:
        x = np.tanh(x @ params["pre_logits"]["kernel"] + params["pre_logits"]["bias"])
    return {"tokens": tokens, "features": x, "logits": x @ params["head"]["kernel"] + params["head"]["bias"]}


@pytest.mark.parametrize(
    "model",
    [
        ViT(tiny_encoder(), num_classes=5, representation_size=12),
        ViT(tiny_encoder(class_token_posemb=False, patch_size=(2, 4)), num_classes=5, pooling="mean"),
        ViT(tiny_encoder(class_token=False, class_token_posemb=False), num_classes=5, pooling="map"),
        ViT(tiny_encoder(posemb="sincos2d", class_token=False, class_token_posemb=False), 5, pooling="mean"),
        ViT(tiny_encoder(gelu="exact", layer_norm_epsilon=0.1), num_classes=5, pooling="map"),
        ViT(tiny_encoder(layer_scale_init=0.1, num_registers=3, scan=True), num_classes=5, pooling="token_mean"),
        ViT(tiny_encoder(mlp="swiglu", num_registers=2, qkv_bias=False), num_classes=5, pooling="map"),
        ViT(tiny_encoder(distillation_token=True), num_classes=5, pooling="distilled"),
        ViT(tiny_encoder(), num_classes=5, pooling="mean", fc_norm=True),
        ViT(tiny_encoder(patch_bias=False, embedding_norm=True), num_classes=5),
    ],
    ids=[
        "token+pre_logits",
        "mean+class token",
        "map",
        "sincos2d",
        "exact GELU, large epsilon",
        "LayerScale, registers",
        "SwiGLU, map past the registers",
        "distilled",
        "norm after pooling",
        "CLIP's embedding",
    ],
)
def test_forward_equals_an_independent_float64_one(model):
    images = random_images(3, 8, 12, 3)
    params = random_params(model, images)
    expected = reference(model, params, images)
    out = jax.jit(functools.partial(model.apply, maps=True))({"params": params}, images)
    (grid,) = out.pop("maps").values()
    assert set(out) == set(expected)
    np.testing.assert_array_equal(grid.reshape(3, -1, 16), out["tokens"][:, model.encoder.tokens.count :])
    for name, value in out.items():
        np.testing.assert_allclose(value, expected[name], atol=1e-5, err_msg=name)


def test_names_of_the_parameters():
    def names(**kwargs):
        images = jnp.zeros((1, 16, 24, 3))
        shapes = init_shapes(build("mu/8", num_classes=3, **kwargs).init, KEY, images)["params"]
        return set(shapes), shapes["encoder"]

    top, encoder = names(representation_size=7)
    assert top == {"encoder", "pre_logits", "head"}
    assert set(encoder) == {"embedding", "cls", "pos_embedding", "cls_pos_embedding", "block_00", "norm"}
    assert encoder["embedding"]["kernel"].shape == (8, 8, 3, 32)
    assert encoder["cls"].shape == encoder["cls_pos_embedding"].shape == (1, 1, 32)
    assert encoder["pos_embedding"].shape == (2, 3, 32)
    top, encoder = names(pooling="map", posemb="sincos2d")
    assert top == {"encoder", "pool", "head"}
    assert set(encoder) == {"embedding", "block_00", "norm"}
    assert "cls_pos_embedding" not in names(class_token_posemb=False)[1]
    assert "cls" in names(pooling="mean", class_token=True)[1]


def test_blocks_are_numbered_with_two_digits():
    shapes = init_shapes(tiny_encoder(depth=11).init, KEY, jnp.zeros((1, 8, 8, 3)))["params"]
    assert [name for name in sorted(shapes) if "block" in name] == [f"block_{i:02d}" for i in range(11)]


def test_initial_positions_class_token_and_head():
    model = ViT(tiny_encoder(posemb_stddev=0.5, width=64, depth=0), num_classes=4, head_bias_init=-6.9)
    images = random_images(2, 32, 32, 3)
    out, variables = jax.jit(model.init_with_output)(KEY, images)
    encoder = variables["params"]["encoder"]
    for name in ("pos_embedding", "cls_pos_embedding"):
        np.testing.assert_allclose(encoder[name].std(), 0.5, rtol=0.25, err_msg=name)
    assert not encoder["cls"].any()
    np.testing.assert_array_equal(out["logits"], np.full((2, 4), -6.9, np.float32))


def test_the_head_starts_at_zero_and_no_classes_mean_no_head():
    images = random_images(2, 8, 8, 3)
    out, _ = jax.jit(ViT(tiny_encoder(depth=0), num_classes=4).init_with_output)(KEY, images)
    np.testing.assert_array_equal(out["logits"], np.zeros((2, 4)))
    np.testing.assert_array_equal(out["features"], out["tokens"][:, 0])
    assert out["features"].any()
    headless = ViT(tiny_encoder(), num_classes=0)
    out, variables = init_shapes(headless.init_with_output, KEY, images)
    assert set(out) == {"tokens", "features"}
    assert set(variables["params"]) == {"encoder"}


@pytest.mark.parametrize("pooling", ["map", *(pytest.param(p, marks=pytest.mark.long) for p in ("token", "mean"))])
def test_half_precision_keeps_parameters_and_outputs_in_float32(pooling):
    images = random_images(2, 16, 16, 3)
    half = build("mu/8", num_classes=3, pooling=pooling, dtype="bfloat16")
    params = init_shapes(half.init, KEY, images)["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    capture = {"capture_intermediates": True, "mutable": "intermediates"}
    _, state = jax.eval_shape(lambda params: half.apply({"params": params}, images, **capture), params)
    inside = {name: value for name, value in state["intermediates"].items() if name in ("encoder", "pool")}
    assert {leaf.dtype for leaf in jax.tree.leaves(inside)} == {jnp.dtype("bfloat16")}

    full = build("mu/8", num_classes=3, pooling=pooling)
    params = random_params(full, images)
    out, expected = (jax.jit(model.apply)({"params": params}, images) for model in (half, full))
    assert {name: str(value.dtype) for name, value in out.items()} == {
        "tokens": "bfloat16",
        "features": "float32",
        "logits": "float32",
    }
    np.testing.assert_allclose(out["logits"], expected["logits"], atol=0.1)
    assert np.abs(out["logits"] - expected["logits"]).max() > 0, "nothing was computed in bfloat16"


def block_outputs(encoder, params, images, train=False, rngs=None):
    """The residual stream after every block."""

    @jax.jit
    def run(params, rngs):
        is_block = lambda module, _: (module.name or "").startswith("block_")  # noqa: E731
        options = {"train": train, "rngs": rngs, "capture_intermediates": is_block}
        return encoder.apply({"params": params}, images, **options)[1]["intermediates"]

    return [np.asarray(block["__call__"][0][0]) for _, block in sorted(run(params, rngs).items())]


def test_each_block_drops_at_its_own_rate():
    encoder = tiny_encoder(depth=3, drop_path_rate=0.5, class_token=False, class_token_posemb=False)
    images = np.zeros((512, 4, 4, 3), np.float32)
    params = jax.tree.map(np.zeros_like, random_params(encoder, images[:1]))
    for i in range(3):  # every attention branch adds 1 to the residual stream, every MLP nothing
        params[f"block_{i:02d}"]["attention"]["out"]["bias"] += 1
    states = block_outputs(encoder, params, images, train=True, rngs={"drop_path": KEY})
    stream = [np.zeros(512), *(state[:, 0, 0] for state in states)]
    dropped = [(after == before).mean() for before, after in itertools.pairwise(stream)]
    np.testing.assert_allclose(dropped, [0, 0.25, 0.5], atol=0.07)
    assert dropped[0] == 0


def test_dropout_follows_the_positions_and_is_off_outside_training():
    encoder = tiny_encoder(depth=1, dropout_rate=0.25)
    images = np.zeros((8, 8, 8, 3), np.float32)
    params = jax.tree.map(np.zeros_like, random_params(encoder, images))
    for name in ("cls", "cls_pos_embedding", "pos_embedding"):
        params[name] += 0.5

    (out,) = block_outputs(encoder, params, images)
    np.testing.assert_array_equal(out[:, 0], 1.0)
    np.testing.assert_array_equal(out[:, 1:], 0.5)
    (out,) = block_outputs(encoder, params, images, train=True, rngs={"dropout": KEY})
    for tokens in (out[:, 0], out[:, 1:]):
        assert abs((tokens == 0).mean() - 0.25) < 0.15
    assert set(np.unique(out[:, 1:])) == {0.0, np.float32(0.5 / 0.75)}


def test_dropout_reaches_the_blocks():
    encoder = tiny_encoder(depth=1, dropout_rate=0.25)
    images = np.zeros((8, 8, 8, 3), np.float32)
    params = jax.tree.map(np.zeros_like, random_params(encoder, images))
    params["block_00"]["attention"]["out"]["bias"] += 1
    (out,) = block_outputs(encoder, params, images, train=True, rngs={"dropout": KEY})
    assert abs((out == 0).mean() - 0.25) < 0.1


def test_attention_dropout_reaches_the_blocks():
    encoder = tiny_encoder(depth=1, attention_dropout_rate=0.5)
    images = random_images(2, 8, 8, 3)
    params = random_params(encoder, images)
    train = jax.jit(lambda rng: encoder.apply({"params": params}, images, train=True, rngs={"dropout": rng}))
    assert np.abs(train(KEY) - train(jax.random.fold_in(KEY, 1))).max() > 1e-3


@pytest.mark.parametrize(("depth", "pooling"), [(1, "token"), (0, "map")])
def test_the_attention_implementation_reaches_blocks_and_pooling(depth, pooling):
    model = ViT(tiny_encoder(depth=depth, attention_implementation="cudnn"), num_classes=2, pooling=pooling)
    with pytest.raises(UserError, match="cudnn"):
        init_shapes(model.init, KEY, jnp.zeros((1, 8, 8, 3)))


def test_every_argument_of_build_reaches_the_model():
    of_encoder = {
        "posemb_stddev": 0.1,
        "class_token": True,
        "class_token_posemb": False,
        "dropout_rate": 0.2,
        "attention_dropout_rate": 0.3,
        "drop_path_rate": 0.4,
        "patch_bias": False,
        "embedding_norm": True,
        "gelu": "exact",
        "layer_norm_epsilon": 1e-5,
        "num_registers": 3,
        "posemb_resize": "bicubic",
        "mlp": "swiglu",
        "layer_scale_init": 0.25,
        "qkv_bias": False,
        "attention_implementation": "explicit",
        "sow_attention": True,
    }
    of_model = {"num_classes": 7, "pooling": "mean", "representation_size": 5, "head_bias_init": -1.0, "fc_norm": True}
    model = build("S/14", dtype="bfloat16", **of_encoder, **of_model)
    assert {name: getattr(model, name) for name in of_model} == of_model
    encoder = model.encoder
    assert (encoder.patch_size, encoder.width, encoder.depth, encoder.drop_path_rate) == ((14, 14), 384, 12, 0.4)
    assert (encoder.patch_bias, encoder.embedding_norm) == (False, True)
    assert encoder.tokens == Tokens(class_token=True, num_registers=3)
    assert encoder.positions == Positions(class_token_posemb=False, posemb_stddev=0.1)
    assert encoder.execution == Execution(jnp.bfloat16, attention_implementation="explicit", sow_attention=True)
    assert encoder.style == BlockStyle(
        6, 1536, norm_epsilon=1e-5, activation="silu", gated=True, biases=("out", "fc1", "fc2"), layer_scale_init=0.25,
        dropout_rate=0.2, attention_dropout_rate=0.3,
    )  # fmt: skip
    assert build("S/14", num_classes=1, pooling="mean", posemb="sincos2d").encoder.positions.posemb == "sincos2d"
    assert build("S/14", num_classes=1, pooling="distilled", distillation_token=True).encoder.tokens.distillation_token


@pytest.mark.long
def test_layer_scale_starts_at_its_value_and_registers_have_no_position():
    model = build("mu/8", num_classes=0, layer_scale_init=0.25, num_registers=2)
    params = jax.jit(model.init)(KEY, jnp.zeros((1, 16, 16, 3)))["params"]["encoder"]
    for name in ("layer_scale1", "layer_scale2"):
        np.testing.assert_array_equal(params["block_00"][name], np.full(32, 0.25, np.float32))
    assert params["registers"].shape == (1, 2, 32) and params["pos_embedding"].shape == (2, 2, 32)
    assert model.encoder.tokens.count == 3


def test_attention_weights_of_every_block_can_be_sown():
    model = build("Ti/8", num_classes=2, sow_attention=True)
    images = jax.ShapeDtypeStruct((2, 16, 24, 3), jnp.float32)
    variables = {"params": init_shapes(model.init, KEY, images)["params"]}
    _, state = jax.eval_shape(lambda v, x: model.apply(v, x, mutable="intermediates"), variables, images)
    blocks = state["intermediates"]["encoder"]
    assert len(blocks) == 12
    for block in blocks.values():
        (weights,) = block["attention"]["attention_weights"]
        assert (weights.shape, weights.dtype) == ((2, 3, 7, 7), jnp.float32)


def test_another_image_size_than_the_positions_is_a_user_error():
    encoder = tiny_encoder()
    variables = init_shapes(encoder.init, KEY, jnp.zeros((1, 8, 12, 3)))
    with pytest.raises(UserError, match=r"3x2 .* 2x3.*init_from"):
        jax.eval_shape(encoder.apply, variables, jnp.zeros((1, 12, 8, 3)))


@pytest.mark.parametrize(
    ("kwargs", "what"),
    [
        ({"variant": "Bb/16"}, "'B/16'"),
        ({"variant": "B16"}, "'B/16'"),
        ({"variant": "B/0"}, "'B/16'"),
        ({"variant": "B/²"}, "'B/16'"),
        ({"variant": "G-OPT/14"}, "-opt/14"),
        ({"dtype": "bf16"}, "'bfloat16'"),
        ({"pooling": "gap"}, "mean"),
        ({"posemb": "sincos"}, "'sincos2d'"),
        ({"pooling": "token", "class_token": False}, "class token"),
        ({"pooling": "mean", "class_token_posemb": True}, "class token"),
        ({"posemb": "sincos2d", "class_token_posemb": True}, "learned positions"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"dropout_rate": -0.1}, "dropout_rate"),
    ],
)
def test_wrong_values_are_user_errors(kwargs, what):
    with pytest.raises(UserError, match=what):
        build(**{"variant": "B/16", "num_classes": 10, **kwargs})


def test_a_config_section_builds_a_model():
    section = json.loads(json.dumps({"variant": "b/16", "num_classes": 10, "dtype": "bfloat16", "drop_path_rate": 0}))
    model = naming.construct(naming.named_module("model", "vit").build, section, "config.model")
    assert model == ViT.from_variant("B/16", num_classes=10, dtype="bfloat16")
    with pytest.raises(UserError, match=r"config\.model\.num_class.*'num_classes'"):
        naming.build_named("model", {"name": "vit", "variant": "b/16", "num_class": 10}, "config.model")
    with pytest.raises(UserError, match=r"config\.model\.variant"):
        naming.construct(build, {"num_classes": 10}, "config.model")


class InSetup(nn.Module):
    def setup(self):
        self.image = build("mu/8", num_classes=0)

    def __call__(self, images):
        return self.image(images)


class InCompact(nn.Module):
    @nn.compact
    def __call__(self, images):
        return build("mu/8", num_classes=0)(images)


@pytest.mark.parametrize("outer", [InSetup(), InCompact()])
def test_a_model_made_inside_another_one_owns_its_encoder(outer):
    params = init_shapes(outer.init, KEY, jnp.zeros((1, 8, 8, 3)))["params"]
    (of_model,) = params.values()
    assert set(of_model) == {"encoder"}


@pytest.mark.parametrize(
    "options",
    [
        {"posemb": "sincos2d_mae", "class_token_posemb": False},
        pytest.param({"num_registers": 2}, marks=pytest.mark.long),
    ],
)
def test_patches_that_are_kept_are_encoded_as_if_there_were_no_others(options):
    encoder = tiny_encoder(**options)
    images = random_images(2, 16, 16, 3)
    params = {"params": random_params(encoder, images)}
    prefix = encoder.tokens.count
    order = jnp.array([np.random.default_rng(i).permutation(16) for i in range(2)])

    # All patches in another order: the same tokens in that order.
    apply = jax.jit(encoder.apply)
    everything, permuted = apply(params, images), apply(params, images, keep=order)
    np.testing.assert_allclose(permuted[:, :prefix], everything[:, :prefix], atol=1e-5)
    by_number = jnp.take_along_axis(everything[:, prefix:], order[..., None], axis=1)
    np.testing.assert_allclose(permuted[:, prefix:], by_number, atol=1e-5)

    # Without blocks a patch is embedded by itself, with the position that it has in the image.
    shallow = jax.jit(encoder.clone(depth=0).apply)
    some = shallow(params, images, keep=order[:, :5])[:, prefix:]
    by_number = jnp.take_along_axis(shallow(params, images)[:, prefix:], order[:, :5, None], axis=1)
    np.testing.assert_allclose(some, by_number, atol=1e-5)

    # The pixels of the others do not matter.
    kept = apply(params, images, keep=order[:, :5])
    assert kept.shape == (2, prefix + 5, 16)
    hidden = np.ones((2, 16), bool)
    np.put_along_axis(hidden, np.asarray(order[:, :5]), False, axis=1)
    shown = np.repeat(np.repeat(~hidden.reshape(2, 4, 4), 4, axis=1), 4, axis=2)[..., None]
    np.testing.assert_array_equal(apply(params, np.where(shown, images, 7), keep=order[:, :5]), kept)
    assert np.abs(apply(params, np.where(shown, 7, images), keep=order[:, :5]) - kept).max() > 1e-3
