"""A frozen trunk costs a step nothing but its forward pass: no gradient, no saved activation, no slot, no average."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
import pytest
from jaxtyping import Array, PyTree

from tests.tiny import tiny_config
from vit_jax.checkpoints.subtrees import merge, split
from vit_jax.nn.init_shapes import init_shapes
from vit_jax.training.experiment import build_experiment
from vit_jax.training.optim import frozen_mask
from vit_jax.training.parameters import leaf_names
from vit_jax.training.program import build_program
from vit_jax.training.sharding import make_mesh
from vit_jax.training.state import init_state
from vit_jax.training.step import make_update

TRUNK = ["encoder/.*"]
DROPS = {"dropout_rate": 0.1, "attention_dropout_rate": 0.1, "drop_path_rate": 0.1}
WAYS = {
    "loop": {},
    "scan": {"scan": True},
    "drops": DROPS,
    "drops in a scan": DROPS | {"scan": True},
    "remat": {"remat": "full"},
    "remat in a scan": {"remat": "full", "scan": True},
    "dots": {"remat": "dots", "dtype": "bfloat16"},
    "elementwise in a scan": {"remat": "elementwise", "dtype": "bfloat16", "scan": True},
    "recomputed": {"attention_implementation": "recomputed"},
    "recomputed in a scan": {"attention_implementation": "recomputed", "dtype": "bfloat16", "scan": True},
    "xla": {"attention_implementation": "xla", "dtype": "bfloat16"},
}


def config(depth: int, frozen: bool, **model: object) -> dict:
    values = tiny_config(batch_size=32) | {"ema_decay": 0.9}
    values["optim"] = values["optim"] | {"frozen": TRUNK if frozen else []}
    return values | {"model": values["model"] | {"depth": depth} | model}


def loss_of(depth: int, frozen: bool, model: dict) -> tuple[Callable, PyTree]:
    """The loss as a function of what is trained and of what is not, and both, as shapes."""
    task = build_experiment(config(depth, frozen, **model)).task
    batch = {"image": jnp.zeros((32, 8, 8, 3)), "label": jnp.zeros(32, jnp.int32)}
    params = init_shapes(task.init, jax.random.key(0), batch)["params"]

    def loss(trained: PyTree, fixed: PyTree) -> Array:
        variables = {"params": merge(trained, fixed), "model_state": {}}
        return task.loss(variables, batch, jax.random.key(0), 0)[0]

    return loss, split(params, frozen_mask(params, TRUNK if frozen else []))


def saved(depth: int, frozen: bool, **model: object) -> int:
    """Bytes that the backward pass of a loss finds of its forward pass."""
    loss, params = loss_of(depth, frozen, model)
    # The leaves of a backward pass are what it has kept.
    kept = jax.eval_shape(lambda trained, fixed: jax.vjp(lambda t: loss(t, fixed), trained)[1], *params)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))


@pytest.mark.parametrize("way", WAYS)
def test_no_activation_is_saved_however_blocks_are_run(way):
    found = saved(3, frozen=True, **WAYS[way])
    assert found == saved(1, frozen=True, **WAYS[way])
    assert found < 32 * 4 * 32 * 2  # one array of tokens in half precision


def test_a_trained_trunk_saves_activations():
    """So that the test above would see them."""
    assert saved(3, frozen=False) > 2 * saved(1, frozen=False) > 32 * 4 * 32 * 2


def temporaries(depth: int, frozen: bool) -> int:
    """Bytes that an update needs beside its arguments and results."""
    experiment = build_experiment(config(depth, frozen, scan=True))
    batch = {"image": jnp.zeros((32, 8, 8, 3)), "label": jnp.zeros(32, jnp.int32)}
    variables = init_shapes(experiment.task.init, jax.random.key(0), batch)
    mask, tx = frozen_mask(variables["params"], experiment.config.optim["frozen"]), sgd()
    state = jax.eval_shape(lambda found: init_state(found, tx, mask, None), variables)
    update = make_update(experiment.task, tx, on_device=lambda batch, rng: batch, frozen=mask)
    scalars = {"seed": jnp.uint32(0), "rates": {}}
    lowered = jax.jit(lambda state, batch: update(state, batch, scalars, None)[:2]).lower(state, batch)
    return lowered.compile().memory_analysis().temp_size_in_bytes


def sgd() -> optax.GradientTransformationExtraArgs:
    return optax.with_extra_args_support(optax.sgd(0.1))


@pytest.mark.long
def test_compiled_memory_does_not_grow_with_frozen_blocks():
    """But for their parameters, which a scan stacks in the forward pass."""
    params = loss_of(1, True, {})[1][1]["encoder"]["block_00"]
    weights = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    frozen = temporaries(12, True)
    assert frozen - temporaries(2, True) <= 10 * weights * 1.1
    assert temporaries(12, False) > 3 * frozen


def test_no_slot_and_no_average():
    experiment = build_experiment(config(1, True))
    row = experiment.pipeline.batch(0)
    raw = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in row.items()}
    mesh = make_mesh({}, jax.devices()[:1])
    state = build_program(experiment.config, experiment.task, experiment.on_device, raw, mesh).state
    assert "encoder" in state["params"]
    for name in ("opt_state", "ema"):
        names = leaf_names(state[name])
        assert names and not [name for name in names if "encoder" in name]
