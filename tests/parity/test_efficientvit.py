"""EfficientViT against timm's and against the authors' own code: maps, logits, attention, and files."""

import importlib.util
import inspect

import jax
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.efficientvit_mit import EfficientVit, EfficientVitLarge

import vit_jax
from tests.parity import oracle
from vit_jax.checkpoints import config_keys
from vit_jax.checkpoints.export import export
from vit_jax.checkpoints.families import efficientvit_authors, timm_efficientvit
from vit_jax.checkpoints.source import open_source
from vit_jax.nn.linear_attention import MultiScaleLinearAttention

# Stages of the published kinds, with few channels: of B and of L.
SMALL = {
    "efficientvit_b1": {
        "widths": [8, 8, 16, 16, 32],
        "depths": [1, 2, 2, 1, 2],
        "head_dim": 8,
        "head_widths": [24, 40],
    },
    "efficientvit_l2": {"widths": [8, 8, 8, 16, 32], "depths": [1, 1, 2, 1, 2], "head_dim": 8, "head_widths": [24, 40]},
}
SIZES = ((64, 64), (96, 160))  # with 4 and with 15 places in the last stage, on both sides of a head's 8 features


def redrawn(model, seed=0):
    """Every parameter and every statistic drawn anew, so that maps keep their size and epsilons are felt."""
    rng = np.random.default_rng(seed)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if name.endswith("running_var"):
            drawn = rng.uniform(0.5, 1.5, tensor.shape)
        elif name.endswith("norm.weight") or name.endswith("classifier.1.weight"):
            drawn = rng.uniform(0.3, 0.9, tensor.shape)
        else:
            drawn = rng.normal(0, 1.4 * max(tensor[0].numel(), 4) ** -0.5, tensor.shape)
        tensor.copy_(torch.from_numpy(np.asarray(drawn, np.float32)))
    return model.eval()


def all_outputs(loaded, images):
    return jax.tree.map(
        np.asarray, jax.jit(lambda v, x: loaded.model.apply(v, x, maps=True))(variables(loaded), images)
    )


def variables(loaded):
    return {"params": loaded.params, **loaded.model_state}


@pytest.mark.parametrize(
    "name", [*SMALL, *(pytest.param(f"efficientvit_{v}", marks=pytest.mark.slow) for v in ("b0", "b3", "l1"))]
)
def test_timm_there_and_back(name, tmp_path):
    """A file of timm gives timm's maps and logits, and timm reads what is written of it."""
    small = SMALL.get(name, {})
    theirs = redrawn(timm.create_model(name, num_classes=5, **small))
    folder = tmp_path / "theirs"
    folder.mkdir()
    save_file(theirs.state_dict(), folder / "model.safetensors")
    loaded = vit_jax.load(folder)
    sizes = small or {"variant": name[-2:].upper()}
    assert loaded.metadata["model"]["kwargs"].items() >= {"attention_epsilon": 1e-5, "num_classes": 5}.items()
    assert small or loaded.metadata["model"]["kwargs"]["variant"] == sizes["variant"]
    export(open_source(folder), tmp_path / "ours", "timm")
    back = timm.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True).eval()
    for size in SIZES:
        images = oracle.images(*size)
        found = all_outputs(loaded, images)
        with torch.no_grad():
            pixels = oracle.to_torch(images)
            maps = theirs.forward_intermediates(pixels, intermediates_only=True)
            logits, again = theirs(pixels), back(pixels)
        maps = [each.permute(0, 2, 3, 1).numpy() for each in maps]
        assert list(found["maps"]) == [4, 8, 16, 32]
        for stride, theirs_map in zip(found["maps"], maps, strict=True):
            oracle.assert_close(found["maps"][stride], theirs_map, f"{name} stride {stride} {size}")
        oracle.assert_close(found["logits"], logits.numpy(), f"{name} logits {size}")
        np.testing.assert_array_equal(again, logits)
        oracle.assert_close(found["features"], maps[-1].mean((1, 2)), f"{name} features {size}")


def test_timm_s_epsilon_is_not_the_authors_s():
    """The control: with 1e-15 the comparison above fails where keys are hardly similar to anything."""
    theirs = redrawn(timm.create_model("efficientvit_b1", num_classes=0, **SMALL["efficientvit_b1"]))
    state = theirs.state_dict()
    for name in state:
        if name.endswith(("qkv.conv.weight", "aggreg.0.1.weight")):
            state[name].mul_(1e-3)
        if name.endswith("proj.conv.weight"):  # what attention gives counts as much as before
            state[name].mul_(1e3)
    tensors = {name: x.numpy() for name, x in state.items()}
    images = oracle.images(64, 64)
    with torch.no_grad():
        expected = theirs.forward_features(oracle.to_torch(images)).permute(0, 2, 3, 1).numpy()
    errors = []
    for epsilon in (1e-5, 1e-15):
        ours = oracle.read(timm_efficientvit, tensors, attention_epsilon=epsilon)
        tokens = ours.outputs(images)["tokens"]
        errors.append(oracle.error(tokens.reshape(expected.shape), expected))
    assert errors[0] < oracle.TOLERANCE < 10 * oracle.TOLERANCE < errors[1]


