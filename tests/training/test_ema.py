"""The moving average of a part of the parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.test_task_contract import BatchNormClassifier, points, run
from vit_jax import UserError
from vit_jax.checkpoints.steps import find
from vit_jax.checkpoints.store import read_params
from vit_jax.tasks import Task
from vit_jax.training.config import run_config
from vit_jax.training.state import fresh_average, variables_of
from vit_jax.training.step import make_update

RUN = {"seed": 0, "steps": 2, "batch_size": 2, "task": {}, "data": {}, "optim": {}}


def test_of_a_subtree(tmp_path):
    ema = {"decay": {"name": "linear", "start": 0.5, "end": 0.9}, "match": "head/.*"}
    run(BatchNormClassifier(), points, tmp_path, ema=ema, steps=2)
    (params, state), (average, average_state) = (read_params(find(tmp_path), p) for p in ("params", "ema"))
    jax.tree.map(np.testing.assert_array_equal, (params["encoder"], state), (average["encoder"], average_state))
    assert not np.array_equal(params["head"]["kernel"], average["head"]["kernel"])
    assert jax.tree.structure(read_params(find(tmp_path))[0]) == jax.tree.structure(params)  # the product is whole
    with pytest.raises(UserError, match=r"'hed/\.\*' in config.ema.match matches no parameter"):
        run(BatchNormClassifier(), points, tmp_path / "misspelt", ema={"decay": 0.5, "match": "hed/.*"})


def test_running_statistics_go_with_the_parameters_of_their_module():
    leaf = np.ones(2)
    state = {"params": {"encoder": {"scale": leaf}, "head": {"kernel": leaf}},
             "model_state": {"batch_stats": {"encoder": {"mean": leaf}, "head": {"mean": leaf}}}}  # fmt: skip
    frozen = jax.tree.map(lambda _: False, state["params"])
    average = fresh_average(state, frozen, ["encoder/.*"])
    assert set(average["ema"]) == set(average["ema_model_state"]["batch_stats"]) == {"encoder"}
    assert set(fresh_average(state, frozen, [".*/kernel"])) == {"ema"}
    averaged = {k: jax.tree.map(lambda x: 2 * x, v) for k, v in average.items()}
    variables = variables_of({**state, **averaged}, "ema")
    assert variables["params"]["encoder"]["scale"][0] == 2 and variables["params"]["head"]["kernel"][0] == 1
    statistics = variables["model_state"]["batch_stats"]
    assert statistics["encoder"]["mean"][0] == 2 and statistics["head"]["mean"][0] == 1


class Distance(Task):
    """The student `a` is pulled to twice what the average gives as teacher."""

    def loss(self, variables, batch, rng, step):
        params, teacher = variables["params"], variables["ema"]
        value = jnp.square(params["a"]["w"] - teacher["a"]["w"] * teacher["b"]["w"] * teacher["c"]["w"]).sum()
        return value, ({"loss": (value, jnp.float32(1))}, {})


def test_what_has_no_average_stands_in_it_without_a_gradient():
    """`a` is averaged, `b` trained alone, `c` frozen."""
    params = {name: {"w": jnp.float32(value)} for name, value in (("a", 3.0), ("b", 2.0), ("c", 5.0))}
    frozen = {"a": {"w": False}, "b": {"w": False}, "c": {"w": True}}
    tx = optax.with_extra_args_support(optax.sgd(0.1))
    trained = {"a": params["a"], "b": params["b"]}
    state = {"step": jnp.int32(0), "params": params, "model_state": {}, "opt_state": tx.init(trained)}
    state["ema"] = {"a": {"w": jnp.float32(1.0)}}
    update = make_update(Distance(), tx, on_device=lambda batch, rng: batch, frozen=frozen)
    scalars = {"seed": jnp.uint32(0), "rates": {}, "ema": {"old": jnp.float32(0.75), "new": jnp.float32(0.25)}}
    new, _, _ = update(state, {"x": jnp.ones(2)}, scalars, None)
    w = 3 - 0.1 * 2 * (3 - 1 * 2 * 5)
    assert {name: float(p["w"]) for name, p in new["params"].items()} == pytest.approx({"a": w, "b": 2.0, "c": 5.0})
    assert jax.tree.map(float, new["ema"]) == {"a": {"w": pytest.approx(0.75 + 0.25 * w)}}


class ByStatistics(Task):
    """Notes which running statistics the loss is given as those of the average."""

    def loss(self, variables, batch, rng, step):
        value = jnp.square(variables["params"]["w"]).sum()
        given = variables["ema_model_state"]["batch_stats"]
        noted = {name: (given[name]["mean"], jnp.float32(1)) for name in given}
        statistics = {"a": {"mean": jnp.float32(8)}, "b": {"mean": jnp.float32(9)}}
        return value, (noted, {"batch_stats": statistics})


def test_running_statistics_are_averaged_by_the_same_decay_and_given_to_the_loss():
    """`a` has an average, `b` none: of that the loss gets what stands in its place."""
    params, tx = {"w": jnp.float32(1)}, optax.with_extra_args_support(optax.sgd(0.1))
    of = {name: {"mean": jnp.float32(value)} for name, value in (("a", 2), ("b", 3))}
    state = {"step": jnp.int32(0), "params": params, "model_state": {"batch_stats": of}, "opt_state": tx.init(params)}
    state |= {"ema": params, "ema_model_state": {"batch_stats": {"a": {"mean": jnp.float32(4)}}}}
    update = make_update(ByStatistics(), tx, on_device=lambda batch, rng: batch, frozen={"w": False})
    scalars = {"seed": jnp.uint32(0), "rates": {}, "ema": {"old": jnp.float32(0.75), "new": jnp.float32(0.25)}}
    new, metrics, _ = update(state, {"x": jnp.ones(2)}, scalars, None)
    assert (float(metrics["a"][0]), float(metrics["b"][0])) == (4, 3)
    assert float(new["ema_model_state"]["batch_stats"]["a"]["mean"]) == 0.75 * 4 + 0.25 * 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ema": {"decay": 0.9}, "ema_decay": 0.9}, "config.ema and config.ema_decay are both set"),
        ({"ema": {"decay": 1.5}}, "config.ema.decay is 1.5"),
        ({"ema": {"deca": 0.5}}, "Did you mean 'decay'"),
        ({"ema": {"match": "head/.*"}}, "config.ema.decay"),
        ({"ema": {"decay": 0.9, "match": 3}}, "config.ema.match is 3"),
        ({"ema": 0.9}, "config.ema is 0.9"),
    ],
)
def test_mistakes_get_a_sentence(changes, message):
    with pytest.raises(UserError, match=message):
        run_config({**RUN, **changes})
