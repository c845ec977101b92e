"""DiT by itself: sizes, initial values, what it reads, what is refused; tests/parity has diffusers' beside it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.models.dit import build
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.posemb import sincos2d
from vit_jax.tasks import DataInfo, ddpm

TINY = {"variant": "S/2", "width": 16, "depth": 2, "num_heads": 2, "mlp_dim": 32}
RNG = np.random.default_rng(0)


def test_sizes_are_the_papers():
    """Table 4 of the paper: parameters in millions, and Gflops, which count a multiplication and an addition as one."""
    for variant, millions, gflops in (
        ("XL/2", 675, 118.64),
        ("L/4", 458, 19.70),
        ("B/2", 130, 23.01),
        ("S/8", 33, 0.36),
    ):
        model = build(variant=variant, num_classes=1001)
        params = init_shapes(model.init, jax.random.key(0), *model.example_inputs((32, 32)))["params"]
        count = sum(np.prod(x.shape) for x in jax.tree.leaves(params))
        assert round(count / 1e6) == millions and (variant != "XL/2" or count == 674_834_720)
        assert model.flops((32, 32)) / 2e9 == pytest.approx(gflops, abs=0.03)


@pytest.mark.long
def test_blocks_begin_as_the_identity_and_read_time_and_class():
    task = ddpm.build(
        model={"name": "dit", **TINY, "scan": True}, data=DataInfo((4, 6), ("a", "b")), conditional=True,
        label_drop=0.1, variance="learned_range",
    )  # fmt: skip
    model, params = task.model, jax.jit(task.init)(jax.random.key(0), {})["params"]
    assert (model.inputs, model.outputs, model.num_classes) == (3, 6, 3)
    bound = (6 / (16 + 3 * 16)) ** 0.5
    assert 0.8 * bound < np.abs(params["block_01"]["attention"]["query"]["kernel"]).max() <= bound
    assert np.std(params["time"]["fc1"]["kernel"]) == pytest.approx(0.02, rel=0.1)
    assert not params["block_00"]["mlp"]["fc1"]["bias"].any()
    x = RNG.normal(size=(2, 4, 6, 3)).astype(np.float32)
    call = jax.jit(lambda params, times, labels: model.apply({"params": params}, x, times, labels))
    assert not call(params, jnp.array([0, 5]), jnp.array([0, 1])).any()
    # A head that is not zero sees the patches and their places; blocks add nothing yet.
    head = RNG.normal(size=(16, 24)).astype(np.float32)
    found = call(params | {"output": params["output"] | {"kernel": head}}, jnp.array([0, 5]), jnp.array([0, 1]))
    patches = x.reshape(2, 2, 2, 3, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 2, 3, 12)
    tokens = patches @ params["embedding"]["kernel"].reshape(12, 16) + params["embedding"]["bias"]
    tokens = tokens + sincos2d((2, 3), 16, reaches_temperature=False)
    tokens = (tokens - tokens.mean(-1, keepdims=True)) / np.sqrt(tokens.var(-1, keepdims=True) + 1e-6)
    wanted = (tokens @ head).reshape(2, 2, 3, 2, 2, 6).transpose(0, 1, 3, 2, 4, 5).reshape(2, 4, 6, 6)
    np.testing.assert_allclose(found, wanted, atol=1e-4)

    drawn = jax.tree.map(lambda x: RNG.normal(0, 0.3, x.shape).astype(np.float32), params)
    first = call(drawn, jnp.array([0, 5]), jnp.array([0, 1]))
    apart = lambda y: (np.abs(first - y).max((1, 2, 3)) > 1e-3).tolist()  # noqa: E731
    assert apart(call(drawn, jnp.array([0, 6]), jnp.array([0, 1]))) == [False, True]
    assert apart(call(drawn, jnp.array([0, 5]), jnp.array([2, 1]))) == [True, False]


def test_another_grid_is_stretched_where_a_side_is_said():
    np.testing.assert_allclose(sincos2d((2, 8), 8, span=4)[1, 2], sincos2d((4, 4), 8)[2, 1], rtol=1e-6)
    np.testing.assert_array_equal(sincos2d((3, 3), 8, span=3), sincos2d((3, 3), 8))


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="6x5 places do not divide into patches of 2x2"):
        ddpm.build(model={"name": "dit", **TINY}, data=DataInfo((5, 6), ()))
    with pytest.raises(UserError, match="There is no DiT 'H/2'"):
        build(variant="H/2")
    with pytest.raises(UserError, match="width of 16 does not divide into 3 heads"):
        build(**TINY | {"num_heads": 3})
    with pytest.raises(UserError, match="one of 3 classes, and was given none"):
        model = build(**TINY, num_classes=3)
        init_shapes(model.init, jax.random.key(0), np.zeros((1, 4, 4, 4)), np.zeros(1))
