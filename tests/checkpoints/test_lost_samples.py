"""Samples that are not made of numbers are named, and the step where a diffusion lost them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.checkpoints.lost_samples import check_finite
from vit_jax.checkpoints.sampling import draw
from vit_jax.nn.diffusion import Noising, Steps, betas
from vit_jax.nn.reverse_process import Diffuses, ReverseProcess
from vit_jax.tasks import Task
from vit_jax.training.sharding import batch_sharding, make_mesh


class Losing(Diffuses, Task):
    """Its network says NaN below a timestep, of whoever is asked to be lost."""

    def reverse_process(self, variables, conditions, settings):
        def predict(x, step):
            lost = (conditions["lost"] > 0) & (step < variables["below"])
            return jnp.where(lost[:, None], jnp.nan, 0 * x)

        noising = Noising.of(betas("linear", 4), np.arange(4))
        return ReverseProcess(
            predict, noising, Steps("ddim", variance="small"), (3,), encode=lambda x: x, decode=lambda x: x
        )

    def sample(self, variables, conditions, keys, settings):
        return self.reverse_process(variables, conditions, settings).sample(keys)


def test_the_step_is_named_of_samples_on_other_devices_than_the_parameters():
    """As those of a file are, on the first one alone."""
    below = jax.device_put(np.int32(2), jax.devices()[0])
    rows = batch_sharding(make_mesh({}, jax.devices()[:2]))
    drawn = draw(Losing(), {"below": below}, None, lambda at: {"lost": np.int32(at == 2)}, np.arange(4), 0, 4, rows)
    with pytest.raises(UserError, match="Sample 2 stopped being numbers at step 3 of 4"):
        list(drawn)


@pytest.mark.parametrize(("below", "step"), [(4, 1), (2, 3)])
def test_the_step_is_named(below, step):
    task, given = Losing(), {"lost": jnp.array([0, 0, 1])}
    process = task.reverse_process({"below": below}, given, None)
    drawn = np.asarray(process.sample(jax.random.split(jax.random.key(0), 3)))
    numbers = np.array([5, 6, 7])
    with pytest.raises(UserError, match=f"Sample 7 stopped being numbers at step {step} of 4"):
        check_finite(task, {"below": below}, None, drawn, given, numbers, 0)
    check_finite(task, {"below": below}, None, drawn[:2], given, numbers[:2], 0)


def test_others_are_named_too():
    drawn = np.array([[1.0], [np.inf]])
    with pytest.raises(UserError, match="Sample 3 is not made of numbers"):
        check_finite(Task(), {}, None, drawn, {}, np.array([2, 3]), 0)
    check_finite(Task(), {}, None, np.array([[1], [2]]), {}, np.array([2, 3]), 0)
