"""BiT against timm and transformers, and the generations of Google's npz against one another."""

import functools

import numpy as np
import pytest

from tests.parity import oracle
from vit_jax.checkpoints.families import google_bit, hf_bit, timm_resnetv2
from vit_jax.checkpoints.published import Sidecar
from vit_jax.errors import UserError

torch = pytest.importorskip("torch", reason="compares with torch")
timm = pytest.importorskip("timm", reason="compares with timm")
transformers = pytest.importorskip("transformers", reason="compares with transformers")
safetensors = pytest.importorskip("safetensors.torch", reason="reads what timm writes")

from timm.layers import GroupNormAct, StdConv2d  # noqa: E402
from timm.models.resnetv2 import ResNetV2  # noqa: E402

pytestmark = pytest.mark.oracle

# Native, another one that is not square, and an odd one in which every padding differs.
SIZES = [(64, 64), (96, 64), (75, 61)]


def randomized(model, seed=0):
    state = oracle.randomise_resnet({n: tuple(x.shape) for n, x in model.state_dict().items()}, seed)
    model.load_state_dict({name: torch.from_numpy(x) for name, x in state.items()}, strict=True)
    return model.eval()


def tiny_timm(weight_epsilon=1e-8):
    # Eight groups of at least four channels; with one channel in a group its norm would hide the convolution's scale.
    return ResNetV2(
        (2, 1), channels=(128, 256), stem_chs=32, num_classes=5, stem_type="fixed",
        conv_layer=functools.partial(StdConv2d, eps=weight_epsilon),
        norm_layer=functools.partial(GroupNormAct, num_groups=8),
    )  # fmt: skip


def timm_outputs(model, images):
    with torch.no_grad():
        features = model.forward_features(oracle.to_torch(images))
        return features.flatten(2).transpose(1, 2).numpy(), model.forward_head(features).numpy()


@pytest.fixture(scope="module")
def from_timm(tmp_path_factory):
    model = randomized(tiny_timm())
    path = tmp_path_factory.mktemp("timm") / "model.safetensors"
    safetensors.save_file(model.state_dict(), path)
    from safetensors.numpy import load_file

    return model, oracle.read(timm_resnetv2, load_file(path), num_groups=8)


@pytest.mark.parametrize("size", SIZES)
def test_timm(from_timm, size):
    model, ours = from_timm
    images = oracle.dim_and_bright(*size)
    out = ours.outputs(images)
    for name, theirs in zip(("tokens", "logits"), timm_outputs(model, images), strict=True):
        oracle.assert_close(out[name], theirs, f"timm {name} {size}")


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight_epsilon": 1e-10},
        {"weight_epsilon": 1e-5, "weight_epsilon_in": "deviation"},
        {"group_norm_epsilon": 1e-6},
        {"padding": "same"},
        {"stem_pool_padding": "lowest"},
        {"num_groups": 16},
    ],
    ids=str,
)
def test_whatever_computes_otherwise_shows(from_timm, wrong):
    model, ours = from_timm
    images = oracle.dim_and_bright(64, 64)
    out = ours.outputs(images, **wrong)
    theirs = timm_outputs(model, images)
    errors = [oracle.error(out[name], x) for name, x in zip(("tokens", "logits"), theirs, strict=True)]
    assert max(errors) > 3 * oracle.TOLERANCE, errors


