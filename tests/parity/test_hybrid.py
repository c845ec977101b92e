"""Hybrids against timm, from its own files and from Google's npz, which timm reads too."""

import dataclasses
import functools

import numpy as np
import pytest

from tests.parity import oracle
from vit_jax.checkpoints.families import google_hybrid, google_vit, timm_hybrid, timm_vit
from vit_jax.checkpoints.published import Sidecar
from vit_jax.models.hybrid import vit_arguments
from vit_jax.nn.posemb import interpolate_posemb

torch = pytest.importorskip("torch", reason="compares with torch")
timm = pytest.importorskip("timm", reason="compares with timm")
safetensors = pytest.importorskip("safetensors.torch", reason="reads what timm writes")

from safetensors.numpy import load_file  # noqa: E402
from timm.layers import HybridEmbed, StdConv2dSame  # noqa: E402
from timm.models.resnetv2 import ResNetV2, create_resnetv2_stem  # noqa: E402
from timm.models.vision_transformer import VisionTransformer  # noqa: E402

pytestmark = pytest.mark.oracle


def tiny_timm(image_size=(64, 64), root_alone=False, **kwargs):
    conv = functools.partial(StdConv2dSame, eps=1e-8)
    if root_alone:
        backbone = create_resnetv2_stem(3, 64, stem_type="same", preact=False, conv_layer=conv)
    else:
        # Wide enough that the norms' 32 groups have more than one channel.
        backbone = ResNetV2(
            (2, 1), channels=(256, 512), num_classes=0, global_pool="", preact=False, stem_type="same", conv_layer=conv
        )
    return VisionTransformer(
        img_size=image_size, patch_size=8 if root_alone else 1, embed_dim=24, depth=2, num_heads=3, num_classes=5,
        embed_layer=functools.partial(HybridEmbed, backbone=backbone), **kwargs,
    )  # fmt: skip


def randomized(model, seed=0):
    """The ResNet as in BiT's tests.

    The ViT's residual stream is small, so that the epsilon of its layer norms shows, half of it comes from the map, and
    the hidden units of its MLPs sit where the two GELUs differ.
    """
    state = oracle.randomise_resnet({n: tuple(x.shape) for n, x in model.state_dict().items()}, seed)
    rng = np.random.default_rng(seed)

    def spread(name, shape):
        if "norm" in name:
            return (0.0 if name.endswith("bias") else 1.0), 0.3
        if len(shape) == 1 or name in ("pos_embed", "cls_token"):
            return (-1.5, 0.5) if "fc1" in name else (0.0, 0.02)
        small = 0.1 if "fc2" in name or "proj" in name else 1.5
        return 0.0, small / np.prod(shape[1:]) ** 0.5

    for name, x in state.items():
        if "backbone" not in name:
            state[name] = rng.normal(*spread(name, x.shape), x.shape).astype(np.float32)
        elif "norm3" in name or "downsample.norm" in name:
            # What a unit passes on; the norms inside it stay small.
            state[name] = 30 * x
    model.load_state_dict({name: torch.from_numpy(x) for name, x in state.items()}, strict=True)
    return model.eval()


@pytest.fixture(scope="module")
def from_timm(tmp_path_factory):
    model = randomized(tiny_timm())
    path = tmp_path_factory.mktemp("timm") / "model.safetensors"
    safetensors.save_file(model.state_dict(), path)
    return model, oracle.read(timm_hybrid, load_file(path), num_heads=3)


def test_timm(from_timm):
    model, ours = from_timm
    assert ours.published.preprocess["image_size"] == [64, 64]
    assert ours.kwargs["stage_sizes"] == [2, 1] and ours.kwargs["variant"].startswith("R26+")
    images = oracle.dim_and_bright(64, 64)
    oracle.assert_same(ours.outputs(images), oracle.timm_outputs(model, images), "timm")


def test_timm_at_another_resolution(from_timm):
    model, ours = from_timm
    other = tiny_timm((96, 72))
    grid = [12, 9]
    state = {name: x.clone() for name, x in model.state_dict().items()}
    # As fine-tuning at another resolution does, and the same positions in both.
    positions = interpolate_posemb(ours.params["encoder/pos_embedding"], grid, "half_pixel")
    table = np.concatenate([ours.params["encoder/cls_pos_embedding"][0], positions.reshape(-1, 24)])
    state["pos_embed"] = torch.from_numpy(table[None])
    other.load_state_dict(state, strict=True)
    params = ours.params | {"encoder/pos_embedding": positions}
    images = oracle.dim_and_bright(96, 72)
    resized = dataclasses.replace(ours, params=params)
    oracle.assert_same(resized.outputs(images), oracle.timm_outputs(other.eval(), images), "timm 96x72")


@pytest.mark.parametrize("root_alone", [False, True])
def test_timm_oblong(root_alone):
    model = randomized(tiny_timm((64, 96), root_alone))
    sidecar = Sidecar({"model_args": {"img_size": [64, 96]}, "pretrained_cfg": {"input_size": [3, 64, 96]}})
    state = {name: x.numpy() for name, x in model.state_dict().items()}
    ours = oracle.read(timm_hybrid, state, sidecar, num_heads=3)
    assert ours.published.preprocess["image_size"] == [64, 96]
    assert not root_alone or ours.kwargs["variant"].startswith("R+")
    images = oracle.dim_and_bright(64, 96)
    oracle.assert_same(
        ours.outputs(images), oracle.timm_outputs(model, images), f"timm oblong, root alone {root_alone}"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight_epsilon": 1e-10},
        {"weight_epsilon": 1e-5, "weight_epsilon_in": "deviation"},
        {"group_norm_epsilon": 1e-6},
        {"padding": "fixed"},
        {"num_groups": 16},
        {"gelu": "tanh"},
        {"layer_norm_epsilon": 1e-5},
    ],
    ids=str,
)
def test_whatever_computes_otherwise_shows(from_timm, wrong):
    model, ours = from_timm
    images = oracle.dim_and_bright(64, 64)
    out, theirs = ours.outputs(images, **wrong), oracle.timm_outputs(model, images)
    errors = {name: oracle.error(out[name], x) for name, x in theirs.items()}
    assert max(errors.values()) > 2 * oracle.TOLERANCE, errors


