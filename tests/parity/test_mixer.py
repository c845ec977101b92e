"""MLP-Mixer against timm, and the names of Google's npz against one another."""

import numpy as np
import pytest

from tests.parity import oracle
from vit_jax.checkpoints.families import google_mixer, timm_mixer
from vit_jax.checkpoints.published import Sidecar
from vit_jax.errors import UserError

torch = pytest.importorskip("torch", reason="compares with torch")
timm = pytest.importorskip("timm", reason="compares with timm")
safetensors = pytest.importorskip("safetensors.torch", reason="reads what timm writes")

from safetensors.numpy import load_file  # noqa: E402
from timm.models.mlp_mixer import MlpMixer  # noqa: E402

pytestmark = pytest.mark.oracle


def randomized(model, seed=0):
    """Weights with which activations reach where the two GELUs differ, and small ones before the layer norms."""
    rng = np.random.default_rng(seed)
    for name, x in model.state_dict().items():
        mean = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        std = 0.02 if name.startswith("stem") else 0.3 if "norm" in name or x.ndim == 1 else 1.5 / x[0].numel() ** 0.5
        x.copy_(torch.from_numpy(rng.normal(mean, std, tuple(x.shape)).astype(np.float32)))
    return model.eval()


def tiny_timm(image_size=(32, 32)):
    return MlpMixer(num_classes=5, img_size=image_size, patch_size=8, num_blocks=2, embed_dim=24, mlp_ratio=(0.5, 2.0))


# A Mixer has one resolution: the other one is another model, square or not.
@pytest.mark.parametrize("size", [(32, 32), (48, 48), (24, 40)])
def test_timm(tmp_path, size):
    model = randomized(tiny_timm(size))
    safetensors.save_file(model.state_dict(), tmp_path / "model.safetensors")
    sidecar = Sidecar({"pretrained_cfg": {"input_size": [3, *size]}} if size[0] != size[1] else {})
    ours = oracle.read(timm_mixer, load_file(tmp_path / "model.safetensors"), sidecar)
    assert ours.published.preprocess["image_size"] == list(size)
    images = oracle.dim_and_bright(*size)
    oracle.assert_same(ours.outputs(images), oracle.timm_outputs(model, images), f"timm {size}")


@pytest.mark.parametrize("wrong", [{"gelu": "tanh"}, {"layer_norm_epsilon": 1e-5}], ids=str)
def test_whatever_computes_otherwise_shows(wrong):
    model = randomized(tiny_timm())
    ours = oracle.read(timm_mixer, {name: x.numpy() for name, x in model.state_dict().items()})
    images = oracle.dim_and_bright(32, 32)
    out, theirs = ours.outputs(images, **wrong), oracle.timm_outputs(model, images)
    assert max(oracle.error(out[name], x) for name, x in theirs.items()) > 2 * oracle.TOLERANCE


def test_timm_reads_what_we_write(tmp_path):
    state = randomized(timm.create_model("mixer_s32_224", img_size=64, num_classes=3), seed=1).state_dict()
    ours = oracle.read(timm_mixer, {name: x.numpy() for name, x in state.items()})
    assert ours.kwargs["variant"] == "S/32" and "width" not in ours.kwargs
    info = oracle.metadata("mixer", ours.kwargs, (64, 64), resize="short_side", resize_to=77, interpolation="bicubic")
    tensors = oracle.write(ours, tmp_path, info)
    back = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    for name, x in back.state_dict().items():
        np.testing.assert_array_equal(x.numpy(), tensors[name], err_msg=name)
    images = oracle.dim_and_bright(64, 64)
    oracle.assert_same(ours.outputs(images), oracle.timm_outputs(back, images), "timm, written by us")
    again = timm_mixer.describe({n: x.shape for n, x in tensors.items()}, oracle.files_beside(tmp_path))
    assert again.kwargs == ours.published.kwargs and again.labels == tuple(info["labels"])
    assert again.preprocess["resize_to"] == 77 and again.preprocess["interpolation"] == "bicubic"


