"""npz files in every naming of Google's repositories: made here, compared with one another, and with timm."""

import json

import numpy as np
import pytest
import timm
import torch

from tests.parity.oracle import TOLERANCE, error, images, read, through_npz, to_torch
from vit_jax.checkpoints.families import google_vit
from vit_jax.checkpoints.name_map import NameMap
from vit_jax.checkpoints.published import Sidecar
from vit_jax.errors import UserError

WIDTH, HEADS, MLP, DEPTH, PATCH, GRID, CLASSES = 64, 2, 96, 2, 8, 4, 5


def pre_linen(pool="token", pre_logits=False):
    """The parameters of a ViT in the oldest names, drawn like those of the other parity tests."""
    rng = np.random.default_rng(0)

    def draw(*shape, scale=1.0, mean=0.0):
        return (mean + scale * rng.normal(size=shape)).astype(np.float32)

    def norm(name):
        return {f"{name}/scale": draw(WIDTH, scale=0.3, mean=1.0), f"{name}/bias": draw(WIDTH, scale=0.3)}

    def attention(name):
        tensors = {}
        for part in ("query", "key", "value"):
            tensors[f"{name}/{part}/kernel"] = draw(WIDTH, HEADS, WIDTH // HEADS, scale=1.5 / WIDTH**0.5)
            tensors[f"{name}/{part}/bias"] = draw(HEADS, WIDTH // HEADS)
        tensors[f"{name}/out/kernel"] = draw(HEADS, WIDTH // HEADS, WIDTH, scale=0.1 / WIDTH**0.5)
        return tensors | {f"{name}/out/bias": draw(WIDTH, scale=0.02)}

    def mlp(name):
        return {
            f"{name}/Dense_0/kernel": draw(WIDTH, MLP, scale=WIDTH**-0.5),
            f"{name}/Dense_0/bias": draw(MLP, scale=0.5, mean=-2.0),
            f"{name}/Dense_1/kernel": draw(MLP, WIDTH, scale=0.4 / MLP**0.5),
            f"{name}/Dense_1/bias": draw(WIDTH, scale=0.02),
        }

    has_class = pool == "token"
    tensors = {
        "embedding/kernel": draw(PATCH, PATCH, 3, WIDTH, scale=0.02 / (3 * PATCH**2) ** 0.5),
        "embedding/bias": draw(WIDTH, scale=0.02),
        "Transformer/posembed_input/pos_embedding": draw(1, GRID**2 + has_class, WIDTH, scale=0.02),
        "head/kernel": draw(48 if pre_logits else WIDTH, CLASSES, scale=WIDTH**-0.5),
        "head/bias": draw(CLASSES),
    }
    if has_class:
        tensors["cls"] = draw(1, 1, WIDTH, scale=0.02)
    for i in range(DEPTH):
        block = f"Transformer/encoderblock_{i}"
        tensors |= norm(f"{block}/LayerNorm_0") | attention(f"{block}/MultiHeadDotProductAttention_1")
        tensors |= norm(f"{block}/LayerNorm_2") | mlp(f"{block}/MlpBlock_3")
    tensors |= norm("Transformer/encoder_norm")
    if pool == "map":
        tensors["MAPHead_0/probe"] = draw(1, 1, WIDTH)
        tensors |= attention("MAPHead_0/MultiHeadDotProductAttention_0")
        tensors |= norm("MAPHead_0/LayerNorm_0") | mlp("MAPHead_0/MlpBlock_0")
    if pre_logits:
        tensors |= {"pre_logits/kernel": draw(WIDTH, 48, scale=WIDTH**-0.5), "pre_logits/bias": draw(48)}
    return tensors


def linen(tensors):
    """The second generation: layers numbered by kind."""
    for old, new in (("Attention_1", "Attention_0"), ("LayerNorm_2", "LayerNorm_1"), ("MlpBlock_3", "MlpBlock_0")):
        tensors = {n.replace(old, new) if "encoderblock" in n else n: v for n, v in tensors.items()}
    return tensors


def big_vision(tensors):
    """The third: positions at the top, the class token's added to it."""
    tensors = linen(tensors)
    table = tensors.pop("Transformer/posembed_input/pos_embedding")
    if "cls" in tensors:
        tensors["cls"], table = tensors["cls"] + table[:, :1], table[:, 1:]
    return tensors | {"pos_embedding": table}


def scanned(tensors):
    """Layers of all blocks stacked."""
    tensors = big_vision(tensors)
    first = {n: v for n, v in tensors.items() if "encoderblock_0/" in n}
    stacked = {
        n.replace("encoderblock_0", "encoderblock"): np.stack(
            [tensors[n.replace("encoderblock_0", f"encoderblock_{i}")] for i in range(DEPTH)]
        )
        for n in first
    }
    return {n: v for n, v in tensors.items() if "encoderblock_" not in n} | stacked


def wrapped(prefix, tensors, **more):
    return {prefix + n: v for n, v in tensors.items()} | {n: np.zeros(2, np.float32) for n in more.get("beside", ())}


def in_block(tensors):
    """big_vision before 2022: positions beside the blocks, the class token's as their first row."""
    tensors = linen(tensors)
    return tensors | {"Transformer/pos_embedding": tensors.pop("Transformer/posembed_input/pos_embedding")}


def joint(tensors):
    """The same at the top, and a MAP head without a name of its own, as while ViT-G was made."""
    tensors = linen(tensors)
    tensors |= {"pos_embedding": tensors.pop("Transformer/posembed_input/pos_embedding")}
    return {name.removeprefix("MAPHead_0/"): x for name, x in tensors.items()}


NAMINGS = {
    "Transformer/pos_embedding": in_block,
    "joint": joint,
    "params, extra": lambda t: wrapped("params/", t, beside=["extra/batch_stats/x", "opt/step"]),
    "linen": linen,
    "big_vision": big_vision,
    "scanned": scanned,
    "opt/target": lambda t: wrapped("opt/target/", t, beside=["opt/state/step"]),
    "params": lambda t: wrapped("params/", big_vision(t), beside=["opt/0/mu/cls", "chrono/accum_train_time"]),
    "params/img": lambda t: wrapped("params/img/", scanned(t), beside=["params/txt/head/bias", "params/t", "params/b"]),
}


@pytest.mark.parametrize("pool", ["token", "mean", "map"])
@pytest.mark.parametrize("naming", NAMINGS)
def test_the_generations_are_one_model(naming, pool, tmp_path):
    old = read(google_vit, through_npz(pre_linen(pool), tmp_path / "x.npz"))
    new = read(google_vit, through_npz(NAMINGS[naming](pre_linen(pool)), tmp_path / "x.npz"))
    assert old.published.layout["names"] == "pre_linen"
    assert old.kwargs["pooling"] == pool and old.image_size == (32, 32)
    x = images(32, 32)
    a, b = old.outputs(x), new.outputs(x)
    assert max(error(a[key], b[key]) for key in ("tokens", "logits")) < 1e-6


def timm_model(pool, size=(32, 32), **more):
    arguments = {"patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "num_classes": CLASSES}
    arguments |= {
        "img_size": size,
        "mlp_ratio": MLP / WIDTH,
        "act_layer": "gelu_tanh",
        "no_embed_class": pool == "folded",
    }
    arguments |= {} if pool in ("token", "folded") else {"class_token": False, "global_pool": pool, "fc_norm": False}
    return timm.create_model("vit_base_patch16_224", **arguments, **more).eval()


@pytest.mark.parametrize(
    ("pool", "naming", "pool_in_timm"),
    [
        ("token", dict, "token"),
        ("token", big_vision, "folded"),
        ("token", NAMINGS["opt/target"], "token"),
        ("map", NAMINGS["params/img"], "map"),
        ("mean", NAMINGS["params"], "avg"),
    ],
    ids=["pre-linen", "class position folded", "opt/target", "map, scanned", "mean, params"],
)
def test_timm_reads_the_same_model(pool, naming, pool_in_timm, tmp_path):
    ours = read(google_vit, through_npz(naming(pre_linen(pool)), tmp_path / "x.npz"))
    model = timm_model(pool_in_timm)
    with torch.no_grad():
        model.load_pretrained(str(tmp_path / "x.npz"))
        x = images(32, 32)
        outputs = ours.outputs(x)
        errors = [
            error(outputs["tokens"], model.forward_features(to_torch(x))),
            error(outputs["logits"], model(to_torch(x))),
        ]
    print(f"\nPARITY google/timm | {pool} {pool_in_timm} | (32, 32) | {max(errors):.1e}")
    assert max(errors) < TOLERANCE


def test_another_resolution(tmp_path):
    """timm resizes the positions of an npz half-pixel bilinearly; the original code with aligned corners, our default."""
    tensors = through_npz(pre_linen(), tmp_path / "x.npz")
    model = timm_model("token", size=(48, 48))
    x = images(48, 48)
    with torch.no_grad():
        model.load_pretrained(str(tmp_path / "x.npz"))
        expected = model.forward_features(to_torch(x))
    assert error(read(google_vit, tensors, posemb_resize="half_pixel").outputs(x)["tokens"], expected) < TOLERANCE
    assert read(google_vit, tensors).kwargs["posemb_resize"] == "align_corners"
    assert error(read(google_vit, tensors).outputs(x)["tokens"], expected) > 10 * TOLERANCE


def test_pre_logits_and_a_wrong_gelu(tmp_path):
    tensors = through_npz(pre_linen(pre_logits=True), tmp_path / "x.npz")
    ours, x = read(google_vit, tensors), images(32, 32)
    assert ours.kwargs["representation_size"] == 48
    features = ours.outputs(x)["features"]
    tokens = ours.outputs(x)["tokens"]
    expected = np.tanh(tokens[:, 0] @ tensors["pre_logits/kernel"] + tensors["pre_logits/bias"])
    assert error(features, expected) < TOLERANCE
    assert error(read(google_vit, tensors, gelu="exact").outputs(x)["tokens"], tokens) > 2 * TOLERANCE


@pytest.mark.parametrize("pool", ["token", "map"])
def test_written_in_the_current_names(pool, tmp_path):
    ours = read(google_vit, through_npz(NAMINGS["opt/target"](pre_linen(pool)), tmp_path / "x.npz"), gelu="exact")
    files = google_vit.sidecar(ours.metadata(["a", "b", "c", "d", "e"]))
    written = google_vit.name_map(ours.kwargs, {}).write(ours.params)
    assert "Transformer/encoderblock_1/MlpBlock_0/Dense_1/bias" in written
    again = read(
        google_vit, through_npz(written, tmp_path / "x.npz"), Sidecar(json.loads(json.dumps(files["config.json"])))
    )
    assert again.kwargs == ours.kwargs and again.published.labels == ("a", "b", "c", "d", "e")
    for name, array in ours.params.items():
        np.testing.assert_array_equal(again.params[name], array)


def test_sincos_positions_are_in_no_file(tmp_path):
    tensors = big_vision(pre_linen("mean"))
    del tensors["pos_embedding"]
    assert read(google_vit, through_npz(tensors, tmp_path / "x.npz")).kwargs["posemb"] == "sincos2d"


def test_a_hole_and_a_stranger_are_refused(tmp_path):
    tensors = scanned(pre_linen())
    with pytest.raises(UserError, match=r"no tensor 'Transformer/encoderblock/LayerNorm_1/bias'"):
        read(google_vit, {n: v for n, v in tensors.items() if n != "Transformer/encoderblock/LayerNorm_1/bias"})
    with pytest.raises(UserError, match=r"'Transformer/encoderblock/LayerNorm_7/bias'"):
        read(google_vit, tensors | {"Transformer/encoderblock/LayerNorm_7/bias": np.zeros(3, np.float32)})
    assert isinstance(read(google_vit, tensors).names, NameMap)