# What timm can build from a config.json: its own numbers of units, any width that 32 groups divide.
def test_timm_reads_what_we_write(tmp_path):
    model = timm.create_model("resnetv2_50x1_bit", stem_chs=32, channels=[128, 256, 512, 1024], num_classes=3)
    state = {name: x.numpy() for name, x in randomized(model, seed=1).state_dict().items()}
    ours = oracle.read(timm_resnetv2, state)
    assert ours.kwargs["variant"] == "R50x1" and ours.kwargs["width"] == 32
    info = oracle.metadata("bit", ours.kwargs, (64, 96), resize="short_side", resize_to=128)
    tensors = oracle.write(ours, tmp_path, info)
    back = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    for name, x in back.state_dict().items():
        np.testing.assert_array_equal(x.numpy(), tensors[name], err_msg=name)
    config = back.pretrained_cfg
    assert config["input_size"] == [3, 64, 96] and config["crop_pct"] == 0.75 and config["std"] == [0.392156863] * 3
    images = oracle.dim_and_bright(32, 32)
    oracle.assert_close(ours.outputs(images)["logits"], timm_outputs(back, images)[1], "timm, written by us")
    again = timm_resnetv2.describe({n: x.shape for n, x in tensors.items()}, oracle.files_beside(tmp_path))
    assert again.kwargs == ours.published.kwargs and again.labels == tuple(info["labels"])
    np.testing.assert_allclose(again.preprocess["std"], 100.0, rtol=1e-5)


def test_timm_cannot_hold_another_style():
    for wrong in ({"weight_epsilon": 1e-10}, {"padding": "same"}, {"stage_sizes": [1, 1]}, {"preactivation": False}):
        kwargs = timm_resnetv2._STYLE | {"variant": "R50x1", "num_classes": 3} | wrong
        assert timm_resnetv2.sidecar(oracle.metadata("bit", kwargs, (64, 64))) is None


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"global_padding": "same", "embedding_dynamic_padding": True},
        {"global_padding": "same", "embedding_dynamic_padding": True, "layer_type": "bottleneck"},
    ],
    ids=["BiT", "same padding", "post-activation"],
)
def test_transformers_there_and_back(tmp_path, config):
    labels = {i: f"class {i}" for i in range(5)}
    config = transformers.BitConfig(
        embedding_size=32, hidden_sizes=[128, 256], depths=[2, 1], num_groups=8, id2label=labels, **config
    )
    model = randomized(transformers.BitForImageClassification(config))
    model.save_pretrained(tmp_path / "theirs")
    from safetensors.numpy import load_file

    sidecar = oracle.files_beside(tmp_path / "theirs")
    ours = oracle.read(hf_bit, load_file(tmp_path / "theirs" / "model.safetensors"), sidecar)
    assert ours.published.labels == tuple(labels.values())
    for size in SIZES:
        images = oracle.dim_and_bright(*size)
        with torch.no_grad():
            theirs = model.bit(oracle.to_torch(images)).last_hidden_state.numpy().transpose(0, 2, 3, 1)
            logits = model(oracle.to_torch(images)).logits.numpy()
        out = ours.outputs(images)
        oracle.assert_close(out["tokens"], theirs.reshape(out["tokens"].shape), f"transformers map {size}")
        oracle.assert_close(out["logits"], logits, f"transformers logits {size}")

    (tmp_path / "ours").mkdir()
    info = oracle.metadata("bit", ours.kwargs, (64, 64), resize="short_side", resize_to=80, interpolation="bicubic")
    oracle.write(ours, tmp_path / "ours", info)
    back, report = transformers.BitForImageClassification.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    state = model.state_dict()
    for name, x in back.state_dict().items():
        np.testing.assert_array_equal(x.numpy(), state[name].numpy(), err_msg=name)
    assert back.config.id2label == labels
    with torch.no_grad():
        np.testing.assert_array_equal(back.eval()(oracle.to_torch(images)).logits.numpy(), logits)
    again = hf_bit.describe({n: tuple(x.shape) for n, x in state.items()}, oracle.files_beside(tmp_path / "ours"))
    assert again.kwargs == ours.published.kwargs
    assert again.preprocess["resize_to"] == 80 and again.preprocess["interpolation"] == "bicubic"
    np.testing.assert_allclose(again.preprocess["std"], 100.0, rtol=1e-5)


