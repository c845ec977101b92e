"""ControlNet by itself: its size, that it changes nothing at first, what it reads, what is refused."""

import jax
import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.models import conditional_unet
from vit_jax.models.controlnet import build, together, with_copies
from vit_jax.nn.init_shapes import init_shapes

RNG = np.random.default_rng(0)
SMALL = {"channels": 8, "multipliers": (1, 2), "num_blocks": 1, "attention_levels": (0,), "heads": 2}
SMALL |= {"context_width": 6, "norm_groups": 4}


def shapes(model):
    return init_shapes(model.init, jax.random.key(0), *model.example_inputs(None))["params"]


def drawn(*size):
    return RNG.normal(size=size).astype(np.float32)


def redrawn(tree):
    return jax.tree.map(lambda x: 0.3 * drawn(*x.shape), tree)


def test_its_size_is_the_papers():
    assert sum(np.prod(x.shape) for x in jax.tree.leaves(shapes(build()))) == 361_279_120


@pytest.fixture(scope="module")
def small():
    model = build(**SMALL, hint_widths=(2, 4))
    args = drawn(2, 4, 6, 4), np.array([3, 970]), drawn(2, 3, 6)
    return model, redrawn(shapes(model)), args, drawn(2, 8, 12, 3)


@pytest.mark.long
def test_at_first_the_unet_is_the_same_to_the_bit(small):
    control, drawn_params, args, image = small
    unet = conditional_unet.build(**SMALL)
    params = redrawn(shapes(unet))
    zeros = {name: jax.tree.map(np.zeros_like, drawn_params[name]) for name in drawn_params if "zero" in name}
    start = with_copies({**drawn_params, **zeros}, params)
    assert start["down_0"] is params["down_0"] and start["hint"] is drawn_params["hint"]

    @jax.jit
    def both(of_control):
        residuals = control.apply({"params": of_control}, *args, image)
        apply = jax.tree_util.Partial(unet.apply, {"params": params}, *args)
        return apply(), apply(residuals=residuals)

    plain, controlled = both(start)
    np.testing.assert_array_equal(plain, controlled)
    plain, controlled = both(drawn_params)
    assert np.abs(plain - controlled).max(axis=(1, 2, 3)).min() > 1e-2
    with pytest.raises(UserError, match="not as large"):
        with_copies(start, {**params, "conv_in": {"kernel": np.zeros((3, 3, 9, 8)), "bias": np.zeros(8)}})
    with pytest.raises(UserError, match="not as large"):
        with_copies(start, {name: value for name, value in params.items() if name != "middle"})


def test_the_initial_values_add_nothing(small):
    model, _, args, image = small

    @jax.jit
    def initial(rng):
        params = model.init(rng, *args, image)["params"]
        zeros = [params[name]["kernel"] for name in params if name.startswith("zero_")]
        return [*zeros, params["hint"]["conv_out"]["kernel"]]

    found = initial(jax.random.key(0))
    assert len(found) == 6 and not any(np.any(x) for x in found)


@pytest.mark.long
def test_scale_and_what_the_steps_share(small):
    model, params, args, image = small
    variables = {"params": params}
    hint = model.apply(variables, image, method="hinted")
    known = model.apply(variables, args[2], method="context_keys_values")
    call = jax.jit(lambda scale, *more: model.apply(variables, *more, scale=scale))
    plain = call(1.0, *args, image)
    jax.tree.map(np.testing.assert_array_equal, plain, call(1.0, *args[:2], known, hint))
    half = call(np.array([0.5, 2], np.float32), *args, image)
    factors = np.array([0.5, 2], np.float32).reshape(2, 1, 1, 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b * factors, rtol=1e-5), half, plain)
    two = together([plain, half])
    np.testing.assert_allclose(two.middle, plain.middle + half.middle, rtol=1e-6)
    with pytest.raises(UserError, match="different U-Nets"):
        together([plain, plain._replace(skips=plain.skips[1:])])


def test_another_image_is_refused(small):
    model, params, args, image = small
    with pytest.raises(UserError, match=r"11x8 pixels and 3 channels does not fit 12x8 and 3"):
        model.apply({"params": params}, *args, image[:, :, :11])
    with pytest.raises(UserError, match=r"11x8 pixels"):
        model.apply({"params": params}, image[:, :, :11], method="hinted")
    with pytest.raises(UserError, match="1 channels"):
        model.apply({"params": params}, *args, image[..., :1])
