"""LAMB, Lion and schedule-free AdamW: where decay, layers, groups and the mesh meet them. tests/parity has what they compute."""

import numpy as np
import pytest

from tests.three_steps import GRADIENTS, PARAMS, assert_same, trained
from vit_jax.training import optim
from vit_jax.training.parameters import leaf_names


@pytest.mark.long
@pytest.mark.parametrize("name", ["lamb", "lion", "schedule_free_adamw"])
def test_a_decay_of_the_paper_is_on_kernels_and_can_be_elsewhere(name):
    plain = {"name": name, "learning_rate": 0.1}
    without, some, all_ = (
        trained(plain | more)
        for more in ({}, {"weight_decay": 0.3}, {"weight_decay": 0.3, "weight_decay_multipliers": [[".*", 1.0]]})
    )
    np.testing.assert_array_equal(without["block"]["bias"], some["block"]["bias"])
    assert not np.allclose(without["block"]["kernel"], some["block"]["kernel"])
    assert not np.allclose(some["block"]["bias"], all_["block"]["bias"])
    np.testing.assert_array_equal(some["block"]["kernel"], all_["block"]["kernel"])
    scheduled = trained(plain | {"weight_decay": {"name": "cosine", "start": 0.3, "end": 0.3}})
    assert_same(scheduled, some)


@pytest.mark.parametrize("name", ["lamb", "lion", "schedule_free_adamw"])
def test_a_group_is_trained_as_if_it_were_alone(name):
    section = {"name": name, "learning_rate": 0.1, "weight_decay": 0.3}
    groups = [{"match": "head/.*", "name": "sgd", "learning_rate": 0.0}, {"match": ".*", **section}]
    got = trained({"groups": groups})
    alone = trained(section, *({"block": tree["block"]} if isinstance(tree, dict) else [{"block": t["block"]} for t in tree]
                               for tree in (PARAMS, GRADIENTS)))  # fmt: skip
    assert_same(got["block"], alone["block"])
    np.testing.assert_array_equal(got["head"]["kernel"], PARAMS["head"]["kernel"])


def test_lambs_step_has_the_length_of_its_parameter():
    got = trained({"name": "lamb", "learning_rate": 0.1}, gradients=GRADIENTS[:1])
    kernel = PARAMS["block"]["kernel"]
    assert np.linalg.norm(got["block"]["kernel"] - kernel) == pytest.approx(0.1 * np.linalg.norm(kernel))
    np.testing.assert_allclose(abs(got["block"]["bias"] - PARAMS["block"]["bias"]), 0.1, rtol=1e-3)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"name": "lamb"}, "0/count 0/mu/head 0/nu/head 3/count"),
        ({"name": "lion"}, "0/count 0/mu/head 2/count"),
        ({"name": "schedule_free_adamw"},
         "b1 weight_sum largest_rate inner/0/count inner/0/nu/head inner/2/0/count z/head"),
    ],
)  # fmt: skip
def test_slots_end_in_their_parameters_names(section, expected):
    """Which is how the mesh knows where to put them."""
    params = {"head": np.ones((2, 3), np.float32)}
    tx, _ = optim.build({"learning_rate": 1.0, **section}, 10, params)
    assert leaf_names(tx.init(params)) == expected.split()
