"""FID's Inception against pytorch-fid, built with random weights: nothing is downloaded."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="compares with torch")
pytest.importorskip("pytorch_fid", reason="compares with pytorch-fid")

from pytorch_fid import fid_score, inception  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

import vit_jax  # noqa: E402
from tests.parity import oracle  # noqa: E402
from vit_jax import UserError  # noqa: E402
from vit_jax.checkpoints.export import export  # noqa: E402
from vit_jax.checkpoints.families import pytorch_fid  # noqa: E402
from vit_jax.checkpoints.source import open_source  # noqa: E402
from vit_jax.evaluators import fid  # noqa: E402
from vit_jax.evaluators.frechet_distance import Moments, frechet_distance  # noqa: E402
from vit_jax.models.inception_fid import build  # noqa: E402
from vit_jax.nn.init_shapes import init_shapes  # noqa: E402


@pytest.fixture(scope="module")
def theirs():
    """Their network, every parameter and statistic drawn anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_: None)
        patch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: {})
        network = inception.fid_inception_v3()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith(("bn.running_var", "bn.weight")):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.is_floating_point():
                scale = (2 / max(tensor[0].numel(), 4)) ** 0.5 if tensor.ndim > 1 else 0.3
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale)
    return network.eval()


@pytest.fixture(scope="module")
def file(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "inception.safetensors"
    save_file(theirs.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 40, 32, 3)).astype(np.uint8)


def pool3(network, images, monkeypatch):
    """What pytorch-fid gives for uint8 images: resized, in -1..1, the last mean."""
    monkeypatch.setattr(inception, "fid_inception_v3", lambda: network)
    with torch.no_grad():
        pixels = torch.tensor(images.transpose(0, 3, 1, 2) / np.float32(255))
        return inception.InceptionV3().eval()(pixels)[0][..., 0, 0].numpy()


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * max(1, np.abs(theirs).max()), rtol=0)


def test_the_published_size():
    shapes = init_shapes(build().init, jax.random.key(0), np.zeros((1, 299, 299, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == 23_850_960
    counted = build().apply
    assert jax.eval_shape(counted, shapes, np.zeros((1, 299, 299, 3)))["tokens"].shape == (1, 64, 2048)


def test_features_and_logits(theirs, file, images, monkeypatch):
    """Through the file, from the same float images, and there and back."""
    tensors = {name: x.numpy() for name, x in load_file(file).items() if not name.endswith("num_batches_tracked")}
    ours = oracle.read(pytorch_fid, tensors)
    assert ours.model.num_classes == 1008 and ours.image_size == (299, 299)
    pixels = np.random.default_rng(1).uniform(-1, 1, (1, 299, 299, 3)).astype(np.float32)
    with torch.no_grad():
        batch = torch.tensor(pixels.transpose(0, 3, 1, 2).copy())
        monkeypatch.setattr(inception, "fid_inception_v3", lambda: theirs)
        features = inception.InceptionV3(resize_input=False, normalize_input=False).eval()(batch)[0][..., 0, 0]
        logits = theirs.fc(features).numpy()
    found = ours.outputs(pixels)
    assert np.abs(features.numpy()).max() > 0.1
    close(found["features"], features.numpy())
    close(found["logits"], logits)


def test_pool3_of_small_images(theirs, file, images, monkeypatch):
    """What the evaluator measures on, resized as theirs."""
    expected = pool3(theirs, images, monkeypatch)
    [found] = fid.inception(str(file), "pytorch").stream([images])
    close(found, expected)


def test_files_of_ours(file, tmp_path):
    export(open_source(file), tmp_path / "ours.safetensors", "pytorch_fid")
    written, first = load_file(tmp_path / "ours.safetensors"), load_file(file)
    assert written.keys() == {name for name in first if not name.endswith("num_batches_tracked")}
    assert all(torch.equal(tensor, first[name]) for name, tensor in written.items())


def test_another_inception_is_refused(file, tmp_path):
    tensors = load_file(file)
    tensors["fc.weight"], tensors["fc.bias"] = tensors["fc.weight"][:1000].clone(), tensors["fc.bias"][:1000].clone()
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="another Inception v3 than FID's, with 1000 classes"):
        vit_jax.load(tmp_path / "other.safetensors")


@pytest.mark.parametrize("rank", [12, 5])
def test_the_distance(rank):
    """As theirs, of covariances with and without full rank."""
    rng = np.random.default_rng(rank)
    sets = [rng.normal(size=(60, rank)) @ rng.normal(size=(rank, 12)) + rng.normal(size=12) for _ in range(2)]
    ours = frechet_distance(*(Moments.of([x]).gaussian() for x in sets))
    statistics = [f(x) for x in sets for f in (lambda x: x.mean(0), lambda x: np.cov(x, rowvar=False))]
    expected = fid_score.calculate_frechet_distance(*statistics)
    assert ours == pytest.approx(expected, rel=1e-6)