def test_arguments_of_timm_are_known():
    keys = config_keys.TIMM_EFFICIENTVIT
    known = keys.read | keys.harmless | set(keys.fixed)
    for module in (EfficientVit, EfficientVitLarge):
        assert set(inspect.signature(module).parameters) - known == {"norm_layer", "act_layer"}


authors = pytest.mark.skipif(
    importlib.util.find_spec("efficientsam") is None,
    reason="compares with the authors' package: pip install --no-deps efficientsam==1.0.0",
)


@authors
@pytest.mark.parametrize("scale", [3, 5])
@pytest.mark.parametrize("size", [(2, 4), (3, 3), (6, 7)])  # places on both sides of a head's 8 features
def test_the_authors_attention(size, scale):
    from efficientsam.models.nn.ops import LiteMLA

    theirs = redrawn(LiteMLA(16, 16, dim=8, scales=(scale,)))
    layer = MultiScaleLinearAttention(8, (scale,))
    x = np.random.default_rng(0).normal(size=(2, *size, 16)).astype(np.float32)
    state = {name: x.numpy() for name, x in theirs.state_dict().items()}

    def kernel(name):
        return state[f"{name}.weight"].transpose(2, 3, 1, 0)

    norm = {"scale": state["proj.norm.weight"], "bias": state["proj.norm.bias"]}
    params = {
        "qkv": {"kernel": kernel("qkv.conv")},
        f"depthwise_{scale}": {"kernel": kernel("aggreg.0.0")},
        f"grouped_{scale}": {"kernel": kernel("aggreg.0.1")},
        "proj": {"conv": {"kernel": kernel("proj.conv")}, "norm": norm},
    }
    statistics = {"mean": state["proj.norm.running_mean"], "var": state["proj.norm.running_var"]}
    ours = layer.apply({"params": params, "batch_stats": {"proj": {"norm": statistics}}}, x)
    with torch.no_grad():
        expected = theirs(oracle.to_torch(x)).permute(0, 2, 3, 1).numpy()
    oracle.assert_close(np.asarray(ours), expected, f"LiteMLA {size} {scale}")


XL = {
    "block_list": ["res", "fmb", "fmb", "fmb", "att@3", "att@3"],
    "expand_list": [1, 4, 4, 4, 4, 6],
    "fewer_norm_list": [False, False, False, False, True, True],
}
# By name: class, its arguments, epsilon of the norms.
TRUNKS = {
    "b": ("EfficientViTBackbone", {"width_list": [8, 8, 16, 16, 32], "depth_list": [1, 2, 2, 1, 2], "dim": 8}, 1e-5),
    "l": (
        "EfficientViTLargeBackbone",
        {"width_list": [8, 8, 8, 16, 32], "depth_list": [1, 1, 2, 1, 2], "qkv_dim": 8},
        1e-6,
    ),
    "xl": (
        "EfficientViTLargeBackbone",
        {"width_list": [8, 8, 8, 8, 16, 32], "depth_list": [0, 1, 1, 1, 1, 2], "qkv_dim": 8} | XL,
        1e-6,
    ),
}
PUBLISHED = ("b0", "b1", "b2", "b3", "l0", "l1", "l2", "l3")


def trunk_of(name):
    from efficientsam.models.efficientvit import backbone
    from efficientsam.models.nn.norm import set_norm_eps

    if name in TRUNKS:
        kind, arguments, epsilon = TRUNKS[name]
        theirs = getattr(backbone, kind)(**arguments)
    elif name.startswith("xl"):
        depths = {"xl0": [0, 1, 1, 2, 3, 3], "xl1": [1, 2, 2, 4, 6, 6]}[name]
        theirs, epsilon = backbone.EfficientViTLargeBackbone([32, 64, 128, 256, 512, 1024], depths, **XL), 1e-6
    else:
        theirs, epsilon = getattr(backbone, f"efficientvit_backbone_{name}")(), 1e-5 if name[0] == "b" else 1e-6
    set_norm_eps(theirs, epsilon)
    return redrawn(theirs)


@authors
@pytest.mark.parametrize(
    "name", [*TRUNKS, *(pytest.param(name, marks=pytest.mark.slow) for name in (*PUBLISHED, "xl0", "xl1"))]
)
def test_the_authors_trunks(name):
    """Every map of each trunk, from its tensors in the authors' names, at two sizes."""
    theirs = trunk_of(name)
    tensors = {key: x.numpy() for key, x in theirs.state_dict().items()}
    ours = oracle.read(efficientvit_authors, tensors)
    assert name in TRUNKS or set(ours.kwargs) & {"widths", "depths"} == set()
    for size in SIZES:
        images = oracle.images(*size, batch=2)
        given = {"params": oracle.nested({k: v for k, v in ours.params.items() if not k.startswith("batch_stats/")})}
        given |= oracle.nested({k: v for k, v in ours.params.items() if k.startswith("batch_stats/")})
        found = jax.jit(lambda v, x: ours.model.apply(v, x, maps=True)["maps"])(given, images)
        with torch.no_grad():
            expected = theirs(oracle.to_torch(images))
        for i, stride in enumerate(found, 1):
            oracle.assert_close(
                np.asarray(found[stride]),
                expected[f"stage{i}"].permute(0, 2, 3, 1).numpy(),
                f"{name} stride {stride} {size}",
            )