def test_transformers_trunk_alone(tmp_path):
    model = transformers.BitModel(transformers.BitConfig(embedding_size=32, hidden_sizes=[128], depths=[1]))
    tensors = {name: x.numpy() for name, x in randomized(model).state_dict().items()}
    ours = oracle.read(hf_bit, tensors)
    info = oracle.metadata("bit", ours.kwargs, (32, 32))
    assert oracle.write(ours, tmp_path, info).keys() == tensors.keys()
    _, report = transformers.BitModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]


def test_transformers_dialects_that_no_checkpoint_has_are_refused():
    tensors = {"embedder.convolution.weight": (32, 3, 7, 7), "encoder.stages.0.layers.0.conv1.weight": (32, 32, 1, 1)}
    with pytest.raises(UserError, match="global_padding='SAME'"):
        hf_bit.describe(tensors, Sidecar({"global_padding": "same"}))


def google_npz(path, names, prefix="", axes=1, renamed=()):
    """A random BiT in a file with these names; the parameters of ours that are in it, and its tensors."""
    layout = {"names": names, "prefix": prefix, "group_norm_axes": axes, "renamed": dict(renamed)}
    kwargs = {"variant": "R50x1", "stage_sizes": [2, 1], "width": 32, "num_classes": 5} | google_bit._STYLES[names]
    model = oracle.build("bit", kwargs)
    shapes = oracle.shapes_of(model, (64, 64))
    torch_shapes = {n: shape[::-1] for n, shape in shapes.items()}
    params = {n: np.ascontiguousarray(x.T) for n, x in oracle.randomise_resnet(torch_shapes, seed=2).items()}
    return params, oracle.through_npz(google_bit.name_map(kwargs, layout).write(params), path)


def test_timm_reads_the_papers_npz_as_we_do(tmp_path):
    _, tensors = google_npz(tmp_path / "bit.npz", "big_transfer")
    ours = oracle.read(google_bit, tensors, num_groups=8)
    model = tiny_timm(weight_epsilon=1e-10)
    model.load_pretrained(str(tmp_path / "bit.npz"))
    for size in SIZES:
        images = oracle.dim_and_bright(*size)
        theirs = timm_outputs(model.eval(), images)
        out = ours.outputs(images)
        oracle.assert_close(out["tokens"], theirs[0], f"npz map {size}")
        oracle.assert_close(out["logits"], theirs[1], f"npz logits {size}")


NUMBERED = "resnet/block1/unit02/b/standardized_conv2d{}/kernel"


@pytest.mark.parametrize(
    ("names", "layout"),
    [
        ("big_transfer", {"renamed": {NUMBERED.format(""): NUMBERED.format("_7")}.items()}),
        ("bit_paper", {"axes": 4}),
        ("bit_paper", {"prefix": "params/", "axes": 4}),
        ("v1", {}),
        ("v1", {"prefix": "opt/target/", "axes": 4}),
    ],
    ids=["numbered", "big_vision", "big_vision state", "v1", "old v1"],
)
def test_generations_of_npz(tmp_path, names, layout):
    params, tensors = google_npz(tmp_path / "bit.npz", names, **layout)
    ours = oracle.read(google_bit, tensors)
    assert ours.params.keys() == params.keys()
    for name, x in ours.params.items():
        np.testing.assert_array_equal(x, params[name], err_msg=name)
    assert (
        ours.kwargs
        == {"variant": "R50x1", "stage_sizes": [2, 1], "width": 32, "num_classes": 5} | google_bit._STYLES[names]
    )
    # What we write in this style is read in this style, and with the config that we write beside it in any style.
    written = google_bit.name_map(ours.kwargs, {}).write(params)
    assert oracle.read(google_bit, written).kwargs == ours.kwargs
    info = oracle.metadata("bit", ours.kwargs | {"weight_epsilon": 1e-8}, (64, 96))
    again = oracle.read(google_bit, written, Sidecar(google_bit.sidecar(info)["config.json"])).published
    assert again.kwargs["weight_epsilon"] == 1e-8 and again.labels == tuple(info["labels"])
    assert again.preprocess["image_size"] == [64, 96] and again.preprocess["std"] == [100.0] * 3
