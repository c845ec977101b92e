"""The contrastive losses against the papers' formulas in float64 NumPy with loops, on one and on eight devices."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vit_jax.tasks.moco_v3 import contrast
from vit_jax.tasks.simclr import nt_xent

N, D = 16, 12
RNG = np.random.default_rng(0)
FIRST = RNG.normal(size=(N, D))
SECOND = 0.7 * FIRST + RNG.normal(size=(N, D)) * np.linspace(0.1, 3, N)[:, None]


def cosine(a, b):
    return a @ b / np.sqrt((a @ a) * (b @ b))


def simclr_equation_1(first, second, temperature):
    """l(i, j) = -log exp(s_ij / t) / sum over k != i of exp(s_ik / t), with views 2k - 1 and 2k of image k."""
    views = [view for pair in zip(first, second, strict=True) for view in pair]
    losses = []
    for i, z in enumerate(views):
        j = i ^ 1
        negatives = [cosine(z, views[k]) / temperature for k in range(len(views)) if k not in (i, j)]
        assert len(negatives) == 2 * len(first) - 2
        own = cosine(z, views[j]) / temperature
        losses.append(np.log(np.exp(own) + np.exp(negatives).sum()) - own)
    return np.mean(losses)


def moco_equation_1(queries, keys, temperature):
    losses = []
    for i, q in enumerate(queries):
        similarities = np.array([cosine(q, k) for k in keys]) / temperature
        losses.append(np.log(np.exp(similarities).sum()) - similarities[i])
    return 2 * temperature * np.mean(losses)


CASES = {"simclr": (nt_xent, simclr_equation_1), "moco": (contrast, moco_equation_1)}


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("x64", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_the_papers_formula(name, x64, devices, temperature):
    ours, formula = CASES[name]
    expected = formula(FIRST, SECOND, temperature)
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    with jax.enable_x64(x64):
        rows = NamedSharding(mesh, PartitionSpec("data"))
        first, second = (jax.device_put(jnp.asarray(x), rows) for x in (FIRST, SECOND))
        assert first.dtype == (jnp.float64 if x64 else jnp.float32)
        losses, _ = jax.jit(lambda a, b: ours(a, b, temperature))(first, second)
        np.testing.assert_allclose(losses.mean(), expected, rtol=1e-10 if x64 else 1e-5)


@pytest.mark.parametrize("name", CASES)
def test_gradients_do_not_depend_on_the_devices(name):
    gradient = jax.jit(jax.grad(lambda a, b: CASES[name][0](a, b, 0.2)[0].mean(), argnums=(0, 1)))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    first, second = jnp.asarray(FIRST, jnp.float32), jnp.asarray(SECOND, jnp.float32)
    spread = jax.device_put((first, second), NamedSharding(mesh, PartitionSpec("data")))
    for a, b in zip(gradient(first, second), gradient(*spread), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert np.abs(gradient(first, second)[0]).max() > 1e-3


def test_masking_removes_the_view_itself_and_nothing_else():
    """Were the diagonal in the sum, equal views would cost log(2N) at least; were more removed, less than log(2N - 1)."""
    same = jnp.ones((4, 3))
    losses, _ = jax.jit(nt_xent)(same, same, 0.1)
    np.testing.assert_allclose(losses, np.log(7), rtol=1e-6)


def test_accuracies():
    """The nearest other view of the fifth image is the sixth's."""
    first, second = jnp.eye(8)[:6], jnp.eye(8)[:6].at[4].set(jnp.eye(8)[5])
    _, right = jax.jit(nt_xent)(first, second, 0.1)
    assert right.reshape(2, 6)[0].tolist()[:4] == [1, 1, 1, 1] and right[4] == 0
    _, right = jax.jit(contrast)(first, second, 0.1)
    assert right[:4].tolist() == [1, 1, 1, 1] and right[4] == 0


def test_vanished_embeddings_give_finite_gradients():
    for loss, _ in CASES.values():
        gradient = jax.jit(jax.grad(lambda a, loss=loss: loss(a, a, 0.1)[0].mean()))(jnp.zeros((4, 3)))
        assert np.isfinite(gradient).all()


def test_nt_xent_of_lightly():
    loss = pytest.importorskip("lightly.loss", reason="lightly is not installed")
    torch = pytest.importorskip("torch", reason="compares with torch")
    theirs = loss.NTXentLoss(temperature=0.3)(torch.tensor(FIRST), torch.tensor(SECOND))
    with jax.enable_x64(True):
        np.testing.assert_allclose(nt_xent(jnp.asarray(FIRST), jnp.asarray(SECOND), 0.3)[0].mean(), theirs, rtol=1e-6)


@pytest.mark.parametrize("loss", [lambda a, b: nt_xent(a, b, 0.1), lambda a, b: contrast(a, b, 0.2)])
def test_no_device_holds_similarities_of_more_than_its_own_examples(loss):
    """Its own with those of the whole batch: memory that is linear in the global batch, not its square."""
    local, width = 24, 4
    for devices in (2, 8):
        mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
        rows = NamedSharding(mesh, PartitionSpec("data"))
        views = jax.ShapeDtypeStruct((local * devices, 2, width), jnp.float32, sharding=rows)
        gradient = jax.jit(
            jax.grad(lambda views: loss(views[:, 0], views[:, 1])[0].mean()), in_shardings=rows, out_shardings=rows
        )
        compiled = gradient.lower(views).compile()
        shapes = re.findall(r"\b[a-z]+\d*\[([\d,]+)\]", compiled.as_text())
        largest = max(math.prod(map(int, shape.split(","))) for shape in shapes)
        losses, _ = jax.eval_shape(loss, *[jax.ShapeDtypeStruct((2, width), jnp.float32)] * 2)
        compared = losses.size // 2  # SimCLR compares both views with both
        assert largest == compared**2 * local * local * devices