@pytest.mark.parametrize("variant", ["R26+S/32", "R+Ti/16"])
def test_timm_reads_what_we_write(tmp_path, variant):
    architecture = {"R26+S/32": "vit_small_r26_s32_224", "R+Ti/16": "vit_tiny_r_s16_p8_224"}[variant]
    model = timm.create_model(architecture, img_size=64, embed_dim=24, depth=1, num_heads=3, num_classes=3)
    state = {name: x.numpy() for name, x in randomized(model, seed=1).state_dict().items()}
    ours = oracle.read(timm_hybrid, state, num_heads=3)
    assert ours.kwargs["variant"].split("+")[0] == variant.split("+")[0] and "stage_sizes" not in ours.kwargs
    info = oracle.metadata("hybrid", ours.kwargs, (64, 64), resize="short_side", resize_to=72, interpolation="bicubic")
    tensors = oracle.write(ours, tmp_path, info)
    back = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    for name, x in back.state_dict().items():
        np.testing.assert_array_equal(x.numpy(), tensors[name], err_msg=name)
    images = oracle.dim_and_bright(64, 64)
    oracle.assert_same(ours.outputs(images), oracle.timm_outputs(back, images), f"timm, {variant} written by us")
    again = timm_hybrid.describe({n: x.shape for n, x in tensors.items()}, oracle.files_beside(tmp_path))
    assert again.kwargs == ours.kwargs and again.labels == tuple(info["labels"])
    assert again.preprocess["image_size"] == [64, 64] and again.preprocess["resize_to"] == 72


def test_timm_cannot_hold_the_papers_epsilons():
    kwargs = {"variant": "R26+S/32", "num_classes": 3, "gelu": "exact"} | timm_hybrid._STYLE
    assert timm_hybrid.sidecar(oracle.metadata("hybrid", kwargs, (64, 64)))
    for wrong in (google_hybrid._STYLE, {"stem_width": 32}, {"stage_sizes": [1, 1]}):
        assert timm_hybrid.sidecar(oracle.metadata("hybrid", kwargs | wrong, (64, 64))) is None


# timm reads the first generation only, with group norms of either shape.
@pytest.mark.parametrize(("axes", "root_alone"), [(4, False), (1, True)])
def test_timm_reads_the_npz_as_we_do(tmp_path, from_timm, axes, root_alone):
    if root_alone:
        state = {name: x.numpy() for name, x in randomized(tiny_timm(root_alone=True)).state_dict().items()}
        source = oracle.read(timm_hybrid, state, num_heads=3)
    else:
        source = from_timm[1]
    layout = {"names": "pre_linen", "group_norm_axes": axes, "grid": source.published.layout["grid"]}
    tensors = google_hybrid.name_map(source.kwargs, layout).write(source.params)
    assert tensors["gn_root/scale"].ndim == axes
    ours = oracle.read(google_hybrid, oracle.through_npz(tensors, tmp_path / "hybrid.npz"))
    assert ours.published.kwargs["weight_epsilon_in"] == "deviation" and ours.kwargs["gelu"] == "tanh"
    model = tiny_timm(root_alone=root_alone, act_layer="gelu_tanh")
    model.load_pretrained(str(tmp_path / "hybrid.npz"))
    images = oracle.dim_and_bright(64, 64)
    # timm computes with other epsilons than the code that the file comes from.
    out = ours.outputs(images, **timm_hybrid._STYLE)
    oracle.assert_same(out, oracle.timm_outputs(model.eval(), images), f"npz, {axes} axes, root alone {root_alone}")
    # What we write today is read again, with what our config says beside it.
    written = google_hybrid.name_map(ours.kwargs, {}).write(ours.params)
    info = oracle.metadata("hybrid", ours.kwargs | {"weight_epsilon": 1e-8}, (64, 64))
    again = oracle.read(google_hybrid, written, Sidecar(google_hybrid.sidecar(info)["config.json"]))
    assert again.kwargs == ours.kwargs | {"weight_epsilon": 1e-8}
    for name, x in again.params.items():
        np.testing.assert_array_equal(x, ours.params[name], err_msg=name)


def test_a_hybrid_is_no_vit_and_a_vit_no_hybrid(from_timm):
    _, ours = from_timm
    vit = vit_arguments(ours.kwargs)
    assert vit["variant"].endswith("/1") and "stage_sizes" not in vit and "weight_epsilon" not in vit
    layout = {"grid": ours.published.layout["grid"]}
    for family, hybrid in ((google_vit, google_hybrid), (timm_vit, timm_hybrid)):
        tensors = hybrid.name_map(ours.kwargs, layout).write(ours.params)
        shapes = {name: x.shape for name, x in tensors.items()}
        only_vit = {name: shapes[name] for e in family.name_map(vit, layout).entries for name in e.theirs}
        assert hybrid.describe(only_vit, Sidecar()) is None
        assert family.describe(shapes, Sidecar()) is None
