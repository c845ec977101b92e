"""The linear probe: what its head sees, and a trunk that training leaves alone, whatever it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.drawn import drawn
from tests.tiny import tiny_config
from vit_jax import UserError
from vit_jax.naming import build_named
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.training.config import override
from vit_jax.training.experiment import build_experiment
from vit_jax.training.program import build_program
from vit_jax.training.sharding import make_mesh

VIT = {"name": "vit", "variant": "mu/4", "pooling": "token", "dropout_rate": 0.5, "drop_path_rate": 0.5}
RESNET = {"name": "resnet", "variant": "18", "depths": [1], "width": 8, "stem": "cifar"}
IMAGES = np.random.default_rng(0).normal(3.0, 2.0, size=(6, 8, 8, 3)).astype(np.float32)
trunks = pytest.mark.parametrize("trunk", [VIT, RESNET], ids=["vit", "resnet"])


def build(trunk, **kwargs):
    return build_named("model", {"name": "probed", "trunk": trunk, **kwargs}, "config.model", num_classes=3)


def features_of(trunk, variables):
    model = build_named("model", trunk, "config.model", num_classes=0)
    state = {"encoder": variables["batch_stats"]["encoder"]} if "encoder" in variables.get("batch_stats", {}) else {}
    own = {"params": {"encoder": variables["params"]["encoder"]}, **({"batch_stats": state} if state else {})}
    return np.asarray(jax.jit(lambda v: model.apply(v, IMAGES, train=False)["features"])(own), np.float64)


@pytest.mark.long
@trunks
def test_by_hand(trunk):
    """In training the head sees features normalised over the batch, in evaluation by running statistics."""
    model = build(trunk)
    variables = jax.jit(model.init)(jax.random.key(0), IMAGES)
    assert set(variables["params"]) == {"encoder", "head"} and set(variables["batch_stats"]["head_norm"]) == {
        "mean",
        "var",
    }
    kernel = np.asarray(variables["params"]["head"]["kernel"], np.float64)
    assert 0.007 < kernel.std() < 0.013 and not variables["params"]["head"]["bias"].any()

    # No random key is given: dropout or stochastic depth would ask for one.
    outputs, state = jax.jit(lambda v: model.apply(v, IMAGES, train=True, mutable=["batch_stats"]))(variables)
    x = features_of(trunk, variables)
    normalised = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-6)
    np.testing.assert_allclose(outputs["features"], normalised, rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(outputs["logits"], normalised @ kernel, atol=1e-3)
    after = state["batch_stats"]
    np.testing.assert_allclose(after["head_norm"]["mean"], 0.1 * x.mean(0), rtol=1e-4, atol=1e-5)
    for name in set(after) - {"head_norm"}:
        jax.tree.map(np.testing.assert_array_equal, after[name], variables["batch_stats"][name])
    assert ("encoder" in after) == (trunk is RESNET)

    now = jax.jit(lambda v: model.apply(v, IMAGES, train=False))({"params": variables["params"], **state})
    running = (x - 0.1 * x.mean(0)) / np.sqrt(0.9 + 0.1 * x.var(0) + 1e-6)
    np.testing.assert_allclose(now["logits"], running @ kernel, atol=1e-3)


@trunks
def test_without_a_norm(trunk):
    model = build(trunk, norm="none")
    variables = drawn(model.init, jax.random.key(0), IMAGES)
    assert "head_norm" not in variables.get("batch_stats", {})
    x, head = features_of(trunk, variables), variables["params"]["head"]
    logits = jax.jit(lambda v: model.apply(v, IMAGES, train=True, mutable=["batch_stats"])[0]["logits"])(variables)
    np.testing.assert_allclose(logits, x @ np.asarray(head["kernel"], np.float64), rtol=1e-4, atol=1e-5)


@trunks
def test_no_gradient_reaches_the_trunk(trunk):
    model = build(trunk)
    variables = drawn(model.init, jax.random.key(0), IMAGES)

    def loss(params):
        outputs, _ = model.apply({**variables, "params": params}, IMAGES, train=True, mutable=["batch_stats"])
        return jnp.square(outputs["logits"] - 1).sum()

    gradients = jax.jit(jax.grad(loss))(variables["params"])
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradients["encoder"]))
    assert np.abs(gradients["head"]["kernel"]).max() > 0


def step_flops(model, **overrides):
    values = override(tiny_config(), {k.replace("__", "."): str(v) for k, v in overrides.items()})
    experiment = build_experiment(values | {"model": model, "batch_size": 16})
    raw = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in experiment.pipeline.batch(0).items()}
    mesh = make_mesh({}, jax.devices()[:1])
    program = build_program(experiment.config, experiment.task, experiment.on_device, raw, mesh)
    return program.lower().compile().cost_analysis()["flops"]


@pytest.mark.long
def test_the_step_runs_the_trunk_forward_only():
    """Counted by the compiler: the probe's step costs about the trunk's forward pass, fine-tuning three times that."""
    small = {"width": 64, "mlp_dim": 256, "dropout_rate": 0.0, "drop_path_rate": 0.0, "remat": "full"}
    model = build_named("model", VIT | small, "config.model", num_classes=0)
    images = jax.ShapeDtypeStruct((16, 8, 8, 3), np.float32)
    variables = init_shapes(model.init, jax.random.key(0), images)
    forward = jax.jit(lambda v, x: model.apply(v, x, train=False)["features"]).lower(variables, images)
    forward = forward.compile().cost_analysis()["flops"]
    probe = {"name": "probed", "trunk": VIT | small}
    assert step_flops(probe, optim__frozen="['(?!head/).*']") < 1.15 * forward
    assert step_flops(VIT | small) > 2.5 * forward


def test_bad_values_are_refused():
    with pytest.raises(UserError, match="norm is 'btach'.*Did you mean 'batch'"):
        build(VIT, norm="btach")
    with pytest.raises(UserError, match=r"'config\.model\.trunk\.wdith'.*Did you mean 'width'"):
        build(VIT | {"wdith": 3})
    model = build(VIT)
    variables = init_shapes(model.init, jax.random.key(0), IMAGES)
    with pytest.raises(UserError, match="over one example"):
        jax.eval_shape(lambda v: model.apply(v, IMAGES[:1], train=True, mutable=["batch_stats"]), variables)