def test_timm_cannot_hold_another_size_or_gelu():
    kwargs = {"variant": "B/16", "num_classes": 3, "gelu": "exact"}
    assert timm_mixer.sidecar(oracle.metadata("mixer", kwargs, (224, 224)))
    for wrong in ({"gelu": "tanh"}, {"variant": "B/8"}, {"variant": "H/16"}, {"depth": 3}):
        assert timm_mixer.sidecar(oracle.metadata("mixer", kwargs | wrong, (224, 224))) is None


def test_timms_other_mixers_are_not_ours():
    gated = timm.create_model("gmixer_12_224", img_size=32, num_classes=3)
    shapes = {name: tuple(x.shape) for name, x in gated.state_dict().items()}
    assert timm_mixer.describe(shapes, Sidecar()) is None


def tiny_google(prefix=""):
    """Parameters of ours and the same in today's names."""
    kwargs = {"variant": "S/8", "width": 24, "depth": 2, "tokens_mlp_dim": 12, "channels_mlp_dim": 48, "num_classes": 5}
    state = {name: x.numpy() for name, x in randomized(tiny_timm()).state_dict().items()}
    params = oracle.read(timm_mixer, state).params
    return kwargs, params, google_mixer.name_map(kwargs, {"prefix": prefix}).write(params)


def old_names(tensors):
    """The tensors as the first files had them: other names, numbered in the order of calls, with axes of length 1."""
    old = {}
    for name, x in tensors.items():
        name = name.replace("pre_head_layer_norm", "Mixer/encoder_norm").replace("stem/", "embedding/")
        name = name.replace("MixerBlock_", "Mixer/encoderblock_").replace("LayerNorm_1", "LayerNorm_2")
        for phase, mixing in ((1, "token_mixing"), (3, "channel_mixing")):
            if mixing in name:
                start, _, rest = name.partition(f"{mixing}/")
                dense, _, kind = rest.partition("/")
                name = f"{start}{mixing}_phase_{phase}/{kind}{int(dense[-1]) + 1}"
                x = x[None] if kind == "kernel" else x[None, :, None]
        old[name] = x
    return old


@pytest.mark.parametrize("generation", ["now", "now, in a training state", "old"])
def test_generations_of_npz(tmp_path, generation):
    kwargs, params, tensors = tiny_google("opt/target/" if "state" in generation else "")
    tensors = old_names(tensors) if generation == "old" else tensors
    if generation == "old":
        assert "Mixer/encoderblock_1/token_mixing_phase_1/kernel2" in tensors
    ours = oracle.read(google_mixer, oracle.through_npz(tensors, tmp_path / "mixer.npz"))
    assert ours.kwargs == kwargs | google_mixer._STYLE
    for name, x in ours.params.items():
        np.testing.assert_array_equal(x, params[name], err_msg=name)
    # Google's GELU is the tanh form: with the exact one it is timm's model.
    images = oracle.dim_and_bright(32, 32)
    theirs = oracle.timm_outputs(randomized(tiny_timm()), images)
    oracle.assert_same(ours.outputs(images, gelu="exact"), theirs, f"npz {generation}")


def test_our_config_beside_an_npz():
    kwargs, _, tensors = tiny_google()
    info = oracle.metadata("mixer", kwargs | {"gelu": "exact"}, (32, 32))
    again = oracle.read(google_mixer, tensors, Sidecar(google_mixer.sidecar(info)["config.json"])).published
    assert again.kwargs["gelu"] == "exact" and again.labels == tuple(info["labels"])


def test_tokens_that_make_no_square_need_a_size():
    tensors = {"stem.proj.weight": (24, 3, 8, 8), "blocks.0.mlp_tokens.fc1.weight": (12, 15)}
    tensors |= {"blocks.0.mlp_tokens.fc2.weight": (15, 12), "blocks.0.mlp_channels.fc1.weight": (48, 24)}
    with pytest.raises(UserError, match="15 tokens, which make no square"):
        timm_mixer.describe(tensors, Sidecar())
