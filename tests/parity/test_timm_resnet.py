"""ResNets against timm's: features in evaluation and training, running statistics, gradients, and files."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from vit_jax.checkpoints.export import export
from vit_jax.checkpoints.source import open_source
from vit_jax.models.resnet import build

torch = pytest.importorskip("torch", reason="compares with torch")
pytest.importorskip("timm", reason="compares with timm")

import timm  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from timm.models.resnet import BasicBlock, Bottleneck, ResNet  # noqa: E402

from tests.parity import oracle  # noqa: E402
from vit_jax.nn.init_shapes import init_shapes  # noqa: E402

pytestmark = pytest.mark.oracle
CASES = {"18": (BasicBlock, [1, 1, 1, 1]), "50": (Bottleneck, [1, 2, 1, 1])}


def name_in_timm(name):
    """'encoder/stage2_unit01/proj_norm/scale' as 'layer2.0.downsample.1.weight'."""
    name = name.removeprefix("encoder/").replace("head/", "fc/").replace("norm", "bn")
    name = re.sub(r"stage(\d)_unit(\d+)", lambda m: f"layer{m[1]}/{int(m[2]) - 1}", name)
    name = name.replace("proj_conv", "downsample/0").replace("proj_bn", "downsample/1")
    for ours, theirs in (("kernel", "weight"), ("scale", "weight"), ("mean", "running_mean"), ("var", "running_var")):
        name = re.sub(f"/{ours}$", f"/{theirs}", name)
    return name.replace("/", ".")


def to_torch(array):
    array = np.asarray(array)
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def flat(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {name_in_timm(jax.tree_util.keystr(p, simple=True, separator="/")): to_torch(leaf) for p, leaf in leaves}


@pytest.mark.parametrize("variant", CASES)
def test_the_same_network(variant):
    block, depths = CASES[variant]
    theirs = ResNet(block, depths, num_classes=5)
    ours = build(variant, num_classes=5, depths=depths)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, 48, 40, 3)).astype(np.float32)
    shapes = init_shapes(ours.init, jax.random.key(0), images)

    def draw(path, leaf):
        # Every leaf random, scales and variances positive.
        if path[-1].key in ("var", "scale"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return rng.normal(0, max(np.prod(leaf.shape[:-1]), 4) ** -0.5, leaf.shape).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    state = flat(variables["params"]) | flat(variables["batch_stats"])
    wanted = {k for k in theirs.state_dict() if not k.endswith("num_batches_tracked")}
    assert set(state) == wanted
    theirs.load_state_dict({k: torch.tensor(v.copy()) for k, v in state.items()}, strict=False)

    pixels = torch.tensor(images.transpose(0, 3, 1, 2).copy())
    theirs.eval()
    with torch.no_grad():
        features = theirs.forward_head(theirs.forward_features(pixels), pre_logits=True).numpy()
        logits = theirs(pixels).numpy()
    outputs = ours.apply(variables, images)
    np.testing.assert_allclose(outputs["features"], features, rtol=1e-4, atol=1e-4 * np.abs(features).max())
    np.testing.assert_allclose(outputs["logits"], logits, rtol=1e-4, atol=1e-4 * np.abs(logits).max())

    counts = {}  # values that a variance is over
    for name, module in theirs.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(lambda m, given, out, name=name: counts.update({name: out[:, 0].numel()}))
    theirs.train()
    theirs(pixels).square().mean().backward()

    def loss(params):
        outputs, new = ours.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        return jnp.square(outputs["logits"]).mean(), new["batch_stats"]

    gradients, new = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    for name, gradient in flat(gradients).items():
        expected = theirs.get_parameter(name).grad.numpy()
        np.testing.assert_allclose(gradient, expected, rtol=1e-2, atol=2e-4 * np.abs(expected).max(), err_msg=name)
    new, old, updated = flat(new), flat(variables["batch_stats"]), theirs.state_dict()
    for name, value in new.items():
        expected = updated[name].numpy()
        if name.endswith("running_var"):  # PyTorch's is over n - 1
            n = counts[name.removesuffix(".running_var")]
            expected = 0.9 * old[name] + (expected - 0.9 * old[name]) * (n - 1) / n
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5, err_msg=name)


def random_statistics(model):
    """Every parameter and every statistic drawn anew."""
    generator = torch.Generator().manual_seed(0)
    norms = ("running_var", "bn1.weight", "bn2.weight", "bn3.weight", "downsample.1.weight")
    for name, tensor in model.state_dict().items():
        if name.endswith(norms):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * max(tensor[0].numel(), 4) ** -0.5)
    return model.eval()


@pytest.mark.parametrize("name", ["resnet18", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_files_there_and_back(name, tmp_path):
    """A file of timm is loaded, gives timm's numbers at two sizes, and timm loads what is written of it."""
    theirs = random_statistics(timm.create_model(name, num_classes=5))
    (tmp_path / "theirs").mkdir()
    save_file(theirs.state_dict(), tmp_path / "theirs" / "model.safetensors")
    loaded = vit_jax.load(tmp_path / "theirs")
    assert loaded.model_state["batch_stats"]["encoder"]["norm1"]["var"].shape == (64,)
    export(open_source(tmp_path / "theirs"), tmp_path / "ours", "timm")
    back = timm.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True).eval()
    for size in ((64, 64), (96, 40)):
        images = oracle.images(*size)
        pixels = oracle.to_torch(images)
        with torch.no_grad():
            features = theirs.forward_head(theirs.forward_features(pixels), pre_logits=True).numpy()
            logits, again = theirs(pixels).numpy(), back(pixels).numpy()
        oracle.assert_close(np.asarray(loaded.features(images)), features, f"{name} features {size}")
        oracle.assert_close(np.asarray(loaded.logits(images)), logits, f"{name} logits {size}")
        np.testing.assert_array_equal(again, logits)
