"""The classifier by itself: it is the first half of ADM's U-Net, of which tests/parity has diffusers' beside it."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.models import unet
from vit_jax.models.unet_classifier import build
from vit_jax.nn.conv import GroupNorm
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.nn.pool import MeanQueryPool
from vit_jax.nn.unet_levels import UNetLevels

RNG = np.random.default_rng(0)
SMALL = {"channels": 8, "multipliers": (1, 2), "num_blocks": 1, "attention_levels": (1,), "norm_groups": 4}
SMALL |= {"head_width": 4, "epsilon": 1e-2}


class FirstHalf(UNetLevels):
    """The classifier from the methods of a U-Net's."""

    @nn.compact
    def __call__(self, x, times):
        x = self.blocks.style.conv(self.channels, 3, "conv_in")(x)
        _, x = self.way_down(x, self.embedded(times), train=False)
        x = nn.silu(GroupNorm(4, 1e-2, name="norm_out")(x))
        return MeanQueryPool(3, 4, name="pool")(x), x.mean(axis=(1, 2))


def test_parameters_are_those_of_the_first_half_with_a_pool():
    """By name and shape; the way up is left out, and the middle stays."""
    x, times = np.zeros((1, 4, 6, 3), np.float32), np.zeros(1, int)
    whole = unet.build(**SMALL, time="adm", modulates=True, residual_resample=True)
    ours, theirs = (
        init_shapes(model.init, jax.random.key(0), x, times)["params"]
        for model in (build(**SMALL, num_classes=3), whole)
    )
    left = {name for name in theirs if name.startswith("up_")} | {"conv_out"}
    assert ours.keys() == theirs.keys() - left | {"pool"} and len(left) == 3
    for name in ours.keys() - {"norm_out", "pool"}:  # of as many channels as the middle has
        assert jax.tree.map(lambda a: a.shape, ours[name]) == jax.tree.map(lambda a: a.shape, theirs[name]), name
    with pytest.raises(UserError, match="does not divide|norm_groups"):
        init_shapes(build(**SMALL | {"norm_groups": 3}, num_classes=3).init, jax.random.key(0), x, times)


@pytest.mark.long
def test_it_is_the_first_half_of_adms():
    model = build(**SMALL, num_classes=3)
    whole = unet.build(**SMALL, time="adm", modulates=True, residual_resample=True)
    common = {name: getattr(whole, name) for name in UNetLevels.__dataclass_fields__ if name not in ("parent", "name")}
    x, times = RNG.normal(size=(2, 4, 6, 3)).astype(np.float32), np.array([0, 970])
    shapes = init_shapes(model.init, jax.random.key(0), x, times)["params"]
    params = jax.tree.map(lambda x: RNG.normal(0, 0.3, x.shape).astype(np.float32), shapes)
    call = jax.jit(lambda *args: model.apply({"params": params}, *args))
    found = call(x, times)
    logits, features = jax.jit(FirstHalf(**common).apply)({"params": params}, x, times)
    np.testing.assert_allclose(found["logits"], logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["features"], features, rtol=1e-4, atol=1e-5)
    # Without a time images are as they are.
    plain = call(x)["logits"]
    np.testing.assert_allclose(plain[0], found["logits"][0], rtol=1e-4, atol=1e-5)
    assert np.abs(plain - found["logits"])[1].max() > 1e-3
    with pytest.raises(UserError, match="a grid of 2x2 patches, but the parameters hold positions for 2x3"):
        call(x[:, :, :4])
