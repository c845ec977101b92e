"""The U-Net with a context by itself: sizes, what it reads, what is refused; tests/parity has diffusers' beside it."""

import jax
import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.models.conditional_unet import Residuals, build
from vit_jax.nn.init_shapes import init_shapes

RNG = np.random.default_rng(0)
SMALL = {"channels": 8, "multipliers": (1, 2), "num_blocks": 1, "attention_levels": (0,), "heads": (2, 4)}
SMALL |= {"context_width": 6, "norm_groups": 4}
V2 = {"heads": (5, 10, 20, 20), "context_width": 1024, "linear": True}


def shapes(model, size=None):
    return init_shapes(model.init, jax.random.key(0), *model.example_inputs(size))["params"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("kwargs", "count"),
    [({}, 859_520_964), (V2, 865_910_724), ({"inputs": 9}, 859_535_364), ({**V2, "inputs": 5}, 865_913_604)],
)
def test_sizes_are_the_papers(kwargs, count):
    assert sum(np.prod(x.shape) for x in jax.tree.leaves(shapes(build(**kwargs)))) == count


@pytest.fixture(scope="module")
def small():
    model = build(**SMALL)
    params = jax.tree.map(lambda x: RNG.normal(0, 0.3, x.shape).astype(np.float32), shapes(model))
    x, context = (RNG.normal(size=size).astype(np.float32) for size in ((2, 4, 6, 4), (2, 3, 6)))
    return model, {"params": params}, (x, np.array([3, 970]), context)


def compiled(model, variables, *args, **kwargs):
    found = jax.jit(model.apply).lower(variables, *args, **kwargs).compile()
    return found, found.cost_analysis()["flops"]


@pytest.mark.long
def test_keys_and_values_of_a_context_are_made_once(small):
    model, variables, (x, times, context) = small
    known = jax.jit(lambda context: model.apply(variables, context, method="context_keys_values"))(context)
    assert known["down_0"]["attention_0"]["block"]["cross"].keys.shape == (2, 3, 2, 4)
    run, dear = compiled(model, variables, x, times, context)
    quick, cheap = compiled(model, variables, x, times, known)
    read = np.asarray(run(variables, x, times, context))
    np.testing.assert_array_equal(quick(variables, x, times, known), read)
    # Three attentions of 8 channels, a level's block down and two up, and one of 16 in the middle.
    assert dear - cheap == pytest.approx(2 * 2 * 3 * 6 * (3 * 8 + 16) * 2, rel=0.05)
    moved = run(variables, x, times, context[:, ::-1] * 2)
    assert np.abs(moved - read).max(axis=(1, 2, 3)).min() > 1e-3


@pytest.mark.long
def test_residuals_of_zeros_change_no_bit_and_others_do(small):
    model, variables, args = small
    maps = [(2, 4, 6, 8), (2, 4, 6, 8), (2, 2, 3, 8), (2, 2, 3, 16)]
    nothing = Residuals(tuple(np.zeros(size, np.float32) for size in maps), np.zeros(maps[-1], np.float32))
    call = jax.jit(lambda residuals: model.apply(variables, *args, residuals=residuals))
    plain = call(None)
    np.testing.assert_array_equal(call(nothing), plain)
    for i in range(len(maps)):
        one = nothing._replace(skips=tuple(x + (i == j) for j, x in enumerate(nothing.skips)))
        assert np.abs(call(one) - plain).max() > 1e-3
    assert np.abs(call(nothing._replace(middle=nothing.middle + 1)) - plain).max() > 1e-3


@pytest.mark.long
def test_a_class_is_a_context_of_one_token(small):
    plain, variables, (x, times, _) = small
    model, table = build(**SMALL, num_classes=3), RNG.normal(size=(3, 6)).astype(np.float32)
    params = {"params": {**variables["params"], "classes": {"embedding": table}}}
    assert shapes(model)["classes"]["embedding"].shape == (3, 6)
    classes = np.array([2, 0])
    known = model.apply(params, classes, method="context_keys_values")
    again = plain.apply(variables, table[classes][:, None], method="context_keys_values")
    jax.tree.map(np.testing.assert_array_equal, known, again)
    call = jax.jit(model.apply)
    given = call(params, x, times, classes)
    np.testing.assert_array_equal(given, call(params, x, times, known))
    assert np.abs(given - call(params, x, times, np.array([2, 1])))[1].max() > 1e-3


@pytest.mark.long
def test_the_cost_is_that_of_the_program(small):
    model, variables, args = small
    _, counted = compiled(model, variables, *args)
    # The program counts norms and activations too.
    assert 1.0 < counted / 2 / model.flops((4, 6), 3) < 1.3


def test_what_does_not_fit_is_refused(small):
    model, variables, (x, times, context) = small
    with pytest.raises(UserError, match="width 6, and the text's are 5 wide"):
        model.apply(variables, x, times, context[..., :5])
    with pytest.raises(UserError, match="width 6, and the text's are 5 wide"):
        model.apply(variables, context[..., :5], method="context_keys_values")
    with pytest.raises(UserError, match="attends to a context, and was given none"):
        model.apply(variables, x, times, None)
    with pytest.raises(UserError, match="has no table of classes") as error:
        model.apply(variables, x, times, times)
    assert "config.task.conditional" in str(error.value)
    with pytest.raises(UserError, match="one of 3 classes, and was given none"):
        init_shapes(build(**SMALL, num_classes=3).init, jax.random.key(0), x, times, None)
    with pytest.raises(UserError, match="reads 4 channels and was given 3"):
        model.apply(variables, x[..., :3], times, context)
    with pytest.raises(UserError, match="heads of 2 levels for 4"):
        build(heads=(8, 8))
    with pytest.raises(UserError, match="cannot halve 6x3"):
        model.apply(variables, x[:, :3], times, context)
