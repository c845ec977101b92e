"""VGG against timm's, LPIPS against its formula in torch, and the PatchGAN against its layers in torch."""

import jax
import numpy as np
import pytest

import vit_jax
from vit_jax.checkpoints.families import timm_vgg
from vit_jax.checkpoints.source import flat_shapes, model_shapes, nested
from vit_jax.checkpoints.transfer import flat_arrays
from vit_jax.nn.discriminator import PatchDiscriminator
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.lpips_weights import lpips_weights
from vit_jax.nn.perceptual import map_distance, seen_by

torch = pytest.importorskip("torch", reason="compares with torch")
pytest.importorskip("timm", reason="compares with timm")

from safetensors.torch import save_file  # noqa: E402
from timm.models.vgg import VGG  # noqa: E402

pytestmark = pytest.mark.oracle
SIXTEEN = [64, 64, "M", 128, 128, "M", *[256] * 3, "M", *[512] * 3, "M", *[512] * 3, "M"]


def randomised(module):
    """Every parameter random, of a size that keeps the maps' size."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 50
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (2 / fan_in) ** 0.5)
    return module.eval()


def nchw(images):
    return torch.tensor(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-4 * max(1, np.abs(expected).max()))


def test_a_file_of_timms(tmp_path):
    theirs = VGG([8, 8, "M", 16, 16, "M", 32, 32, 32, "M", 64, "M", 64, 64, "M"], num_classes=5)
    theirs.pre_logits.fc1, theirs.pre_logits.fc2 = torch.nn.Conv2d(64, 24, 7), torch.nn.Conv2d(24, 24, 1)
    theirs.head.fc = torch.nn.Linear(24, 5)
    save_file(randomised(theirs).state_dict(), tmp_path / "model.safetensors")
    loaded = vit_jax.load(tmp_path / "model.safetensors")
    kwargs = loaded.metadata["model"]["kwargs"]
    assert kwargs == {"variant": "16", "depths": [2, 2, 3, 1, 2], "width": 8, "hidden": 24, "num_classes": 5}
    images = np.random.default_rng(1).normal(size=(2, 256, 224, 3)).astype(np.float32)
    with torch.no_grad():
        _, maps = theirs.forward_intermediates(nchw(images))
        logits = theirs(nchw(images)).numpy()
    outputs = jax.jit(lambda v, x: loaded.model.apply(v, x, maps=True))({"params": loaded.params}, images)
    for stride, found in outputs["maps"].items():
        close(found, maps[int(np.log2(stride))].numpy().transpose(0, 2, 3, 1))
    close(outputs["logits"], logits)
    written = timm_vgg.name_map(kwargs, {}).write(flat_arrays(loaded.params))
    assert set(written) == set(theirs.state_dict())
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(written[name], tensor.numpy())


def test_the_published_size():
    with torch.device("meta"):
        theirs = {name: tuple(x.shape) for name, x in VGG(SIXTEEN).state_dict().items()}
    kwargs = {"variant": "16", "num_classes": 1000}
    params, _ = model_shapes("vgg", kwargs, (224, 224))
    timm_vgg.name_map(kwargs, {}).check(theirs, "file")
    timm_vgg.name_map(kwargs, {}).check_sizes(theirs, params, "file")
    assert sum(np.prod(shape) for shape in params.values()) == 138_357_544


def test_lpips(tmp_path):
    """The formula of `lpips` 0.1.4, written out in torch, on the convolutions of timm's VGG-16."""
    theirs = VGG(SIXTEEN, num_classes=0, mlp_ratio=0.002)  # 8 outputs instead of 4096
    theirs.pre_logits.fc2 = torch.nn.Conv2d(8, 8, 1)
    save_file(randomised(theirs).state_dict(), tmp_path / "model.safetensors")
    first, second = np.random.default_rng(0).uniform(-1, 1, (2, 2, 48, 32, 3)).astype(np.float32)
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    weights, expected = lpips_weights(), 0
    with torch.no_grad():
        maps = [
            theirs.forward_intermediates(
                (nchw(x) - shift[:, None, None]) / scale[:, None, None],
                indices=[0, 1, 2, 3, 4],
                intermediates_only=True,
            )
            for x in (first, second)
        ]
        for level, (a, b) in enumerate(zip(*maps, strict=True)):
            a, b = (x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) for x in (a, b))
            each = ((a - b).square() * torch.tensor(weights[2**level])[:, None, None]).sum(1)
            expected = expected + each.mean((1, 2)).numpy()

    model = vit_jax.models.vgg.build(hidden=0)
    params = {"encoder": vit_jax.load(tmp_path / "model.safetensors").params["encoder"]}

    @jax.jit
    def lpips(a, b):
        found = (model.apply({"params": params}, seen_by(x), maps=True)["maps"] for x in (a, b))
        return map_distance(*found, weights)

    np.testing.assert_allclose(lpips(first, second), expected, rtol=1e-4)
    assert min(expected) > 0.01


def test_the_discriminator_of_taming():
    """In training, and with the running statistics that two batches leave."""
    layers, width = [torch.nn.Conv2d(3, 8, 4, 2, 1), torch.nn.LeakyReLU(0.2)], 8
    for stride in (2, 2, 1):
        layers += [torch.nn.Conv2d(width, 2 * width, 4, stride, 1, bias=False), torch.nn.BatchNorm2d(2 * width)]
        layers, width = [*layers, torch.nn.LeakyReLU(0.2)], 2 * width
    theirs = randomised(torch.nn.Sequential(*layers, torch.nn.Conv2d(width, 1, 4, 1, 1))).train()
    ours = PatchDiscriminator(8)
    batches = np.random.default_rng(0).uniform(-1, 1, (2, 3, 48, 40, 3)).astype(np.float32)
    shapes = init_shapes(ours.init, jax.random.key(0), batches[0])
    modules = {f"conv_{i}": theirs[max(0, 3 * i - 1)] for i in range(4)} | {"score": theirs[-1]}
    modules |= {f"norm_{i}": theirs[3 * i] for i in range(1, 4)}
    of = {"kernel": "weight", "scale": "weight", "bias": "bias"}
    params = {}
    for name in flat_shapes(shapes["params"]):
        module, leaf = name.split("/")
        value = getattr(modules[module], of[leaf]).detach().numpy()
        params[name] = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
    state = jax.tree.map(lambda x, one: np.full(x.shape, one, np.float32), shapes["batch_stats"],
                         {f"norm_{i}": {"mean": 0.0, "var": 1.0} for i in range(1, 4)})  # fmt: skip
    apply = jax.jit(
        lambda s, x: ours.apply({"params": nested(params), "batch_stats": s}, x, train=True, mutable=["batch_stats"])
    )
    for batch in batches:
        found, state = apply(state, batch)
        state = state["batch_stats"]
        close(found, theirs(nchw(batch)).detach().numpy()[:, 0])
    np.testing.assert_allclose(state["norm_2"]["mean"], theirs[6].running_mean.numpy(), atol=1e-5)
    theirs.eval()
    found = jax.jit(ours.apply)({"params": nested(params), "batch_stats": state}, batches[0])
    with torch.no_grad():
        expected = theirs(nchw(batches[0])).numpy()[:, 0]
    # Running variances: PyTorch counts n / (n - 1), here at least 1.2 % in ten of the smallest map.
    assert found.shape == expected.shape and np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999
